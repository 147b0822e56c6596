"""The rule that stops a canary, on made-up answers and on log lines as the proxy writes them."""

import json
import random
from pathlib import Path

import pytest

from inference.service.judge import RequestLog, Sample, grossly_worse


def sample(answers: int, ms: float = 2.0, errors: int = 0) -> Sample:
    return Sample(answers, errors, [ms] * (answers - errors))


@pytest.mark.parametrize(
    ("canary", "production"),
    [
        (sample(0), sample(0)),
        (sample(49, errors=49), sample(1000)),
        (sample(1000, errors=4), sample(9000)),
        (sample(1000, errors=49), sample(9000)),
        (sample(1000, errors=400), sample(9000, errors=3600)),
        (sample(99, ms=5000), sample(9000)),
        (sample(1000, ms=21.0), sample(9000, ms=2.0)),
        (sample(1000, ms=290.0), sample(9000, ms=100.0)),
    ],
    ids=[
        "nothing known",
        "too few answers for errors",
        "four errors",
        "under five percent",
        "clients' own errors come to both",
        "too few answers for latency",
        "three times as slow, but milliseconds",
        "slower, not grossly",
    ],
)
def test_a_canary_goes_on(canary: Sample, production: Sample) -> None:
    assert grossly_worse(canary, production) is None


def test_errors_stop_it_with_the_figures() -> None:
    told = grossly_worse(sample(60, errors=6), sample(600, errors=6))
    assert told == "6 of its 60 answers are errors (10.0%), beside 1.0% of 600"


def test_four_errors_of_few_answers_do_not_stop_it_and_five_do() -> None:
    assert grossly_worse(sample(60, errors=4), sample(600)) is None
    assert grossly_worse(sample(60, errors=5), sample(600)) is not None


def test_slowness_stops_it_with_the_figures() -> None:
    told = grossly_worse(sample(100, ms=50.0), sample(900, ms=2.0))
    assert told == "its median is 50.0 ms over 100 answers, beside 2.0 ms over 900"


def test_a_noisy_p99_does_not_trip_it() -> None:
    """A thousand times: the same distribution for both, one answer in fifty takes up to two seconds."""
    dice = random.Random(0)

    def noisy(answers: int) -> Sample:
        ms = [
            dice.uniform(100, 2000) if dice.random() < 0.02 else dice.expovariate(0.5) for _ in range(answers)
        ]
        return Sample(answers, sum(dice.random() < 0.002 for _ in ms), ms)

    assert not [told for _ in range(1000) if (told := grossly_worse(noisy(120), noisy(1000)))]


def line(version: str, status: int = 200, ms: int = 3, endpoint: str = "/invocations") -> str:
    return json.dumps({"endpoint": endpoint, "status": status, "server_ms": ms, "version": version}) + "\n"


def test_the_log_is_read_from_where_it_stood(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(line("1") * 7)
    log = RequestLog(path)
    assert not log.read()
    with path.open("a") as file:
        file.write(line("1") + line("2", 500) + line("3") + line("2", 429) + line("1", endpoint="/ready"))
        file.write("not json\n" + line("") + line("2", ms=9)[:10])
        file.flush()
        assert log.read()
        assert (log.sample(1).answers, log.sample(2).answers) == (1, 1)
        assert log.sample(2).error_share == 1.0
        file.write(line("2", ms=9)[10:])
    assert log.read()
    assert log.sample(2).ms == [9.0]


def test_a_log_that_was_cut_off_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(line("1") * 7)
    log = RequestLog(path)
    path.write_text(line("1"))
    log.read()
    assert log.sample(1).answers == 1


def test_a_burst_of_bad_requests_long_ago_does_not_stop_a_canary(tmp_path: Path) -> None:
    """Both versions are judged by the same stretch of time, although one answers nine times as much."""
    path = tmp_path / "requests.jsonl"
    path.touch()
    log = RequestLog(path)
    for status in (400, 200):
        with path.open("a") as file:
            for i in range(10_000):
                file.write(line("2" if i % 10 == 0 else "1", status))
        log.read()
        assert grossly_worse(log.sample(2), log.sample(1)) is None
    assert log.sample(2).error_share == log.sample(1).error_share == 0.5
