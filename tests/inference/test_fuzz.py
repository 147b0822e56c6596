"""Generated requests through the real proxy to a real model server: each is answered or refused in order, and none is a 5xx.

``make fuzz REQUESTS=100000`` sends that many; ``make test-all`` a few of each kind. What was ever found stands in ``tests/cases.py``
and is asked on every run.
"""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cases import CSV, FIRST, FORMS, JSON, PARQUET, TEXTS, as_csv, as_parquet, body
from tests.inference.service.test_proxy import Connection, Proxy, proxy, request

pytestmark = [pytest.mark.haproxy, pytest.mark.large]

__all__ = ["proxy"]

REQUESTS = int(os.environ.get("REQUESTS") or 1000)
FIELDS = {"sentiment", "confidence", "error"}


def some(share: float) -> Any:
    """So many of the requests."""
    return settings(
        max_examples=max(int(REQUESTS * share), 1),
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        print_blob=True,
    )


class Client:
    """A client that keeps its connection while it may."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy, self._connection = proxy, proxy.connect()

    def ask(self, sent: bytes, headers: dict[str, str] = JSON, rows: int | None = None) -> int:
        """Send a request, check all that is promised of its answer, and return the status."""
        try:
            answer = self._connection.send(request(sent, headers)).read()
        except ConnectionError:  # the one before closed it
            answer = self.renew().send(request(sent, headers)).read()
        if answer.headers["Connection"] == "close":
            self.renew()
        assert answer.status in (200, 400, 413, 415), answer.body[:500]
        if answer.status != 200:
            assert answer.message
            assert len(answer.body) < 400
            return answer.status
        told = json.loads(answer.body, parse_constant=pytest.fail)
        if isinstance(told, dict):
            assert set(told) == {"predictions"}
            told = told["predictions"]
        else:  # MLflow took it for a prompt
            assert re.search(rb"messages|prompt|input\b", sent)
        for number, row in enumerate(told):
            assert set(row) in (FIELDS, FIELDS | {"explanation"})
            if row["error"] is None:
                assert row["sentiment"] in ("positive", "negative")
                assert 0.5 <= row["confidence"] <= 1
            else:
                assert row["sentiment"] is row["confidence"] is None
                assert re.fullmatch(
                    rf"row {number}: text is ([\w ]+|'\w{{3,4}}', which is how a missing value arrives); send a non-empty string",
                    row["error"],
                )
        assert rows in (None, len(told))
        return 200

    def close(self) -> None:
        """End its connection."""
        self._connection.socket.close()

    def renew(self) -> Connection:
        """Connect anew."""
        self.close()
        self._connection = self._proxy.connect()
        return self._connection


@pytest.fixture(scope="module")
def client(proxy: Proxy, model_server: int) -> Iterator[Client]:
    """It is asked by all tests here; in the end the same process still gives the same answer."""
    (worker,) = [
        process
        for process in psutil.Process().children(recursive=True)
        if (line := process.as_dict(["cmdline"])["cmdline"])  # of a process that has ended there is none
        and f"--port {model_server} " in " ".join(line)
        and "uvicorn" in line[1]
    ]
    asked = Client(proxy)
    before = proxy.answer(body(inputs=[FIRST])).body
    descriptors, memory = worker.num_fds(), worker.memory_info().rss
    yield asked
    asked.close()
    assert worker.is_running()
    assert proxy.answer(body(inputs=[FIRST])).body == before
    assert worker.num_fds() <= descriptors + 2
    print(
        f"\nmemory of the model server: {memory / 1e6:.0f} MB, then {worker.memory_info().rss / 1e6:.0f} MB"
    )


ANY_CHARACTER = st.characters(codec=None, exclude_categories=[])  # halves of surrogate pairs too
TEXT = st.one_of(
    st.text(max_size=80),
    st.text(ANY_CHARACTER, max_size=20),
    st.sampled_from([text for text in TEXTS.values() if len(text) < 2000]),
    st.sampled_from(["None", "nan", "null", "", " ", "\0", FIRST]),
    st.builds(
        str.__mul__, st.text(ANY_CHARACTER, max_size=3), st.integers(1, 5000)
    ),  # where a step is quadratic
)
WHOLE_TEXT = st.text(max_size=80)
LEAF = st.one_of(st.none(), st.booleans(), st.integers(), st.integers(-(10**400), 10**400), st.floats(), TEXT)
KEYS = [
    "inputs",
    "instances",
    "dataframe_split",
    "dataframe_records",
    "text",
    "columns",
    "data",
    "index",
    "params",
]
KEYS += ["explain", "messages", "prompt", "input", "model", "temperature", "stream", "name"]
KEY = st.sampled_from(KEYS) | st.text(max_size=8)
VALUE = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEY, inner, max_size=4),
    max_leaves=12,
)


def dump(value: object, ascii_only: bool = True) -> bytes:
    """JSON, also of what JSON may not hold."""
    return json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass")


@some(0.3)
@given(st.sampled_from(sorted(FORMS)), st.lists(LEAF, max_size=6), st.none() | VALUE, st.booleans())
def test_values_in_every_form(
    client: Client, form: str, values: list[Any], params: Any, ascii_only: bool
) -> None:
    headers, sent = FORMS[form]([json.dumps(value, ensure_ascii=ascii_only) for value in values])
    if params is not None:
        sent = sent[:-1] + b', "params": ' + dump(params, ascii_only) + b"}"
    client.ask(sent, headers, len(values) if values or "record" not in form else None)


@some(0.1)
@given(st.sampled_from(sorted(FORMS)), st.lists(WHOLE_TEXT, min_size=1, max_size=6), st.integers(0, 100))
def test_texts_are_always_answered(client: Client, form: str, texts: list[str], explain: int) -> None:
    headers, sent = FORMS[form]([json.dumps(text) for text in texts])
    sent = sent[:-1] + b', "params": {"explain": %d}}' % explain
    assert client.ask(sent, headers, len(texts)) == 200


@some(0.25)
@given(VALUE | st.dictionaries(KEY, VALUE, max_size=3), st.booleans())
def test_any_json(client: Client, value: Any, ascii_only: bool) -> None:
    client.ask(dump(value, ascii_only))


MUTATIONS = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=4
)
WELL_FORMED = [
    *(form([json.dumps(FIRST), "null", json.dumps("é")]) for form in FORMS.values()),
    as_csv([FIRST, "", 'a "b", c']),
    as_parquet([FIRST, None, "é"]),
]


@some(0.2)
@given(st.sampled_from(WELL_FORMED), MUTATIONS, st.sampled_from([None, None, None, JSON, CSV, PARQUET, {}]))
def test_bytes_that_were_changed_on_the_way(
    client: Client,
    whole: tuple[dict[str, str], bytes],
    changes: list[tuple[int, int, bytes]],
    other: dict[str, str] | None,
) -> None:
    headers, sent = whole
    for place, kind, new in changes:
        at = place % (len(sent) + 1)
        # inserted, written over, left out, cut off
        sent = [
            sent[:at] + new + sent[at:],
            sent[:at] + new + sent[at + len(new) :],
            sent[:at] + sent[at + 1 :],
            sent[:at],
        ][kind]
    client.ask(sent, headers if other is None else other)


CELL = st.one_of(
    WHOLE_TEXT, st.sampled_from(["", "NA", '"', '""', ",", "\r", "\n", "\0", "5", "1e400", "text", "a,b"])
)


@some(0.15)
@given(
    st.lists(st.lists(CELL, max_size=3), max_size=5),
    st.sampled_from(["text\n", "id,text\n", "", "text,text\n", "\ufefftext\r\n"]),
)
def test_any_csv(client: Client, lines: list[list[str]], head: str) -> None:
    client.ask((head + "\n".join(map(",".join, lines))).encode(), CSV)
