"""Digests of an artifact's files."""

import hashlib
import json
from pathlib import Path

from files import file_digest

MANIFEST, CONTENT = "manifest", "content_digest"
WRITTEN_BY_MLFLOW_AT_LOAD = "registered_model_meta"
CHANGES_WITH_EVERY_RUN = "MLmodel"  # ids and times


def digests(folder: Path) -> dict[str, str]:
    """Return the two digests of an artifact under the names of their tags.

    ``manifest`` covers path and content of every file but ``registered_model_meta``;
    ``content_digest`` also leaves out ``MLmodel``, so that the same data and settings give the same one.

    Raises
    ------
    ValueError
        If the folder holds a link or something else that is not a plain file or a folder.
    """
    lines = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path.relative_to(folder)} is not a plain file")
        if path.is_file():
            lines.append((path.relative_to(folder).as_posix(), file_digest(path)))
    lines = [line for line in lines if line[0] != WRITTEN_BY_MLFLOW_AT_LOAD]
    content = [line for line in lines if line[0] != CHANGES_WITH_EVERY_RUN]
    return {MANIFEST: _digest(lines), CONTENT: _digest(content)}


def _digest(lines: list[tuple[str, str]]) -> str:
    # JSON, so that no file name can stand for another list of files
    return hashlib.sha256(json.dumps(sorted(lines)).encode()).hexdigest()
