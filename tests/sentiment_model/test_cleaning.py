import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentiment_model.cleaning import clean, tokenize


@pytest.mark.parametrize(
    ("raw", "tokens"),
    [
        ("Great film", ["great", "film"]),
        ("Great<br /><br />film", ["great", "film"]),
        ("<p class='x'>Great</p>", ["great"]),
        ("caf&eacute; &amp; bar", ["café", "&", "bar"]),
        ("cafe\u0301", ["café"]),
        ("ＧＲＥＡＴ ﬁlm", ["great", "film"]),
        ("won\u00adder\u200bful\ufeff", ["wonderful"]),
        ("no\x00film\x07!", ["no", "film", "!"]),
        ("😀👍🏽", ["😀", "👍", "🏽"]),
        ("I <3 this, 2 < 3", ["i", "<", "3", "this", ",", "2", "<", "3"]),
        ("it's", ["it", "'", "s"]),
        ("it 's", ["it", "'", "s"]),
        ("", []),
        (" \n\t", []),
    ],
)
def test_tokens(raw: str, tokens: list[str]) -> None:
    assert tokenize(raw) == tokens


@given(st.text())
def test_no_token_holds_white_space_or_capitals(text: str) -> None:
    for token in tokenize(text):
        assert token
        assert not any(character.isspace() for character in token)
        assert token == token.lower()


@given(st.text(alphabet=st.characters(codec="ascii")))
def test_case_does_not_matter(text: str) -> None:
    assert clean(text.upper()) == clean(text.lower())


@pytest.mark.parametrize("pair", ["<a", "< ", "&a", "&#", "a<", "<>", "a'", "\u200b ", "</"])
def test_time_grows_in_step_with_length(pair: str) -> None:
    def seconds(length: int) -> float:
        text = pair * length
        start = time.perf_counter()
        tokenize(text)
        return time.perf_counter() - start

    # of a quadratic pattern eight times the text would cost 64 times the time
    assert min(seconds(400_000) for _ in range(3)) < 30 * max(min(seconds(50_000) for _ in range(3)), 1e-3)
