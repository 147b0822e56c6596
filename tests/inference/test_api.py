"""The contract of docs/api.md, asked of a real ``mlflow models serve``; what its proxy says is in test_proxy."""

import json
import random
from typing import Any

import pytest
import requests

from tests.cases import (
    BAD,
    CSV,
    FIELDS,
    FIRST,
    FORMS,
    JSON,
    LAST,
    NOT_IN_CSV,
    ODD,
    PLAIN,
    REFUSED,
    SCORED,
    TEXTS,
    TRACES,
    VALUES,
    Request,
    as_csv,
    as_parquet,
    body,
)
from tests.conftest import ROOT
from tests.inference.conftest import model_server_of

pytestmark = pytest.mark.medium

Rows = list[dict[str, Any]]


def post(port: int, request: Request) -> requests.Response:
    headers, sent = request
    return requests.post(f"http://127.0.0.1:{port}/invocations", data=sent, headers=headers, timeout=60)


def ask(port: int, request: Request) -> Rows:
    answer = post(port, request)
    assert answer.status_code == 200, answer.text[:500]
    told = answer.json()
    rows: Rows = told["predictions"] if isinstance(told, dict) else told
    return rows


def alone(port: int, text: str) -> dict[str, Any]:
    (row,) = ask(port, (JSON, body(inputs=[text])))
    assert row["error"] is None
    assert 0.5 <= row["confidence"] <= 1
    return row


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_gets_the_same_answer_in_every_form_and_place(model_server: int, text: str) -> None:
    expected = [alone(model_server, FIRST), alone(model_server, TEXTS[text]), alone(model_server, LAST)]
    texts = [FIRST, TEXTS[text], LAST]
    for turn in range(3):
        texts, expected = texts[1:] + texts[:1], expected[1:] + expected[:1]
        for name, form in FORMS.items():
            if turn == 0 or len(TEXTS[text]) < 1_000_000:
                assert ask(model_server, form([json.dumps(one) for one in texts])) == expected, name
        assert ask(model_server, as_parquet(texts)) == expected
        if text not in NOT_IN_CSV:
            assert ask(model_server, as_csv(texts)) == expected


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", VALUES)
def test_a_value_that_is_no_text_answers_in_its_row(model_server: int, value: str, form: str) -> None:
    written, *reasons = VALUES[value]
    reason = reasons[0 if form.startswith("dataframe") else 2 if " by " in form else 1]
    answer = post(model_server, FORMS[form]([json.dumps(FIRST), written, json.dumps(LAST)]))
    if reason == REFUSED:
        assert answer.status_code == 400
        return
    first, row, last = answer.json()["predictions"]
    assert (first, last) == (alone(model_server, FIRST), alone(model_server, LAST))
    assert_row(row, reason)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", VALUES)
def test_a_batch_of_nothing_but_such_values_answers_alike(model_server: int, value: str, form: str) -> None:
    written, *reasons = VALUES[value]
    reason = reasons[0 if form.startswith("dataframe") else 2 if " by " in form else 1]
    for count in (1, 2):
        answer = post(model_server, FORMS[form]([written] * count))
        if value == "a list":  # which MLflow refuses among texts alone
            reason = "text is of type list"
        elif reason == REFUSED:
            assert answer.status_code == 400
            continue
        rows = answer.json()["predictions"]
        assert len(rows) == count
        assert_row(rows[-1], reason, count - 1)


def assert_row(row: dict[str, Any], reason: str, number: int = 1) -> None:
    if reason == SCORED:
        assert row["error"] is None
        assert row["sentiment"] in {"positive", "negative"}
    else:
        expected = f"row {number}: {reason}; send a non-empty string"
        assert row == {"sentiment": None, "confidence": None, "error": expected}


@pytest.mark.parametrize("field", FIELDS)
def test_a_csv_field_that_is_no_text_answers_in_its_row(model_server: int, field: str) -> None:
    written, reason = FIELDS[field]
    first, row, last = ask(model_server, (CSV, f"text\n{FIRST}\n{written}\n{LAST}\n".encode()))
    assert (first, last) == (alone(model_server, FIRST), alone(model_server, LAST))
    assert_row(row, reason)


def test_a_null_in_parquet_answers_in_its_row(model_server: int) -> None:
    first, row, last = ask(model_server, as_parquet([FIRST, None, LAST]))
    assert (first["error"], row["error"], last["error"]) == (
        None,
        "row 1: text is null; send a non-empty string",
        None,
    )


