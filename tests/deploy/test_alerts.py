"""Alert rules, dashboard and runbook agree with each other and with what a real service shows to a real Prometheus."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from mlflow.tracking import MlflowClient

from tests.conftest import ROOT, copy_project, free_port, until, until_answered
from tests.inference.conftest import Registry, Service
from training.train import Candidate

PROMETHEUS = ROOT / "deploy" / "prometheus"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "follow.json").read_text())
GROUPS = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
CASES = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
QUERIES = [
    (panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", [])
]
# nothing stands there while all is well
EMPTY_WHEN_WELL = {"sentiment_refused{}", "sentiment_canary_version{} > 0"}


def needs(*programs: str) -> pytest.MarkDecorator:
    # Debian keeps some where only root looks
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


promtool = needs("promtool")
live = needs("haproxy", "prometheus", "curl")
pytestmark = pytest.mark.haproxy


@promtool
@pytest.mark.parametrize(
    "command",
    [
        ["check", "rules", "--lint-fatal", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
        ["check", "config", "prometheus.yml"],
    ],
    ids=" ".join,
)
def test_promtool_finds_no_fault(command: list[str]) -> None:
    done = subprocess.run(
        ["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_must_not(alert: str) -> None:
    fires = []
    for case in CASES:
        checks = [check for check in case["alert_rule_test"] if check["alertname"] == alert]
        if checks:
            fires.append(any(check.get("exp_alerts") for check in checks))
    assert True in fires
    assert False in fires


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_what_is_seen_how_bad_it_is_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"page", "ticket", "info"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{alert.lower()}"
    section = RUNBOOK.split(f"\n### {alert}\n\n")[1].split("\n#")[0]
    assert section.startswith(f"*{rule['labels']['severity']}.*"), "the runbook gives another severity"
    for said in ("**Users now:**", "**Check:**", "**Do", "**Over"):
        assert said in section, f"the runbook does not say {said}"


def test_every_alert_of_the_runbook_is_a_rule() -> None:
    assert re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE) == list(ALERTS)
    assert set(re.findall(r"\bSentiment(?!Classifier)\w+", RUNBOOK)) <= ALERTS.keys()


def test_the_dashboard_can_be_read_by_grafana() -> None:
    """As far as that can be told without one: ids, places and data sources."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24
                assert (x, y) not in taken, f"{panel['title']} lies on another panel"
                taken.add((x, y))
        for part in [panel, *panel["targets"]]:
            assert part["datasource"] == {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["DS_PROMETHEUS"]["type"] == "datasource"
    used = set(re.findall(r"\$(?!__)(\w+)", " ".join(query for _, query in QUERIES)))
    assert used <= variables.keys()


def in_prometheus(query: str) -> str:
    """A query of the dashboard with its variables filled in."""
    return query.replace("$__rate_interval", "1m").replace('instance=~"$instance"', "").replace(",}", "}")


@contextmanager
def prometheus(metrics_port: int) -> Iterator[str]:
    """A Prometheus with our configuration and rules, that waits seconds where ours wait minutes."""
    folder = Path(tempfile.mkdtemp(prefix="prometheus-"))
    rules = (PROMETHEUS / "alerts.yml").read_text()
    (folder / "alerts.yml").write_text(re.sub(r"for: \d+m", "for: 1s", rules))
    configuration = (PROMETHEUS / "prometheus.yml").read_text()
    for shipped, here in ((": 15s", ": 1s"), ("127.0.0.1:8404", f"127.0.0.1:{metrics_port}")):
        assert shipped in configuration
        configuration = configuration.replace(shipped, here)
    (folder / "prometheus.yml").write_text(configuration)
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address={address}", "--log.level=warn"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        until_answered(process, f"http://{address}/-/ready")
        yield f"http://{address}/api/v1"
    finally:
        process.kill()
        process.wait(10)
        shutil.rmtree(folder)


def alerts(api: str) -> dict[str, str]:
    """The alerts that Prometheus has, with their states."""
    found = requests.get(f"{api}/alerts", timeout=10).json()["data"]["alerts"]
    return {alert["labels"]["alertname"]: alert["state"] for alert in found}


def answer(api: str, query: str) -> list[Any]:
    """The series that a query finds."""
    found = requests.get(f"{api}/query", params={"query": query}, timeout=10).json()
    assert found["status"] == "success", (query, found)
    return list(found["data"]["result"])


@pytest.fixture
def service(store: MlflowClient) -> Iterator[Service]:
    """A real follower; no version is in Production yet."""
    made = Service(os.environ["MLFLOW_TRACKING_URI"])
    try:
        made.start()
        until(lambda: shown(made), what="metrics of HAProxy and of the supervisor")
        yield made
    finally:
        made.end()


def shown(service: Service) -> set[str]:
    """The names of all metrics that it shows; none while one of both pages is missing."""
    names: set[str] = set()
    for path in ("/metrics", "/metrics/supervisor"):
        try:
            page = requests.get(f"http://127.0.0.1:{service.metrics_port}{path}", timeout=5)
        except requests.ConnectionError:
            return set()
        if not page.ok:
            return set()
        names |= set(re.findall(r"^# TYPE (\S+) ", page.text, re.MULTILINE))
    return names


@live
def test_every_metric_that_is_named_exists(service: Service) -> None:
    there = shown(service)
    texts = {f"alert {name}": rule["expr"] for name, rule in ALERTS.items()}
    texts |= {f"panel {title}: {query}": query for title, query in QUERIES}
    texts |= {"runbook": RUNBOOK}
    for where, text in texts.items():
        for name in re.findall(r"\b(?:haproxy|process|sentiment)_[a-z0-9_]*[a-z0-9]\b", text):
            assert name in there, (where, name)


@live
@pytest.mark.large
def test_not_ready_fires_until_a_version_is_promoted(
    service: Service, store: MlflowClient, candidate: Candidate, tmp_path: Path
) -> None:
    """The alert goes from firing to gone; then every panel has data and every command of the runbook works."""
    with prometheus(service.metrics_port) as api:
        # 1. nothing is in Production
        until(lambda: alerts(api).get("SentimentNotReady") == "firing", what="the alert")
        assert service.ready()[0] == 503
        assert set(alerts(api)) == {"SentimentNotReady"}

        # 2. a version is
        registry = Registry(store, candidate)
        registry.promote(registry.add())
        service.says(
            "SERVING: version 1"
        )  # its log, since asking /ready again and again is a share of errors
        for _ in range(20):
            assert service.ask().status_code == 200
        until(lambda: not alerts(api), what="the end of all alerts")

        # 3. every panel has data
        def empty() -> list[str]:
            queries = [in_prometheus(query) for _, query in QUERIES]
            return [q for q in queries if q not in EMPTY_WHEN_WELL and not answer(api, q)]

        until(lambda: not empty(), what="data in every panel")
        (mean,) = answer(
            api, 'sum(haproxy_server_http_responses_total{proxy="models",server="1",code="2xx"})'
        )
        assert float(mean["value"][1]) == 20

        # 4. every block of commands in the runbook runs as it stands there, but for ports and folder
        project = copy_project(tmp_path / "project")
        project.environment["MLFLOW_TRACKING_URI"] = os.environ["MLFLOW_TRACKING_URI"]
        told = {}
        blocks = re.findall(r"^```sh\n(.*?)^```", RUNBOOK, re.MULTILINE | re.DOTALL)
        for block in blocks:
            command = block.replace("~/.local/state/sentiment-model/8000", str(service.state))
            command = command.replace(":8000/", f":{service.port}/").replace(
                ":8404/", f":{service.metrics_port}/"
            )
            told[block] = project.run("bash", "-euo", "pipefail", "-c", command)
        assert len(told) == 6
        first, _, counted, _, percentiles, _ = told.values()
        assert '{"ready": true, "version": "1"}' in first
        assert "sentiment_version_served 1.0" in first
        assert "Production" in first
        assert "20 200 -- 1 /invocations" in counted
        (row,) = [line.split() for line in percentiles.splitlines() if line.startswith("1 ")]
        assert float(row[1]) == 20
