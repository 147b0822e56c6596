"""The proxy tells by MLflow's own sentences what went wrong: each must still be one of the installed packages."""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import mlflow
import numpy as np
import pytest
import uvicorn
from mlflow.exceptions import MlflowException

from sentiment_model import contract, pyfunc
from tests.conftest import ROOT

PROXY = (ROOT / "inference" / "service" / "haproxy.cfg").read_text()
OF_EARLIER_VERSIONS = {
    "rows; send at most",
    "Error: the texts take too much memory",
    "Error: params: explain",
}
CONDITIONS = re.findall(r"(?:\{|acl \w+) (?:var\(txn\.said\)|res\.body) -m (?:beg|sub) (.*)", PROXY)
MATCHED = {one for condition in CONDITIONS for one in re.findall(r'(?<= )"([^"]*)"', f" {condition}")}
WRAPPED = "Invalid input."  # what MLflow puts before the words of another error
OF_NUMPY = Path(np.__file__).parent / "_core" / "_exceptions.py"
WHERE = [
    *(Path(mlflow.__file__).parent / room for room in ("pyfunc", "models", "utils")),
    Path(uvicorn.__file__).parent / "protocols",
]


@cache
def sentences() -> frozenset[str]:
    """Every text in the sources of those who answer but docstrings, f-strings with their gaps."""

    def found() -> Iterator[str]:
        for path in (OF_NUMPY, *(path for room in WHERE for path in room.rglob("*.py"))):
            tree = ast.parse(path.read_text())
            docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if id(node) in docstrings:
                    continue
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                elif isinstance(node, ast.JoinedStr):
                    yield "".join(str(getattr(part, "value", "")) for part in node.values)

    return frozenset(found())


@pytest.mark.parametrize("sentence", sorted(MATCHED - OF_EARLIER_VERSIONS))
def test_the_proxy_matches_what_the_installed_packages_say(sentence: str) -> None:
    parts = [WRAPPED, sentence.removeprefix(WRAPPED).strip()] if sentence.startswith(WRAPPED) else [sentence]
    for part in filter(None, parts):
        assert any(part in known for known in sentences()), f"{part!r} is no sentence of theirs any more"


def test_the_list_is_whole() -> None:
    assert {"Failed to predict data", "Model is missing inputs", "Invalid HTTP request"} <= MATCHED
    assert MATCHED >= OF_EARLIER_VERSIONS
    assert len(MATCHED) > 20
    for limit in ("100,000", "10,000", "20,000", "2,000"):
        assert limit not in PROXY, "what a scorer says stands in the scorer"


def test_what_a_model_refuses_is_passed_on_by_the_proxy() -> None:
    (pattern,) = re.findall(r"-m reg \"(.*refused.*)\" }", PROXY)
    passes = re.compile(re.sub(r'\\(["$])', r"\1", pattern))
    said = set()
    for params, explains in (
        ({"explain": None}, True),
        ({"explain": 101}, True),
        ({"explain": 2**63 - 1}, True),
        ({"explain": 1}, False),
    ):
        with pytest.raises(MlflowException) as told:
            contract.explanations_asked(params, explains)
        said.add(told.value)
    for explained in (False, True):
        with pytest.raises(MlflowException) as told:
            contract.refuse_too_many(100_001, 100_000, explained, explained)
        said.add(told.value)
    said.add(contract.refused(pyfunc.TOO_MUCH_MEMORY))
    assert len({error.message for error in said}) == 7
    for error in said:
        answered = json.loads(error.serialize_as_json())
        assert answered["refused"] == error.message
        assert passes.search(error.serialize_as_json()), error.message
