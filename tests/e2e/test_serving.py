"""`mlflow models serve` on the Production version, asked over HTTP in every form it documents."""

import math
import socket
from pathlib import Path

import click
import pytest
import requests
from click.testing import CliRunner

import inference.serve
import inference.service.follow
from tests.conftest import Project, free_port, running, until

pytestmark = pytest.mark.medium

GOOD = "A wonderful film."
JSON = {"Content-Type": "application/json"}
CSV = {"Content-Type": "text/csv"}


def ask(url: str, headers: dict[str, str], body: str) -> list[dict[str, object]]:
    response = requests.post(f"{url}/invocations", headers=headers, data=body.encode(), timeout=30)
    assert response.status_code == 200, response.text
    rows: list[dict[str, object]] = response.json()["predictions"]
    return rows


FORMS = {
    "inputs": (JSON, '{"inputs": ["A wonderful film."]}'),
    "inputs by column": (JSON, '{"inputs": {"text": ["A wonderful film."]}}'),
    "dataframe_split": (JSON, '{"dataframe_split": {"columns": ["text"], "data": [["A wonderful film."]]}}'),
    "dataframe_records": (JSON, '{"dataframe_records": [{"text": "A wonderful film."}]}'),
    "instances": (JSON, '{"instances": ["A wonderful film."]}'),
    "instances by record": (JSON, '{"instances": [{"text": "A wonderful film."}]}'),
    "csv": (CSV, "text\nA wonderful film.\n"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_request_form_gives_the_same_answer(url: str, form: str) -> None:
    (row,) = ask(url, *FORMS[form])
    (first,) = ask(url, *FORMS["inputs"])
    assert row == first
    assert set(row) == {"sentiment", "confidence", "error"}
    assert row["sentiment"] == "positive"
    assert 0.9 < float(str(row["confidence"])) <= 1
    assert row["error"] is None


@pytest.mark.parametrize("form", ["inputs", "dataframe_split", "dataframe_records", "instances"])
def test_answers_are_explained_when_asked(url: str, form: str) -> None:
    headers, body = FORMS[form]
    (plain,) = ask(url, headers, body)
    (row,) = ask(url, headers, body[:-1] + ', "params": {"explain": 3}}')
    explanation = row.pop("explanation")
    assert row == plain
    assert isinstance(explanation, dict)
    assert len(explanation["ngrams"]) == 3
    named = sum(one["contribution"] for one in explanation["ngrams"])
    assert explanation["bias"] + named + explanation["rest"] == pytest.approx(
        explanation["log_odds"], abs=1e-9
    )
    confidence = 1 / (1 + math.exp(-explanation["log_odds"]))
    assert confidence == pytest.approx(row["confidence"], abs=1e-12)


def test_a_bad_row_has_no_explanation(url: str) -> None:
    rows = ask(url, JSON, '{"inputs": ["A wonderful film.", " "], "params": {"explain": 1}}')
    assert [set(row) for row in rows] == [{"sentiment", "confidence", "error", "explanation"}] * 2
    assert rows[1]["explanation"] is None


@pytest.mark.parametrize("explain", ["-1", "101", "1.5", '"three"', "null", "[1]", "true", "1e400"])
def test_a_wrong_number_of_explanations_is_a_clear_400(url: str, explain: str) -> None:
    body = f'{{"inputs": ["A wonderful film."], "params": {{"explain": {explain}}}}}'
    response = requests.post(f"{url}/invocations", headers=JSON, data=body, timeout=30)
    assert response.status_code == 400, response.text
    assert "explain" in response.json()["message"]
    assert "stack_trace" not in response.text


def test_a_text_without_a_known_ngram_is_answered(url: str) -> None:
    one, other = ask(url, JSON, '{"inputs": ["zxqvjk", "qqqq wwww"]}')
    assert one == other
    assert one["sentiment"] in {"positive", "negative"}
    assert 0.5 <= float(str(one["confidence"])) < 0.7


def test_make_serve_verifies_and_serves(project: Project) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    command = ["make", "serve", f"PORT={url.rsplit(':', 1)[1]}"]
    with running(command, f"{url}/ping", project.folder, project.environment):
        (row,) = ask(url, *FORMS["inputs"])
        assert row["sentiment"] == "positive"

    def gone() -> bool:  # make ends a moment before the server that it started
        try:
            return not requests.get(f"{url}/ping", timeout=2)
        except requests.ConnectionError:
            return True

    until(gone, 10, "the end of the server")


@pytest.mark.parametrize(
    "command", [inference.serve.main, inference.service.follow.main], ids=["serve", "follow"]
)
@pytest.mark.parametrize("workers", ["x", "0", "-1", "1.5", "999"])
def test_a_wrong_number_of_workers_is_one_line(
    command: click.Command, workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_MODELS_WORKERS", workers)
    told = CliRunner().invoke(command, [])
    assert told.output == (
        f"Error: MLFLOW_MODELS_WORKERS is '{workers}'; expected a whole number from 1 to 256\n"
    )
    assert told.exit_code == 1


def test_make_serve_on_a_taken_port_says_so(project: Project) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = project.make("serve", f"PORT={port}", code=2)
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use); give another port: PORT=n" in told


def test_the_end_of_make_run_asks_and_stops(project: Project) -> None:
    told = project.run("python", "-m", "inference.smoke")
    assert '"sentiment": "positive"' in told
    assert "is in Production. Next:" in told


@pytest.mark.large
def test_changed_files_are_neither_served_nor_judged_nor_promoted(project: Project, tmp_path: Path) -> None:
    csv = tmp_path / "mine.csv"
    csv.write_text("text,label\na film,1\nanother film,0\n")
    client = project.client()
    serving = client.get_model_version_by_alias("SentimentClassifier", "production").version
    entry = Path(client.get_model_version_download_uri("SentimentClassifier", str(serving)), "entry.py")
    before = entry.read_text()
    try:
        entry.write_text("open('canary', 'w')\n" + before)
        for module in ("inference.smoke", "inference.serve", "training.promote", "training.evaluate"):
            options = ["--version", str(serving)] if module.startswith("training") else []
            options += ["--source", str(csv)] if module == "training.evaluate" else []
            told = project.run("python", "-m", module, *options, code=1)
            assert "is not what was registered" in told, module
        assert not (project.folder / "canary").exists()
    finally:
        entry.write_text(before)
