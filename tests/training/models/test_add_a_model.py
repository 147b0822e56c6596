"""docs/add-a-model.md, done as it is written."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, copy_project

pytestmark = pytest.mark.large

PAGE = (ROOT / "docs" / "add-a-model.md").read_text()


def test_a_model_that_is_added_as_the_page_says_keeps_the_contract(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    (diff,) = re.findall(r"^```diff\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=project.folder, check=True)
    modules = re.findall(r"^```python\n# (\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in modules] == ["training/models/bayes.py", "sentiment_model/bayes.py"]
    for name, text in modules:
        (project.folder / name).write_text(text)
    (commands,) = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    docs, run, contract = commands.splitlines()

    project.make(*docs.split()[1:])
    assert "| `smoothing` | `1.0` |" in (project.folder / "docs" / "reference.md").read_text()
    told = project.run(*run.split(), "-P", "promote=never")
    assert "registered: SentimentClassifier version 1" in told
    told = project.run(*contract.split(), "tests/test_rooms.py", "tests/training/test_parameters.py", "-n0")
    assert re.search(r"= \d\d+ passed, \d+ deselected in ", told), told
