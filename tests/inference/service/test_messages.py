"""The proxy tells by MLflow's own sentences what went wrong: each must still be one of the installed packages."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import mlflow
import numpy as np
import pytest
import uvicorn

from sentiment_model.contract import REFUSED
from tests.conftest import ROOT

PROXY = (ROOT / "inference" / "service" / "haproxy.cfg").read_text()
CONDITIONS = re.findall(r"\{ (?:var\(txn\.said\)|res\.body) -m (?:beg|sub) (.*?) \}", PROXY)
MATCHED = sorted({sentence for condition in CONDITIONS for sentence in re.findall(r'"([^"]*)"', condition)})
WRAPPED = "Invalid input."  # what MLflow puts before the words of another error
OF_NUMPY = Path(np.__file__).parent / "_core" / "_exceptions.py"
WHERE = [
    *(Path(mlflow.__file__).parent / room for room in ("pyfunc", "models", "utils")),
    Path(uvicorn.__file__).parent / "protocols",
]


@cache
def sentences() -> frozenset[str]:
    """Every text in the sources of those who answer, f-strings with their gaps."""

    def found() -> Iterator[str]:
        for path in (OF_NUMPY, *(path for room in WHERE for path in room.rglob("*.py"))):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                elif isinstance(node, ast.JoinedStr):
                    yield "".join(str(getattr(part, "value", "")) for part in node.values)

    return frozenset(found())


@pytest.mark.parametrize("sentence", MATCHED)
def test_the_proxy_matches_what_the_installed_packages_say(sentence: str) -> None:
    parts = [WRAPPED, sentence.removeprefix(WRAPPED).strip()] if sentence.startswith(WRAPPED) else [sentence]
    for part in filter(None, parts):
        assert any(part in known for known in sentences()), f"{part!r} is no sentence of theirs any more"


def test_the_proxy_repeats_nothing_of_a_model() -> None:
    """A limit or a message of a scorer stands there and nowhere else: the proxy passes on what has the prefix."""
    assert len(MATCHED) > 15
    assert f"Error: {REFUSED}" in PROXY
    for ours in ("explain is", "rows; send", "too much memory; send", "100,000", "10,000", "20,000", "2,000"):
        assert ours not in PROXY
