"""The arrows between the rooms, as the code has them."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

MAY_IMPORT = {
    "sentiment_model": set(),
    "data": set(),
    "registry": set(),
    "spark": set(),
    "training": {"data", "sentiment_model", "registry", "spark"},
    "inference": {"registry", "spark"},
}


def imported(path: Path) -> set[str]:
    """The top-level packages that a module imports absolutely."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    modules = list((ROOT / room).glob("*.py"))
    assert modules
    for module in modules:
        ours = imported(module) & MAY_IMPORT.keys() - {room}
        assert ours <= MAY_IMPORT[room], module


def test_every_room_is_in_the_image() -> None:
    let_in = {
        line[1:].split("/")[0]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert let_in >= MAY_IMPORT.keys()


def test_what_ships_imports_its_own_modules_relatively() -> None:
    for module in (ROOT / "sentiment_model").glob("*.py"):
        assert "sentiment_model" not in imported(module), module


def test_only_one_file_calls_stages() -> None:
    for room in MAY_IMPORT:
        for module in (ROOT / room).glob("*.py"):
            if "transition_model_version_stage" in module.read_text():
                assert module == ROOT / "registry" / "stages.py"


def test_nothing_of_ours_unpickles() -> None:
    for room in MAY_IMPORT:
        for module in (ROOT / room).glob("*.py"):
            text = module.read_text()
            for call in ("pickle.load", "cloudpickle.load", "joblib.load", "allow_pickle"):
                assert call not in text, (module, call)
