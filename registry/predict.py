"""A program: score the texts of a JSON file with the model in a folder, and write the answers to another file.

It does what `mlflow models predict` does in a third of the time: that loads MLflow's commands and servers, and compares the
pins with what is installed. It runs by its path, in a process of its own, and imports no room.
"""

import atexit
import gc
import json
import sys
from pathlib import Path


def predict(copy: str, asked: Path, answered: Path) -> None:
    """Score a list of texts with the model in the folder ``copy``; write the list of its answers."""
    import mlflow
    import pandas as pd

    model = mlflow.pyfunc.load_model(copy, suppress_warnings=True)
    texts = pd.DataFrame({"text": json.loads(asked.read_text())})
    answered.write_text(json.dumps(model.predict(texts)))


if __name__ == "__main__":
    atexit.register(
        gc.freeze
    )  # else Python looks for garbage in all that MLflow loaded, for a second or more
    predict(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
