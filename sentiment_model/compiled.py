"""Loading the kernels: compiled once on a machine, then read from a cache of the user's own."""

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType


def kernels() -> ModuleType:
    """Return the compiled module ``kernels``.

    numba keeps what it compiled beside the source file, and keys it by the path of that file. A version
    is served from a folder that is new each time, and nothing may be written into it: so the source is
    compiled from a copy in ``$XDG_CACHE_HOME/sentiment-model`` (``~/.cache`` if that is not set), under
    its own digest. Where no such folder can be made, or another user may write there, it is compiled at every
    start, which takes seconds.
    """
    source = Path(__file__).with_name("kernels.py").read_bytes()
    name = f"sentiment_kernels_{hashlib.sha256(source).hexdigest()[:16]}"
    if name not in sys.modules:
        try:
            home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
            own = Path(home, "sentiment-model", name)
            try:
                _import(name, source, own)
            except (OSError, RuntimeError):
                raise
            except Exception:  # a crash can leave half a file, which numba cannot read: anew
                shutil.rmtree(own)
                _import(name, source, own)
        except (OSError, RuntimeError):  # no home, or one that is not for us alone to write
            with tempfile.TemporaryDirectory() as folder:
                _import(name, source, Path(folder))
    return sys.modules[name]


def _import(name: str, source: bytes, folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for place in filter(Path.exists, (folder, folder / "__pycache__")):
        if hasattr(os, "getuid") and (place.stat().st_uid != os.getuid() or place.stat().st_mode & 0o022):
            raise PermissionError(f"{place} is not the user's own: what others leave there is not run")
    path = folder / "kernels.py"
    if not path.exists() or path.read_bytes() != source:
        part = folder / f"{os.getpid()}.part"
        try:
            part.write_bytes(source)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # numba looks there for what it reads from the cache
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
