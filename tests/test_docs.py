"""The documents say what is there, and all of it."""

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cases import tables
from tests.conftest import ROOT, Project
from tests.docs import with_table
from tests.test_environments import TOGETHER

pytestmark = pytest.mark.medium

API = (ROOT / "docs" / "api.md").read_text()
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text()
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text()
DOCUMENTED = re.findall(r"^([a-z][A-Za-z0-9-]*):.*##", MAKEFILE, re.MULTILINE)
TARGETS = {*DOCUMENTED, *(f"env-{extra}" for extra in TOGETHER)}
ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]


@pytest.mark.parametrize("target", DOCUMENTED)
def test_every_make_target_is_in_the_reference(target: str) -> None:
    assert re.search(rf"`make {target}\b", REFERENCE), f"docs/reference.md has no line for `make {target}`"


def test_every_target_the_documents_name_exists() -> None:
    for document in PAGES:
        for target in re.findall(
            r"(?:`|^\$ |&& |^)make ([a-z][A-Za-z0-9-]+)\b", document.read_text(), re.MULTILINE
        ):
            assert target in TARGETS, (document.name, target)


def test_every_target_has_a_line_of_help() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony
    assert set(phony[1].split()) == set(DOCUMENTED)


@pytest.mark.parametrize("variable", re.findall(r"^([A-Z_]+) \?=", MAKEFILE, re.MULTILINE))
def test_every_make_variable_is_in_the_reference(variable: str) -> None:
    assert f"`{variable}" in REFERENCE, f"docs/reference.md has no line for {variable}"


@pytest.mark.parametrize(
    ("entry", "parameter"),
    [(entry, name) for entry, spec in ENTRY_POINTS.items() for name in spec["parameters"]],
)
def test_every_mlproject_parameter_is_in_the_reference(entry: str, parameter: str) -> None:
    section = REFERENCE.split("## MLproject entry points")[1].split("\n## ")[0]
    (row,) = [line for line in section.splitlines() if line.startswith(f"| `{entry}` |")]
    default = ENTRY_POINTS[entry]["parameters"][parameter].get("default")
    said = parameter if default is None else f"{parameter}={default}"
    assert f"`{said}`" in row, f"docs/reference.md does not say {entry} {said}"


def test_the_table_of_parameters_is_that_of_the_code() -> None:
    assert with_table(REFERENCE) == REFERENCE, "run 'make docs'"
    assert "| `ngram_max` |" in REFERENCE


def test_the_messages_that_are_explained_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    code = "".join(
        path.read_text()
        for path in [ROOT / "Makefile", *ROOT.glob("[a-z]*.py"), *ROOT.glob("[a-z]*/**/*.py")]
        if not path.is_relative_to(ROOT / "tests")
    )
    messages = re.findall(r"^\| (`.*?`)(?: with (`.*?`))? \|", page, re.MULTILINE)
    assert len(messages) == 12
    known = {"Could not find the pyenv binary"}  # MLflow's
    for message in {part.strip("`") for pair in messages for part in pair if part} - known:
        pattern = (
            re.escape(message).replace("SentimentClassifier", r"\{\w+\}").replace("Production", r"\{\w+\}")
        )
        pattern = pattern.replace("200", r"\{[\w.]+\}")
        assert re.search(pattern, code), message


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_page_says_whom_it_is_for(page: Path) -> None:
    if page.parent.name != "benchmarks" and page.name != "README.md":
        assert re.match(r"# .*\n\nFor ", page.read_text()), page


def test_every_path_that_contributors_are_told_is_there() -> None:
    for path in re.findall(
        r"`([\w/]+(?:/|\.py|\.md|\.toml|\.cfg|\.yml))`", (ROOT / "CONTRIBUTING.md").read_text()
    ):
        assert (ROOT / path).exists() or "NAME" in path, path


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for page in PAGES:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", page.read_text()):
            linked = page.parent / target if target else page
            assert linked.exists(), (page.name, target)
            if anchor and linked.suffix == ".md":
                titles = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
                assert anchor in anchors, (page.name, target, anchor)


def test_the_python_of_the_readme_runs(project: Project) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    *before, last = code.strip().splitlines()
    told = project.run("python", "-c", "\n".join([*before, f"print({last})"]))
    assert "'sentiment': 'positive'" in told
    assert "'sentiment': 'negative'" in told


def test_the_request_forms_of_the_documents_are_answered(url: str) -> None:
    """Each curl command, word for word but for the port, against the server that it describes."""
    serving = (ROOT / "docs" / "serving.md").read_text()
    commands = re.findall(r"^curl -X POST .*(?:\n +.*)*", README + serving, re.MULTILINE)
    assert len(commands) == 8
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
