"""A canary beside the version in Production: its share, its end by promotion, its end by itself."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from registry import canary
from tests.conftest import ROOT, until
from tests.inference.conftest import Registry, Service, load

pytestmark = [pytest.mark.haproxy, pytest.mark.medium]


@pytest.mark.real_models
def test_a_canary_gets_its_share_and_promotion_ends_it(service: Service, versions: Registry) -> None:
    service.begin(versions, 2)
    run = [sys.executable, "-m", "inference.service.canary"]
    told = subprocess.run(
        [*run, "start", "--version", "2", "--percent", "25"], cwd=ROOT, check=True, capture_output=True
    )
    assert b"version 2 gets 25 % of the requests beside version 1" in told.stdout
    service.says("CANARY: version 2 gets 25 % of the requests")
    with load(service.port) as clients:
        until(lambda: len(clients.answers) > 400, what="400 answers")
    clients.check()
    share = clients.versions()["2"] / len(clients.answers)
    assert 0.2 < share < 0.3
    assert service.metric("sentiment_canary_percent") == 25
    servers = {p.pid for p in service.model_servers(2)}
    versions.promote(2)
    service.serves(2)
    assert {p.pid for p in service.model_servers(2)} == servers, "the canary's server goes on"
    assert canary.asked(versions.client) is None
    told = subprocess.run([*run, "stop"], cwd=ROOT, check=True, capture_output=True)
    assert b"nothing to do: there is no canary" in told.stdout


@pytest.mark.real_models
@pytest.mark.large
def test_a_canary_that_is_grossly_worse_stops_by_itself(
    service: Service, versions: Registry, tmp_path: Path
) -> None:
    """It gives its own example answers, and fails on everything else."""
    versions.promote(versions.add())

    def fail_on_others(folder: Path) -> None:
        path = folder / "code" / "sentiment_model" / "pyfunc.py"
        text = path.read_text()
        where = "        errors = [row_error("
        assert where in text
        path.write_text(
            text.replace(where, "        if len(texts) == 1:\n            raise RuntimeError\n" + where)
        )

    bad = versions.forge(fail_on_others, tmp_path / "bad")
    service.start()
    service.serves(1)
    canary.start(versions.client, bad.number, 20, 1)
    service.says(f"CANARY: version {bad.number} gets 20 %")
    with load(service.port) as clients:
        service.says(f"CANARY STOPPED: version {bad.number}: ", 30)
        until(lambda: not service.metric("sentiment_canary_version"), what="the end of the canary")
        stopped = time.monotonic()
        until(lambda: clients.answers[-1][0] > stopped + 1, what="another second")
    late = [version for asked, _, version in clients.answers if asked > stopped]
    assert set(late) == {"1"}
    tag = versions.wait_for_tag(bad.number, canary.STOPPED)
    assert "of its" in tag
    assert "answers are errors" in tag
    until(lambda: canary.asked(versions.client) is None, what="the canary taken back")