def test_bytes_that_are_no_text_in_parquet_answer_in_their_row(model_server: int) -> None:
    headers, sent = as_parquet([FIRST, "é", LAST])
    assert "é".encode() in sent
    for wrong in (b"\xe9\x80", b"\xff\xfe"):
        first, row, last = ask(model_server, (headers, sent.replace("é".encode(), wrong)))
        assert (first, last) == (alone(model_server, FIRST), alone(model_server, LAST))
        assert_row(row, "text is of type bytes")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x " * 8_400_000, "longer than 16 MiB; send a shorter one"),
        ("é" * 8_400_000, "longer than 16 MiB; send a shorter one"),
        ("x " * 50_000_000, "longer than 16 MiB; send a shorter one"),
        (
            "\ufdfa" * 1_000_001,
            "longer than 1,000,000 characters and not in NFKC; send it in this normal form of Unicode, or a shorter one",
        ),
    ],
)
def test_a_text_that_is_too_long_answers_in_its_row(model_server: int, text: str, reason: str) -> None:
    first, row, last = ask(model_server, as_parquet([FIRST, text, LAST]))
    assert (first, last) == (alone(model_server, FIRST), alone(model_server, LAST))
    assert row == {"sentiment": None, "confidence": None, "error": f"row 1: text is {reason}"}


@pytest.mark.large
def test_the_heaviest_texts_leave_the_server_its_memory(model: str) -> None:
    # the last one is past the bound: scored, it would take what the server has, and keep it
    heavy = [
        "." * 16_700_000,
        "\ufdfa" * 999_999,
        "&#xFDFA" * 2_390_000,
        "\u0301\u0327" * 4_190_000,
        "\ufdfa" * 5_590_000,
    ]
    with model_server_of(model) as port:
        for _ in range(2):
            for text in heavy:
                answer = post(port, (JSON, json.dumps({"inputs": [text]}, ensure_ascii=False).encode()))
                assert answer.status_code in (200, 400)
            assert ask(port, (JSON, body(inputs=[TEXTS["10 MB"]])))[0]["error"] is None
            assert len(ask(port, (JSON, body(inputs=[FIRST] * 10_000)))) == 10_000


@pytest.mark.parametrize("odd", ODD)
def test_a_request_that_is_odd_is_answered_as_the_page_says(model_server: int, odd: str) -> None:
    request, count, say = ODD[odd]
    rows = ask(model_server, request)
    assert len(rows) == count
    assert isinstance(post(model_server, request).json(), list) == ("without `predictions`" in say)
    if "says that" in say:
        assert "text is null" in rows[-1]["error"] or "text is of type list" in rows[-1]["error"]
    elif "ignored" in say or "as w" in say:
        assert rows == [alone(model_server, FIRST)]


@pytest.mark.parametrize("bad", BAD)
def test_plain_mlflow_refuses_as_the_page_says(model_server: int, bad: str) -> None:
    headers, sent, _ = BAD[bad]
    answer = post(model_server, (headers, sent))
    assert answer.status_code == PLAIN.get(bad, 400)
    if answer.status_code == 400:
        assert answer.json()["message"]
    assert ("Traceback" in answer.text) == (bad in TRACES)
    assert (str(ROOT) in answer.text or "site-packages" in answer.text) == (bad in TRACES)


def test_generated_requests_of_nothing_but_texts_are_the_same_in_every_form(model_server: int) -> None:
    chosen = random.Random(0)
    for _ in range(30):
        texts = [
            "x"
            + "".join(
                chr(chosen.choice([chosen.randrange(1, 0x250), chosen.randrange(0xE000, 0x11000)]))
                for _ in range(chosen.randrange(200))
            )
            for _ in range(chosen.randrange(1, 20))
        ]
        expected = [alone(model_server, text) for text in texts]
        for name, form in FORMS.items():
            assert ask(model_server, form([json.dumps(text) for text in texts])) == expected, name
        assert ask(model_server, as_csv(texts)) == expected
        assert ask(model_server, as_parquet(texts)) == expected


@pytest.mark.large
def test_a_restart_changes_no_answer(model_server: int, model: str) -> None:
    with model_server_of(model) as another:
        for text in TEXTS.values():
            assert alone(another, text) == alone(model_server, text)
