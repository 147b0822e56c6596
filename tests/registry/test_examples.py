"""Whether a loaded version is itself: its answers to the example texts that it carries."""

from pathlib import Path
from typing import Any

import pytest

from registry.errors import RegistryError
from registry.examples import compare, read_examples

EXAMPLES: list[dict[str, Any]] = [
    {"text": "A wonderful film.", "sentiment": "positive", "confidence": 0.9},
    {"text": "Dull.", "sentiment": "negative", "confidence": 0.8},
]


def test_a_version_that_gives_its_example_answers_is_itself() -> None:
    compare(EXAMPLES, [one | {"confidence": one["confidence"] + 9e-7} for one in EXAMPLES])


@pytest.mark.parametrize(
    "answers",
    [
        None,
        EXAMPLES[:1],
        [EXAMPLES[0], EXAMPLES[1] | {"sentiment": "positive"}],
        [EXAMPLES[0], EXAMPLES[1] | {"confidence": 0.8 + 2e-6}],
        [EXAMPLES[0], EXAMPLES[1] | {"confidence": None}],
        [EXAMPLES[0], {}],
        [EXAMPLES[0], "negative"],
    ],
)
def test_one_that_gives_other_answers_is_not(answers: Any) -> None:
    with pytest.raises(RegistryError, match=r"its example texts|its own example answers, first for 'Dull\.'"):
        compare(EXAMPLES, answers)


def test_one_that_carries_none_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="carries no example answers"):
        read_examples(tmp_path)
