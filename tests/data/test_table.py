import time

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from data.sources import RawRow
from data.table import build, row_hash, split_of


def rows(*pairs: tuple[str, str]) -> list[RawRow]:
    return [RawRow(f"line {i}", text, label, source="csv") for i, (text, label) in enumerate(pairs, start=2)]


def test_the_split_of_a_row_is_frozen() -> None:
    """These hashes must never change: versions are compared on the rows they hold out."""
    assert row_hash("A wonderful film.") == "060eeab9354fb3af"
    assert row_hash("Große STRASSE") == row_hash("GROSSE straße")
    assert row_hash("Zwei Stunden, verloren!") == "aa772b82cf028297"


@pytest.mark.parametrize(
    "copy", ["a WONDERFUL film", " A wonderful<br />film! ", "A wonderful&nbsp;film.", "Ａ wonderful film"]
)
def test_case_markup_and_punctuation_do_not_make_another_row(copy: str) -> None:
    assert row_hash(copy) == row_hash("A wonderful film.")


def test_texts_without_words_are_told_apart() -> None:
    assert row_hash("😀") != row_hash("😡")


@pytest.mark.parametrize(
    "marks", ["\u0301\u0327", "\u0f73", "\uff9e\u0301", "\U0001d165\U0001d167", "&#x301;&#x327;"]
)
def test_a_pile_of_marks_is_hashed_at_once(marks: str) -> None:
    start = time.perf_counter()
    assert row_hash("e" + marks * 100_000 + " b") == row_hash("e b")
    assert time.perf_counter() - start < 5, "sorted, it takes minutes"
    assert row_hash("e" + "\u0327\u0301" * 5) == row_hash("e" + "\u0301\u0327" * 5)


def test_a_number_of_5000_digits_is_no_character() -> None:
    assert row_hash(f"A wonderful &#{'1' * 5000}; film.") == row_hash("A wonderful film.")


@given(st.text(min_size=1), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_larger_test_split_contains_a_smaller_one(text: str, a: float, b: float) -> None:
    small, large = sorted((a, b))
    if split_of(row_hash(text), small) == "test":
        assert split_of(row_hash(text), large) == "test"


def test_a_row_keeps_its_split_whatever_the_order_or_the_rows_beside_it(all_reviews: pd.DataFrame) -> None:
    def splits(table: pd.DataFrame) -> dict[str, str]:
        cells = table[["review", "sentiment", "source"]].to_numpy().tolist()
        raw = [RawRow("", text, label, source=source) for text, label, source in cells]
        built = build(raw, 0.1, "test").table
        return dict(zip(built["review"], built["split"], strict=True))

    few = all_reviews.sample(500, random_state=1)
    more = pd.concat([all_reviews.sample(500, random_state=2), few]).drop_duplicates("review")
    assert splits(few).items() <= splits(more).items()


def test_the_split_is_a_tenth_of_each_label_and_source(all_reviews: pd.DataFrame) -> None:
    shares = (
        all_reviews.assign(test=all_reviews["split"] == "test")
        .groupby(["sentiment", "source"])["test"]
        .mean()
    )
    assert shares.between(0.09, 0.11).all(), shares


def test_no_text_stands_twice(all_reviews: pd.DataFrame) -> None:
    assert all_reviews["review"].map(row_hash).is_unique


def test_duplicates_are_dropped_and_contradictions_set_aside() -> None:
    many = [(f"film number {i}", "positive" if i % 2 else "negative") for i in range(100)]
    found = build(rows(*many, ("Film NUMBER 1!", "positive"), ("film number 2", "positive")), 0.1, "test")
    assert len(found.table) == 100
    assert found.duplicates == 1
    assert found.rejects["reason"].tolist() == ["the same text as line 4 with another label"]


@pytest.mark.parametrize("splits", [("train", "test"), ("test", "train")])
def test_a_review_that_stands_in_train_and_in_test_is_held_out(splits: tuple[str, str]) -> None:
    copies = [RawRow("", "good", "positive", split, "csv") for split in splits]
    found = build([*copies, RawRow("", "bad", "negative", "train", "csv")], 0.1, "test")
    assert found.table[["review", "split"]].to_numpy().tolist() == [["good", "test"], ["bad", "train"]]
    assert found.duplicates == 1


@pytest.mark.parametrize("label", ["positive", "POSITIVE", " pos ", "1", "1.0"])
def test_labels_go_by_several_names(label: str) -> None:
    found = build(rows(("good", label), ("bad", "0")), 0.1, "test")
    assert found.table["sentiment"].tolist() == ["positive", "negative"]


def test_more_than_five_percent_bad_rows_stop() -> None:
    good = [(f"film number {i}", "positive" if i % 2 else "negative") for i in range(95)]
    assert len(build(rows(*good, *[("x", "?")] * 5), 0.1, "test").rejects) == 5
    with pytest.raises(DataError, match=r"6 of 101 rows cannot be used, more than 5%.*sentiment is '\?'"):
        build(rows(*good, *[("x", "?")] * 6), 0.1, "test")


def test_one_class_is_not_enough() -> None:
    with pytest.raises(DataError, match="both labels are needed"):
        build(rows(("good", "positive")), 0.1, "test")


def test_no_rows_are_named() -> None:
    with pytest.raises(DataError, match="no rows below the header"):
        build([], 0.1, "test")
