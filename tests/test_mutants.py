"""The list of bugs that the tests are to find: it fits the code and the tests as they are."""

import re
from collections import Counter

import pytest

from tests.conftest import ROOT
from tests.mutants import Mutant, mutants

LIST = mutants()


def test_every_room_has_bugs() -> None:
    rooms = Counter(mutant.id.split("-")[0] for mutant in LIST)
    assert sum(rooms.values()) == len({mutant.id for mutant in LIST}) >= 60
    assert {room for room, count in rooms.items() if count >= 8} == {
        "data",
        "deploy",
        "inference",
        "model",
        "registry",
        "spark",
        "training",
    }


@pytest.mark.parametrize("mutant", LIST, ids=lambda mutant: mutant.id)
def test_a_bug_fits_the_code_and_names_tests_that_exist(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1, (
        "the line has changed: choose another bug there"
    )
    assert mutant.old != mutant.new
    assert mutant.why
    for test in mutant.tests:
        path, _, name = test.partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), test
