import html
import itertools
import time
import unicodedata
from collections.abc import Callable
from html.entities import html5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentiment_model import cleaning
from sentiment_model.cleaning import clean, tokenize

pytestmark = pytest.mark.medium


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


NAMES = st.sampled_from(sorted(html5))
PIECES = st.text("&#xX;09afAZ é<", max_size=4) | NAMES | NAMES.map("&{}".format)


@given(st.lists(PIECES, max_size=6).map("".join))
def test_entities_are_those_of_html(text: str) -> None:
    assert cleaning._ENTITY.sub(lambda entity: html.unescape(entity[0]), text) == html.unescape(text)


MARKS = "\u0301\u0327\u0344\u0f73\uff9e\U0001d165\U0001d167"


@given(st.text("aé\u1100\u1161\u11a8が\u3099" + MARKS, max_size=32))
def test_marks_are_composed_as_unicode_says(text: str) -> None:
    assert clean(text) == unicodedata.normalize("NFKC", text).lower()


def test_a_run_of_marks_is_sorted_thirty_at_a_time() -> None:
    assert clean("e" + "\u0301\u0327" * 100) == clean("e" + "\u0301\u0327" * 15) + (
        "\u0327" * 15 + "\u0301" * 15
    ) * 5 + ("\u0327" * 10 + "\u0301" * 10)


PROSE = (
    "A wonderful film, though it isn't without its flaws; the second act drags.<br /><br />Still: see it! "
)
KINDS = "aZ1_.'<>&/#; \n\0é\u200b\u00ad\ufeffﬁا日😀" + MARKS  # characters that some step treats apart


def seconds(step: Callable[[str], object], text: str, times: int = 1) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        step(text)
        taken.append(time.perf_counter() - start)
    return min(taken)


def ratios(step: Callable[[str], object], size: int, per_token: bool) -> dict[str, float]:
    """How much more time the costliest pairs take, repeated, than prose of as many bytes, or tokens if these are more."""

    def repeated(text: str) -> str:
        return text * (size // len(text.encode()))

    def tokens(text: str) -> int:
        return len(tokenize(repeated(text))) if per_token else 0

    prose, words = seconds(step, repeated(PROSE), 9), tokens(PROSE)
    pairs = ["".join(pair) for pair in itertools.product(KINDS, repeat=2)]
    once = {pair: seconds(step, repeated(pair)) for pair in pairs}
    costliest = sorted(once, key=lambda pair: once[pair], reverse=True)[:10]
    return {
        pair: seconds(step, repeated(pair), 5) / prose / max(1, tokens(pair) / words if per_token else 1)
        for pair in costliest
    }


def test_no_pair_of_characters_takes_much_longer_than_prose_to_tokenize() -> None:
    found = ratios(tokenize, 40_000, per_token=True)
    print(found)
    assert max(found.values()) < 3 * 2, "twice what is promised, for a noisy machine"


@pytest.mark.parametrize(
    "pair",
    [
        "<a",
        "< ",
        "&a",
        "&#",
        "a<",
        "<>",
        "a'",
        "\u200b ",
        "</",
        "\u0301\u0327",
        "\u0f73\u0f73",
        "\uff9e\u0301",
    ],
)
@pytest.mark.large
def test_time_grows_in_step_with_length(pair: str) -> None:
    # of a quadratic pattern eight times the text would cost 64 times the time
    assert seconds(tokenize, pair * 400_000, 3) < 30 * max(seconds(tokenize, pair * 50_000, 3), 1e-3)
