"""A steady load: in its second half no process of the service grows.

``make soak DURATION=1800`` holds it for half an hour, ``make test-all`` for 20 seconds.
"""

import os
import time
from pathlib import Path

import psutil
import pytest
import requests

from tests.cases import BAD, FIRST, FORMS, JSON, LAST, TEXTS, Request, as_csv, as_parquet, body
from tests.inference.conftest import Registry, Service

pytestmark = [pytest.mark.haproxy, pytest.mark.large, pytest.mark.real_models]
DURATION = float(os.environ.get("DURATION") or 20)  # seconds
RATE = 50  # requests a second
MOST_MEMORY, MOST_DESCRIPTORS = 20e6, 2

MIXED: list[Request] = [
    *[(JSON, body(inputs=[text])) for text in TEXTS.values() if len(text) < 2000],
    *[form([f'"{FIRST}"', "null", f'"{LAST}"']) for form in FORMS.values()],
    (JSON, body(inputs=[FIRST * 50] * 100)),
    (JSON, body(inputs=[FIRST * 6000])),
    (JSON, body(inputs=[FIRST], params={"explain": 20})),
    as_csv([FIRST, LAST]),
    as_parquet([FIRST, None, LAST]),
    *[(headers, sent) for headers, sent, _ in BAD.values() if len(sent) < 2000],
]


def hold(service: Service, seconds: float) -> tuple[int, dict[str, tuple[int, int]]]:
    """Ask at a steady rate; return how often, and what each process took more at the end than in the middle."""
    session = requests.Session()
    processes = {
        "supervisor": psutil.Process(service.process.pid if service.process else 0),
        "HAProxy": service.haproxy(),
        **{f"model server, {i}": process for i, process in enumerate(service.model_servers())},
    }
    sizes: dict[str, tuple[int, int]] = {}
    began, asked = time.monotonic(), 0
    while (now := time.monotonic() - began) < seconds:
        headers, sent = MIXED[asked % len(MIXED)]
        url = f"http://127.0.0.1:{service.port}/invocations"
        answer = session.post(url, data=sent, headers=headers, timeout=30)
        assert answer.status_code in (200, 400), answer.text[:200]
        asked += 1
        if not sizes and now > seconds / 2:
            sizes = {name: (one.memory_info().rss, one.num_fds()) for name, one in processes.items()}
        time.sleep(max(0.0, began + asked / RATE - time.monotonic()))
    grown = {
        name: (one.memory_info().rss - sizes[name][0], one.num_fds() - sizes[name][1])
        for name, one in processes.items()
    }
    for name, (memory, descriptors) in grown.items():
        print(f"{name}: {memory / 1e6:+.1f} MB, {descriptors:+d} descriptors in the second half")
    return asked, grown


def leaks(grown: dict[str, tuple[int, int]]) -> list[str]:
    """Which processes grew too much."""
    return [
        name
        for name, (memory, descriptors) in grown.items()
        if memory > MOST_MEMORY or descriptors > MOST_DESCRIPTORS
    ]


def test_a_steady_load_makes_nothing_grow(service: Service, versions: Registry) -> None:
    service.begin(versions)
    asked, grown = hold(service, DURATION)
    print(f"{asked:,} requests in {DURATION:.0f} s")
    assert asked > RATE * DURATION / 2
    assert not leaks(grown), grown


@pytest.mark.parametrize("leak", ["[bytearray(400_000)]", "[open('/dev/null')]"])
def test_a_model_that_leaks_is_caught(
    service: Service, versions: Registry, tmp_path: Path, leak: str
) -> None:
    def change(folder: Path) -> None:
        path = folder / "code" / "sentiment_model" / "contract.py"
        rest = path.read_text().replace(
            "    whole = value.strip(", f"    LEAK.extend({leak})\n    whole = value.strip(", 1
        )
        assert "LEAK.extend" in rest
        path.write_text(rest.replace("\n\nclass Answer", "\n\nLEAK: list = []\n\n\nclass Answer", 1))

    versions.add()
    versions.promote(versions.forge(change, tmp_path / "leaking").number)
    service.start()
    service.serves(2)
    _, grown = hold(service, 8)
    assert any("model server" in name for name in leaks(grown)), grown
