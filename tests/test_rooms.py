"""The arrows between the rooms and between their modules, as the code has them; and how long a module may be."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

MAY_IMPORT = {
    "sentiment_model": set(),
    "cli": set(),
    "files": set(),
    "data": {"cli", "files"},
    "registry": {"cli", "files"},
    "spark": {"cli"},
    "training": {"cli", "files", "data", "sentiment_model", "registry", "spark"},
    "inference": {"cli", "files", "registry", "spark"},
}
LONGEST_MODULE, LONGEST_FUNCTION = 400, 60  # lines
# longer for a reason
LONGER = {
    "inference/batch/files.py": "readers and writers, which the issue 'Bring your own reviews' replaces",
    "inference/batch/stream.py": "which the issue 'Past one machine' rewrites",
}
LONGER_FUNCTIONS = {
    "sentiment_model/kernels.py::_known": "one loop over a text, in numba, which calls cost",
    "inference/batch/spark.py::write": "a data source of Spark is two classes within, which the issue 'Past one machine' replaces",
    "inference/batch/stream.py::run": "as the module",
}


def modules() -> dict[str, Path]:
    """Each module of the rooms by its dotted name."""
    found = {"cli": ROOT / "cli.py", "files": ROOT / "files.py"}
    for room in sorted(MAY_IMPORT.keys() - {"cli", "files"}):
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(name: str) -> set[str]:
    """The modules of ours that a module imports: at its top, in a function, or by a name in a string."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names
            }
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value} & (MODULES.keys() - MAY_IMPORT.keys())
            if name == "sentiment_model.scorers":  # it names them without their package
                found |= {f"sentiment_model.{node.value}"} & MODULES.keys()
    return (found & MODULES.keys()) - {name}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_rooms_that_it_may(name: str) -> None:
    room = name.split(".")[0]
    assert {other.split(".")[0] for other in imported(name)} - {room} <= MAY_IMPORT[room]


def cycles(arrows: dict[str, set[str]]) -> Iterator[list[str]]:
    """A way from a module back to itself, for each module that has one."""
    for start in arrows:
        ways, seen = [[start]], {start}
        while ways:
            way = ways.pop()
            for following in arrows[way[-1]]:
                if following == start:
                    yield [*way, start]
                    ways.clear()
                    break
                if following not in seen:
                    seen.add(following)
                    ways.append([*way, following])


def test_no_module_imports_itself_by_way_of_others() -> None:
    """What is imported in a function, or by name, counts."""
    assert [" -> ".join(way) for way in cycles({name: imported(name) for name in MODULES})] == []


def test_a_cycle_is_found() -> None:
    assert list(cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == [["b", "c", "b"], ["c", "b", "c"]]


def test_scoring_on_this_machine_does_not_import_spark() -> None:
    assert not {name for name in imported("inference.batch.local") if name.startswith("spark")}


def test_rolling_back_needs_the_registry_only() -> None:
    assert {name.split(".")[0] for name in imported("training.rollback")} <= {"cli", "files", "registry"}


@pytest.mark.parametrize("name", MODULES)
def test_modules_and_functions_are_short(name: str) -> None:
    path = MODULES[name]
    text, shown = path.read_text(), str(path.relative_to(ROOT))
    assert len(text.splitlines()) <= LONGEST_MODULE or shown in LONGER
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            lines -= len(
                (ast.get_docstring(node, clean=False) or "").splitlines()
            )  # they are not read as code
            assert lines <= LONGEST_FUNCTION or f"{shown}::{node.name}" in LONGER_FUNCTIONS, node.name


def test_what_is_longer_is_still_there() -> None:
    for shown in LONGER:
        assert len((ROOT / shown).read_text().splitlines()) > LONGEST_MODULE, shown
    for where in LONGER_FUNCTIONS:
        shown, name = where.split("::")
        assert f"def {name}(" in (ROOT / shown).read_text(), where


def test_every_room_is_in_the_image() -> None:
    let_in = {
        re.sub(r"[/.].*", "", line[1:])
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert let_in >= MAY_IMPORT.keys()


def test_what_ships_imports_its_own_modules_relatively() -> None:
    for module in (ROOT / "sentiment_model").glob("*.py"):
        assert not re.search(r"^\s*(from|import) sentiment_model", module.read_text(), re.MULTILINE), module


def test_only_one_file_calls_stages() -> None:
    for path in MODULES.values():
        if "transition_model_version_stage" in path.read_text():
            assert path == ROOT / "registry" / "stages.py"


def test_nothing_of_ours_unpickles() -> None:
    for path in MODULES.values():
        text = path.read_text()
        for call in ("pickle.load", "cloudpickle.load", "joblib.load", "allow_pickle"):
            assert call not in text, (path, call)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, path in MODULES.items()
        if '\nif __name__ == "__main__":' in (text := path.read_text())
        and not text.startswith('"""A program: ')  # that another process runs, not a person
    ],
)
def test_every_command_ends_errors_in_one_line(name: str) -> None:
    """All are :class:`cli.Command`, or groups of such: also a disk that is full is one line."""
    text = MODULES[name].read_text()
    made = re.findall(r"^@(\w+\.(?:command|group))\(\s*([^)]*)", text, re.MULTILINE)
    assert made
    for kind, options in made:
        assert kind.endswith("group") or "cls=Command" in options, (name, options)
