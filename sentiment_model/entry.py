"""The file that MLflow runs to load a version (models-from-code).

The package that ships with the version is imported under a name of its own. Plain
``import sentiment_model`` would give the second version loaded in a process the code of the first,
since both share ``sys.modules``.
"""

import importlib.util
import sys
import uuid
from pathlib import Path

from mlflow.models import set_model

_here = Path(__file__).resolve().parent
_shipped = _here / "code" / "sentiment_model"
_package = _shipped if _shipped.is_dir() else _here

_name = f"sentiment_model_{uuid.uuid4().hex}"
_spec = importlib.util.spec_from_file_location(
    _name, _package / "__init__.py", submodule_search_locations=[str(_package)]
)
if _spec is None or _spec.loader is None:
    raise ImportError("the artifact does not hold the package sentiment_model")
_module = importlib.util.module_from_spec(_spec)
sys.modules[_name] = _module
_spec.loader.exec_module(_module)

set_model(importlib.import_module(f"{_name}.pyfunc").SentimentModel())
