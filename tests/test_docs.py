"""The documents say what is there, and all of it."""

import ast
import json
import re
import subprocess

import pytest
import yaml

from tests.cases import tables
from tests.conftest import ROOT
from tests.test_environments import TOGETHER

pytestmark = pytest.mark.medium

API = (ROOT / "docs" / "api.md").read_text()
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text()
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
DOCUMENTED = re.findall(r"^([a-z][A-Za-z-]*):.*##", MAKEFILE, re.MULTILINE)
TARGETS = {*DOCUMENTED, *(f"env-{extra}" for extra in TOGETHER)}
ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]


@pytest.mark.parametrize("target", DOCUMENTED)
def test_every_make_target_is_in_the_readme(target: str) -> None:
    assert re.search(rf"`make {target}\b", README), f"README.md has no line for `make {target}`"


def test_every_target_the_documents_name_exists() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(
            r"(?:`|^\$ |&& |^)make ([a-z][A-Za-z-]+)\b", document.read_text(), re.MULTILINE
        ):
            assert target in TARGETS, (document.name, target)


def test_every_target_has_a_line_of_help() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony
    assert set(phony[1].split()) == set(DOCUMENTED)


@pytest.mark.parametrize("variable", re.findall(r"^([A-Z_]+) \?=", MAKEFILE, re.MULTILINE))
def test_every_make_variable_is_in_the_readme(variable: str) -> None:
    assert f"`{variable}" in README, f"README.md has no line for {variable}"


@pytest.mark.parametrize(
    ("entry", "parameter"),
    [(entry, name) for entry, spec in ENTRY_POINTS.items() for name in spec["parameters"]],
)
def test_every_mlproject_parameter_is_in_the_readme(entry: str, parameter: str) -> None:
    section = README.split("## MLproject entry points")[1].split("\n## ")[0]
    (row,) = [line for line in section.splitlines() if line.startswith(f"| `{entry}` |")]
    default = ENTRY_POINTS[entry]["parameters"][parameter].get("default")
    said = parameter if default is None else f"{parameter}={default}"
    assert f"`{said}`" in row, f"README.md does not say {entry} {said}"


def test_the_request_forms_of_the_readme_are_answered(url: str) -> None:
    """Each curl command of the README, word for word but for the port, against the server that it describes."""
    commands = re.findall(r"^curl .*(?:\n +.*)*", README, re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        command = command.replace("curl ", "curl -s ", 1).replace("localhost:5000", url)
        told = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=60).stdout
        (answered,) = json.loads(told)["predictions"]
        assert answered["error"] is None, (command, told)
        if "A wonderful film." in command:
            assert answered["sentiment"] == "positive", (command, told)
        if "explain" in command:
            assert len(answered["explanation"]["ngrams"]) == 2, (command, told)


def test_guarantees_name_tests_that_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", GUARANTEES)
    assert len(named) >= 10
    for path, test in named:
        assert f"def {test}" in (ROOT / path).read_text(), (path, test)


def tier_of(path: str, test: str) -> str:
    """Which command runs a test, as its marks say: the column `tier` of the guarantees."""
    tree = ast.parse((ROOT / path).read_text())
    marks = [
        ast.unparse(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    ]
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == test]
    marks += [ast.unparse(mark) for mark in function.decorator_list]
    told = " ".join(
        mark for mark in marks if "parametrize" not in mark
    )  # some of its parameters may wait for `all`
    return "docker" if "docker" in told else "all" if re.search("large|spark|deep", told) else "test"


def test_each_guarantee_says_in_which_tier_its_test_runs() -> None:
    rows = [line for line in GUARANTEES.splitlines() if line.startswith("| ") and "`tests/" in line]
    assert len(rows) > 100
    for row in rows:
        cells = row.split(" | ")
        at = max(number for number, cell in enumerate(cells) if "`tests/" in cell)
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", cells[at])
        tiers = {tier_of(path, test) for path, test in named}
        assert cells[at + 1].strip(" |") == ", ".join(t for t in ("test", "all", "docker") if t in tiers), row


@pytest.mark.parametrize("name", tables())
def test_the_tables_of_the_api_are_those_of_the_tests(name: str) -> None:
    (shown,) = re.findall(rf"<!-- {name} -->\n\n(.*?)\n\n<!-- end -->", API, re.DOTALL)
    assert shown == tables()[name], "docs/api.md is not up to date: 'python -m tests.cases' prints its tables"


def test_every_table_of_the_api_is_made_of_the_tests() -> None:
    assert set(re.findall(r"<!-- (\w+) -->", API)) == {*tables(), "end"}
