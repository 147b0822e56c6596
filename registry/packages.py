"""A program: print the packages of the Python that runs it, as JSON: name, version and license of each.

It is sent as text to the Python of an image, and so imports the standard library only.
"""

import csv
import importlib.metadata
import json
from pathlib import Path
from typing import Any


def packages() -> list[list[str]]:
    """Return name, version and license of each installed package, sorted by name."""
    found: dict[str, list[str]] = {}
    for package in importlib.metadata.distributions():
        # an image keeps what tells the version of pip, which MLflow asks for, and not pip
        record = csv.reader((package.read_text("RECORD") or "").splitlines())
        files = [file for file, *_ in record if ".dist-info/" not in file]
        if files and not any(Path(str(package.locate_file(file))).exists() for file in files):
            continue
        about: Any = package.metadata
        classified = [c for c in about.get_all("Classifier") or [] if c.startswith("License :: ")]
        text = (about.get("License") or "").strip()
        license_ = about.get("License-Expression") or (text if 0 < len(text) <= 60 else "")
        if not license_ and classified:
            license_ = classified[-1].rsplit(" :: ", 1)[-1]
        # of two by one name the first is what an import finds
        found.setdefault(about["Name"].lower(), [about["Name"], package.version, license_])
    return sorted(found.values())


if __name__ == "__main__":
    print(json.dumps(packages()))
