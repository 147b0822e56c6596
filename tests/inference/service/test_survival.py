"""What a follower outlives: model servers and proxies that die or hang, a registry that is gone, its own end."""

import shutil
from pathlib import Path

import pytest

from inference.server import marked
from tests.conftest import until
from tests.inference.conftest import Registry, Service, kill_worker, load

pytestmark = [pytest.mark.haproxy, pytest.mark.medium]


@pytest.mark.large
def test_a_server_that_dies_comes_back_and_requests_wait_for_it(service: Service, versions: Registry) -> None:
    service.begin(versions)
    with load(service.port) as clients:
        until(lambda: len(clients.answers) > 20, what="load")
        kill_worker(service, 1)
        service.says("DIED: version 1, failure 1")
        until(lambda: service.ready() == (503, "version 1 is being brought up"), 10, "the reason at /ready")
        service.serves(1)
        before = len(clients.answers)
        until(lambda: len(clients.answers) > before + 50, what="answers again")
    clients.check(lost=4)  # an answer that had begun, one a client at most
    assert service.metric("sentiment_server_deaths_total") == 1


def test_a_server_that_hangs_is_replaced(service: Service, versions: Registry) -> None:
    service.begin(
        versions, patch="import inference.service.supervisor\ninference.service.supervisor.PULSE_EVERY = 0.5"
    )
    with load(service.port, clients=2) as clients:
        until(lambda: len(clients.answers) > 20, what="load")
        for process in service.model_servers(1):
            process.suspend()
        service.says("HANGS: version 1")
        service.says("SERVING: version 1, before: 1")
        before = len(clients.answers)
        until(lambda: len(clients.answers) > before + 50, what="answers again")
    clients.check()


@pytest.mark.large
def test_after_kill_9_of_the_supervisor_all_goes_on_and_the_next_start_adopts_it(
    service: Service, versions: Registry
) -> None:
    service.begin(versions, 2)
    proxy, servers = service.haproxy().pid, {p.pid for p in service.model_servers()}
    with load(service.port) as clients:
        service.kill()
        assert service.ready() == (200, "1")
        service.start()
        service.says("adopted version 1, serving")
        assert service.haproxy().pid == proxy
        assert {p.pid for p in service.model_servers()} == servers
        versions.promote(2)
        service.says("bringing up version 2")
        service.kill()  # in the middle of bringing up version 2
        assert service.ready() == (200, "1")
        service.start()
        service.serves(2)
        until(lambda: {mark.get("version") for _, mark in marked(service.state)} == {None, 2}, what="no more")
    clients.check()
    until(lambda: len(service.model_servers()) == 2)


@pytest.mark.large
def test_a_folder_given_by_another_name_is_the_same_one(service: Service, versions: Registry) -> None:
    service.begin(versions)
    before = {p.pid for p in service.model_servers()}
    service.kill()
    real = service.state
    service.state = real.with_name(f"{real.name}-link")
    service.state.symlink_to(real)
    service.start()
    service.says("adopted version 1, serving")
    service.state.unlink()
    service.state = real
    assert {p.pid for p in service.model_servers()} == before


@pytest.mark.large
def test_a_proxy_that_dies_comes_back(service: Service, versions: Registry) -> None:
    service.begin(versions)
    before = {p.pid for p in service.model_servers()}
    service.haproxy().kill()
    service.says("HAPROXY IS GONE")
    service.serves(1)
    assert service.ask().headers["X-Model-Version"] == "1"
    assert {p.pid for p in service.model_servers()} == before
    assert service.metric("sentiment_ready") == 1


def test_a_start_without_the_registry_serves_the_last_good_version(
    service: Service, versions: Registry, tmp_path: Path
) -> None:
    service.begin(versions)
    assert service.stop() == 0
    gone = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    service.start(**gone)
    service.says("THE REGISTRY DOES NOT ANSWER")
    service.serves(1)
    assert service.metric("sentiment_registry_up") == 0
    assert service.stop() == 0
    # the copy on the disk is verified like any other
    entry = service.state / "versions" / "1" / "entry.py"
    entry.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + entry.read_text())
    service.start(**gone)
    service.says("REFUSED: version 1, failure 1")
    assert service.ready()[0] == 503
    assert not (tmp_path / "ran").exists()


@pytest.mark.large
def test_a_start_with_a_version_that_fails_fast_brings_the_one_before_up_at_once(
    service: Service, versions: Registry, tmp_path: Path
) -> None:
    service.begin(versions)
    two = versions.forge(lambda folder: None, tmp_path / "two")
    versions.promote(two.number)
    service.serves(two.number)
    assert service.stop() == 0
    (tmp_path / "two" / "entry.py").write_text("")
    kept = service.state / "versions" / str(two.number)
    shutil.rmtree(kept)
    kept.symlink_to(tmp_path / "two")  # no folder of ours: fetched anew, and refused
    service.start()
    service.serves(1)
    until(lambda: service.said.count("REFUSED: version 2") > 1, what="another try")
    assert service.said.count("bringing up version 1") == 2, "once in each of its lives"


@pytest.mark.large
def test_an_emptied_production_leaves_what_serves(service: Service, versions: Registry) -> None:
    service.begin(versions)
    versions.client.delete_model_version("SentimentClassifier", "1")
    service.says("in Production: version none")
    assert service.ready() == (200, "1")
    assert service.metric("sentiment_version_wanted") == 0
    assert service.ask().status_code == 200
