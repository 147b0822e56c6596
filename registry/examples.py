"""The example texts that a version carries with their answers: whoever loads it can ask whether it is itself."""

import json
from pathlib import Path
from typing import Any

from registry.errors import RegistryError

TOLERANCE = 1e-6  # of the confidence


def read_examples(copy: Path) -> list[dict[str, Any]]:
    """Return the examples of a verified copy: ``text``, ``sentiment`` and ``confidence`` of each.

    Raises
    ------
    RegistryError
        If it carries none.
    """
    found = next(copy.rglob("examples.json"), None)
    if found is None:
        raise RegistryError("the model carries no example answers; it cannot be asked whether it is itself")
    examples: list[dict[str, Any]] = json.loads(found.read_text(encoding="utf-8"))
    return examples


def compare(examples: list[dict[str, Any]], answers: Any) -> None:
    """Check that a model answers its example texts as it says, within 1e-6.

    Raises
    ------
    RegistryError
        If it does not.
    """
    if not isinstance(answers, list) or len(answers) != len(examples):
        raise RegistryError("the model does not answer each of its example texts")
    for example, answer in zip(examples, answers, strict=True):
        try:
            same = answer["sentiment"] == example["sentiment"]
            same = same and abs(answer["confidence"] - example["confidence"]) <= TOLERANCE
        except (LookupError, TypeError):
            same = False
        if not same:
            raise RegistryError(
                f"the model does not give its own example answers, first for {example['text']!r}"
            )
