"""1 to 128 clients at once, and far too many: each is answered rightly or told to wait, and then all is as before.

``DURATION=20 python -m pytest -s tests/inference/service/test_load.py`` asks so many seconds with each number of clients; ``make test-all``
a few. It prints what it measured, in the same process as the clients: the order of magnitude, no more.
"""

import asyncio
import json
import os
from collections import Counter

import numpy as np
import psutil
import pytest

from bench.load import Exchange, http_request, run_clients
from tests.cases import FIRST, FORMS, JSON, LAST, TEXTS, body
from tests.conftest import until
from tests.inference.conftest import Registry, Service, load

pytestmark = [pytest.mark.haproxy, pytest.mark.large, pytest.mark.real_models]
DURATION = float(os.environ.get("DURATION") or 2)  # seconds
SHORT = [body(inputs=[FIRST]), body(inputs=[LAST])]
MIXED = [
    *SHORT,
    *[body(inputs=[text]) for text in TEXTS.values() if len(text) < 2000],
    *[sent for headers, sent in (form([f'"{FIRST}"', "null"]) for form in FORMS.values()) if headers == JSON],
    body(dataframe_records=[{"text": FIRST * 40}] * 100),
    body(inputs=[FIRST * 6000]),
]


def ask(service: Service, bodies: list[bytes], clients: int) -> list[Exchange]:
    """So many clients ask as fast as they are answered."""
    sent = [http_request("/invocations", one) for one in bodies]
    seen, seconds = asyncio.run(run_clients(service.port, sent, clients, DURATION))
    p50, p99 = np.percentile([one.seconds for one in seen if one.status == 200], [50, 99]) * 1e3
    told = dict(Counter(one.status for one in seen))
    right = told[200] / seconds
    print(f"{clients:4} clients: {right:6.0f} answers/s, p50 {p50:7.1f} ms, p99 {p99:7.1f} ms, {told}")
    return seen


def check(seen: list[Exchange], expected: list[bytes]) -> None:
    """Each answer of status 200 is the one that the request gets when it is asked alone."""
    for one in seen:
        if one.status == 200:
            assert one.body == expected[one.which]


@pytest.mark.parametrize("workers", [1, 2])
def test_load_is_answered_overload_is_told_so_and_nothing_dies(
    service: Service, versions: Registry, workers: int
) -> None:
    versions.add()
    versions.promote(1)
    service.start(MLFLOW_MODELS_WORKERS=str(workers))
    service.serves(1)
    servers = {process.pid for process in service.model_servers()}
    print(f"\n{workers} workers, {len(servers)} processes")
    alone = [one.body for one in ask(service, MIXED, 1)[: len(MIXED)]]
    assert len(alone) == len(MIXED)
    assert all(b'"predictions"' in one for one in alone)
    for clients in (1, 8, 32, 128):
        seen = ask(service, MIXED, clients)
        assert {one.status for one in seen} == {200}
        check(seen, alone)

    before = ask(service, SHORT, 8)
    seen = ask(service, SHORT, 990)
    told = Counter(one.status for one in seen)
    assert set(told) == {200, 429}, "800 wait, 64 are asked, and the others are told to come back"
    check(seen, alone[:2])
    assert {json.loads(one.body)["error_code"] for one in seen if one.status == 429} == {
        "REQUEST_LIMIT_EXCEEDED"
    }
    after = ask(service, SHORT, 8)
    assert {one.status for one in before + after} == {200}
    check(before + after, alone[:2])
    assert {process.pid for process in service.model_servers()} == servers
    assert all(psutil.pid_exists(pid) for pid in servers)
    assert service.ready() == (200, "1")


def test_of_two_workers_one_may_die(service: Service, versions: Registry) -> None:
    versions.add()
    versions.promote(1)
    service.start(MLFLOW_MODELS_WORKERS="2")
    service.serves(1)

    def workers() -> list[psutil.Process]:
        return [p for p in service.model_servers() if "spawn_main" in " ".join(p.cmdline())]

    one, other = workers()
    with load(service.port) as clients:
        until(lambda: len(clients.answers) > 50, what="50 answers")
        one.kill()
        until(lambda: len(workers()) == 2 and one not in workers(), what="another worker")
        until(lambda: len(clients.answers) > 500, what="500 answers")
    clients.check()
    assert other in workers()
