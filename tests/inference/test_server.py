"""What a model server is asked before it serves, and how the commands around it end."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from inference.serve import stop_in_order
from inference.server import ServeError, bound_memory, compare

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
    with pytest.raises(ServeError, match=r"its example texts|its own example answers, first for 'Dull\.'"):
        compare(EXAMPLES, answers)


ANSWER = """
import mmap, sys, threading
loaded = mmap.mmap(-1, 5 * 2**30)  # as a library takes it that maps much
print("ready", flush=True)
sys.stdin.readline()
for _ in range(40):
    threading.Thread(target=print, args=("answered",)).start()
mmap.mmap(-1, 2**30)
mmap.mmap(-1, 2 * 2**30)
"""


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="only Linux bounds another process")
def test_whatever_loading_takes_answering_has_2_gib_more_and_not_3() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ANSWER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        bound_memory(psutil.Process(process.pid))
        told, errors = process.communicate("go on\n", timeout=60)
    assert told.count("answered") == 40
    assert "line 9" in errors
    assert "Cannot allocate memory" in errors


@pytest.fixture
def handlers() -> Iterator[None]:
    """Put the signal handlers of the tests back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_a_signal_ends_reports_the_signal(number: signal.Signals, handlers: None) -> None:
    stop_in_order()
    with pytest.raises(SystemExit) as ended:
        signal.raise_signal(number)
    assert ended.value.code == 128 + number
