"""The notebook of the docs: what it keeps, and that it runs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Project

TOUR = ROOT / "docs" / "tour.ipynb"


def outputs(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text())["cells"]
    return [one for cell in cells if cell["cell_type"] == "code" for one in cell["outputs"]]


def test_the_notebook_keeps_what_it_showed() -> None:
    shown = outputs(TOUR)
    assert not [one for one in shown if one["output_type"] == "error"]
    assert sum("image/png" in one.get("data", {}) for one in shown) == 2
    assert sum("text/html" in one.get("data", {}) for one in shown) == 4
    assert "promoted: SentimentClassifier version 1" in json.dumps(shown)
    assert not re.search(r"[\"\s(]/(home|root|tmp|usr|work)/", TOUR.read_text()), "a path of a machine"
    counts = [cell.get("execution_count") for cell in json.loads(TOUR.read_text())["cells"]]
    assert [count for count in counts if count] == list(range(1, len([c for c in counts if c]) + 1))


@pytest.mark.large
def test_the_notebook_runs_from_the_first_cell_to_the_last(project: Project) -> None:
    own = project.client()
    before = own.search_model_versions("name = 'SentimentClassifier'")
    project.run("jupyter", "execute", "--inplace", "docs/tour.ipynb")
    shown = outputs(project.folder / "docs" / "tour.ipynb")
    assert len(shown) == len(outputs(TOUR))
    assert "registered: SentimentClassifier version 2" in json.dumps(shown)
    after = own.search_model_versions("name = 'SentimentClassifier'")
    assert after == before, "the tour has a registry of its own"
