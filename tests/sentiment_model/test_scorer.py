import concurrent.futures
import itertools
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import expit

from sentiment_model.cleaning import tokenize
from sentiment_model.compiled import kernels
from sentiment_model.ngrams import NgramScorer, Settings, ngrams
from tests.sentiment_model.test_cleaning import ratios
from training.models.ngram import write_scorer
from training.report.explain import ngram_table

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def scorer(fitted, tmp_path_factory: pytest.TempPathFactory) -> NgramScorer:
    folder = tmp_path_factory.mktemp("scorer")
    return write_scorer(fitted.pipeline, ngram_table(fitted.pipeline), folder, pd.Series(["fine"]))


def plain(ngram_max: int, bias: float = 0.0) -> Settings:
    """With one known n-gram, one unit of the score is one of log-odds."""
    return Settings(ngram_max, bias, scale=1.0, saturating=0.0, growing=1 / np.log(2), intercept=0.0)


def assert_equal_to_the_pipeline(scorer: NgramScorer, fitted, texts: list[str]) -> None:
    theirs = fitted.pipeline.predict_proba(texts)[:, 1]
    np.testing.assert_allclose(expit(scorer.log_odds(texts)), theirs, atol=1e-6, rtol=0)


NASTY = [
    "",
    " ",
    "zxqvjk",
    "a",
    "good " * 5_000,
    "\ud800",
    "\x00",
    "😀" * 100,
    "<br />" * 10,
    "não é bom",
    "İ",
]

HUGE = {
    "a megabyte of words": "not a good film , but " * 50_000,
    "a megabyte without a space": "x" * 1_000_000,
    "a megabyte of marks": "!?" * 500_000,
    "every word once": " ".join(f"word{i}" for i in range(100_000)),
}


@pytest.mark.parametrize("text", NASTY)
def test_nasty_texts_score_as_the_pipeline_does(text: str, scorer: NgramScorer, fitted) -> None:
    assert_equal_to_the_pipeline(scorer, fitted, [text])


@pytest.mark.parametrize("name", HUGE)
def test_huge_texts_score_as_the_pipeline_does(name: str, scorer: NgramScorer, fitted) -> None:
    assert_equal_to_the_pipeline(scorer, fitted, [HUGE[name], "A fine film.", HUGE[name] + " good"])


WORDS = [
    "good",
    "bad",
    "not",
    "very",
    "film",
    "the",
    ".",
    "!",
    "'",
    "<br/>",
    "&amp;",
    "café",
    "😀",
    "qzx",
    "ǅ",
    "ß",
]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(WORDS) | st.text(max_size=20), max_size=40).map(" ".join), max_size=5)
)
@example([])
@example(["", "good", ""])
@example(["\ud800good", "go\udfffod \ud800\udc00"])
@example(["good\x00bad", "not\x1fgood", "not\x85good", "not\u2028good", "goodbad"])
def test_every_text_scores_as_the_pipeline_does(scorer: NgramScorer, fitted, texts: list[str]) -> None:
    assert len(scorer.log_odds(texts)) == len(texts)
    if texts:
        assert_equal_to_the_pipeline(scorer, fitted, texts)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), repeats=st.integers(1, 50))
def test_known_ngrams_in_any_order_and_number_score_as_the_pipeline_does(
    scorer: NgramScorer, fitted, data: st.DataObject, repeats: int
) -> None:
    known = list(fitted.pipeline[0].vocabulary_)
    chosen = data.draw(st.lists(st.integers(0, len(known) - 1), min_size=1, max_size=60))
    text = " ".join(known[i] for i in chosen)
    assert_equal_to_the_pipeline(scorer, fitted, [text, " ".join([text] * repeats), text[::-1]])


def test_every_unicode_character_divides_words_as_the_pattern_does(scorer: NgramScorer) -> None:
    """One scorer knows ``good bad`` alone: what stands between decides whether it is found."""
    two = NgramScorer(["bad", "good", "good bad"], np.ones(3), np.array([0.0, 0.0, 1.0]), plain(2))
    between = [chr(point) for point in range(0x110000) if unicodedata.category(chr(point)) != "Co"]
    found = two.log_odds(f"good{character}bad" for character in between) > 0
    expected = [tokenize(f"good{character}bad") == ["good", "bad"] for character in between]
    assert found.tolist() == expected
    assert sum(expected) > 20


def test_words_with_equal_hashes_are_told_apart() -> None:
    """Past eight bytes another word can meet the hash of a word: forge one and look it up."""
    multiplier, mask = 0x9E3779B97F4A7C15, 2**64 - 1

    def value(word: bytes) -> int:
        total = 0
        for byte in word:
            total = ((total << 8 | byte) & mask) ^ (((total >> 56) * multiplier) & mask)
        return total

    # the first byte leaves as a multiple of the multiplier: the eight after it can undo another one's
    def forge(word: bytes, first: int) -> bytes:
        change = (word[0] * multiplier ^ first * multiplier) & mask
        return bytes([first]) + (int.from_bytes(word[1:], "big") ^ change).to_bytes(8, "big")

    tries = ((bytes([one]) + b"bcdefghi", other) for one in range(1, 128) for other in range(1, one))
    word, forged = next((word, forge(word, other)) for word, other in tries if forge(word, other).isascii())
    assert value(forged) == value(word)

    compiled = kernels()
    classes = np.full(0x110000, compiled.LETTER, np.uint8)
    letters, one = np.empty(9, np.uint8), np.ones(1, np.float32)
    tables = tuple(np.zeros(2, kind) for kind in (compiled.WORD, compiled.SLOT, compiled.VALUE))
    ends = np.array([9])
    assert compiled.fill(np.frombuffer(word, np.uint8), ends, one, one, classes, letters, *tables) == -1
    scores, known = np.empty(2), np.empty(2)
    compiled.score(
        np.frombuffer(word + forged, np.uint8),
        np.array([9, 18]),
        1,
        classes,
        letters,
        *tables,
        np.empty(0, compiled.HIT),
        scores,
        known,
    )
    assert known.tolist() == [1, 0]


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_every_bigram_is_told_from_every_other(share: float) -> None:
    """What a slot keeps of an n-gram is less than the n-gram, yet enough."""
    words = [f"w{i}" for i in range(90)]
    pairs = [f"{a} {b}" for a, b in itertools.product(words, words)]
    chosen = set(np.random.default_rng(0).choice(pairs, int(share * len(pairs)), replace=False))
    terms = sorted({*words, *chosen})
    ones = np.ones(len(terms))
    scorer = NgramScorer(terms, ones, ones, plain(ngram_max=2))
    for pair in pairs:
        known = {one["ngram"] for one in scorer.explain(pair, 9)["ngrams"]}
        assert known == {*pair.split(), *({pair} & chosen)}


def test_an_ngram_too_far_from_its_home_is_named_and_not_kept() -> None:
    compiled = kernels()
    classes = np.zeros(0x110000, np.uint8)
    classes[ord("a")] = compiled.LETTER
    ones, letters = np.ones(2, np.float32), np.empty(9, np.uint8)
    words, slots, values = (np.zeros(2**18, kind) for kind in (compiled.WORD, compiled.SLOT, compiled.VALUE))
    slots[1:] = 1  # the only gap is further than a slot can say
    text, ends = np.frombuffer(b"aa a", np.uint8), np.array([1, 4])
    assert compiled.fill(text, ends, ones, ones, classes, letters, words, slots, values) == 1
    assert not slots[0]


def test_real_reviews_score_as_the_pipeline_does(scorer: NgramScorer, fitted, reviews: pd.DataFrame) -> None:
    assert_equal_to_the_pipeline(scorer, fitted, reviews["review"].tolist())


def test_a_text_scores_the_same_alone_and_in_any_batch(scorer: NgramScorer, reviews: pd.DataFrame) -> None:
    texts = reviews["review"].head(50).tolist()
    alone = [scorer.log_odds([text])[0] for text in texts]
    assert scorer.log_odds(texts).tolist() == alone
    assert scorer.log_odds(texts[::-1]).tolist() == alone[::-1]


def test_everything_is_compiled_before_the_first_text() -> None:
    compiled = kernels()
    assert len(compiled.fill.signatures) == len(compiled.score.signatures) == 1
    with pytest.raises(TypeError, match="No matching definition"):
        compiled.score(*[1.0] * 11)  # another signature is refused, not compiled


def test_threads_may_share_a_scorer(scorer: NgramScorer, reviews: pd.DataFrame) -> None:
    texts = reviews["review"].tolist()
    expected = scorer.log_odds(texts).tolist()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: scorer.log_odds(texts).tolist(), range(12)):
            assert found == expected


def test_a_text_without_a_known_ngram_gets_what_is_left(scorer: NgramScorer, fitted) -> None:
    (left,) = fitted.pipeline.decision_function([""])
    np.testing.assert_allclose(scorer.log_odds(["", "zxqvjk"]), [left, left])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=40).map(" ".join), st.integers(1, 100))
def test_an_explanation_sums_to_the_log_odds(scorer: NgramScorer, fitted, text: str, most: int) -> None:
    explanation = scorer.explain(text, most)
    (log_odds,) = scorer.log_odds([text])
    assert explanation["log_odds"] == log_odds
    named = [one["contribution"] for one in explanation["ngrams"]]
    assert explanation["bias"] + sum(named) + explanation["rest"] == pytest.approx(log_odds, abs=1e-9)
    assert [abs(one) for one in named] == sorted(map(abs, named), reverse=True)
    known = set(ngrams(text, 2)) & set(fitted.pipeline[0].vocabulary_)
    assert {one["ngram"] for one in explanation["ngrams"]} <= known
    assert len(named) == min(most, len(known))
    if len(named) == len(known):
        assert explanation["rest"] == pytest.approx(0, abs=1e-6)


def test_each_contribution_is_that_of_the_pipeline(scorer: NgramScorer, fitted) -> None:
    text = "Not a good film, but not a bad one: very good in the end."
    counter, frequent, tfidf, classifier = (step for _, step in fitted.pipeline.steps)
    row = tfidf.transform(frequent.transform(counter.transform([text])))
    ratio, regression = (step for _, step in classifier.linear.steps)
    (score,) = classifier.linear.decision_function(row)
    (log_odds,) = classifier.decision_function(row)
    worth = (log_odds - classifier.calibration.intercept_) / score
    names = counter.get_feature_names_out()[frequent.get_support()]
    theirs = {
        names[column]: worth * value * ratio.log_count_ratio_[column] * regression.coef_[0][column]
        for column, value in zip(row.indices, row.data, strict=True)
    }
    ours = {one["ngram"]: one["contribution"] for one in scorer.explain(text, 100)["ngrams"]}
    assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize(
    ("terms", "row"),
    [
        (["good", "good bad"], 1),
        (["bad", "good bad"], 1),
        (["good", "good"], 1),
        (["bad", "good bad", "good"], 1),
    ],
)
def test_a_table_that_cannot_be_searched_is_refused(terms: list[str], row: int) -> None:
    if terms[-1] == "good" and "bad" in terms:
        NgramScorer(terms, np.ones(3), np.ones(3), plain(2))  # words may come last
        return
    with pytest.raises(ValueError, match=f"row {row} of the n-gram table"):
        NgramScorer(terms, np.ones(len(terms)), np.ones(len(terms)), plain(2))


def test_an_empty_table_knows_nothing() -> None:
    empty = NgramScorer(pa.array([], pa.string()), np.ones(0), np.ones(0), plain(2, bias=0.5))
    assert empty.log_odds(["a b", ""]).tolist() == [0, 0]


def test_the_kernels_are_compiled_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.delitem(sys.modules, kernels().__name__)
    assert kernels().score.signatures


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
@pytest.mark.parametrize("left", [0, 100])
@pytest.mark.large
def test_a_damaged_cache_is_made_anew(
    ending: str, left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, kernels().__name__)
    kernels()
    (damaged,) = (path for path in tmp_path.rglob(f"kernels.score-*{ending}"))
    whole = damaged.stat().st_size
    damaged.write_bytes(damaged.read_bytes()[:left])
    monkeypatch.delitem(sys.modules, kernels().__name__)
    assert kernels().score.signatures
    assert damaged.stat().st_size > whole / 2


@pytest.mark.parametrize(
    ("terms", "idf", "ngram_max", "said"),
    [
        (["a", "b"], [1.0], 1, "2 n-grams need as many finite numbers"),
        (["a", "b"], [1.0, np.nan], 1, "2 n-grams need as many finite numbers"),
        (["a"], [1.0], 2**40, "ngram_max is 1099511627776; expected 1 to 8"),
        (["a"], [1.0], 0, "ngram_max is 0; expected 1 to 8"),
        (
            [f" w{i}" for i in range(5)],
            [1.0] * 5,
            2,
            "row 0 of the n-gram table, ' w0', stands there twice, or",
        ),
        (["… "] * 100, [1.0] * 100, 2, "row 0 of the n-gram table, '… ', stands there twice, or"),
        (pa.array([b"\xf7"]).view(pa.string()), [1.0], 1, "Invalid UTF8"),
        (pa.array([b"\xff\xff\xff\xff"]).view(pa.string()), [1.0], 1, "Invalid UTF8"),
    ],
)
def test_a_forged_table_is_refused(
    terms: list[str] | pa.Array, idf: list[float], ngram_max: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        NgramScorer(terms, np.array(idf), np.ones(len(idf)), plain(ngram_max))


def test_a_slice_of_a_table_is_a_table() -> None:
    whole = pa.array(["x", "a", "a b", "b"])
    scorer = NgramScorer(whole[1:], np.ones(3), np.ones(3), plain(2))
    assert {one["ngram"] for one in scorer.explain("a b x", 9)["ngrams"]} == {"a", "b", "a b"}


def test_nothing_is_run_from_a_folder_where_others_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_to_all = tmp_path / "sentiment-model" / kernels().__name__
    open_to_all.mkdir(parents=True)
    open_to_all.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, kernels().__name__)
    assert kernels().score.signatures
    assert not list(open_to_all.iterdir())


def test_ngrams_do_not_leave_the_text() -> None:
    assert ngrams("a b c", 4) == ["a", "b", "c", "a b", "b c", "a b c"]


def test_the_table_is_plain_data(fitted, tmp_path: Path) -> None:
    write_scorer(fitted.pipeline, ngram_table(fitted.pipeline), tmp_path, pd.Series(["fine"]))
    table = pd.read_parquet(tmp_path / "ngrams.parquet")
    assert list(table.columns) == ["ngram", "idf", "weight"]
    assert table["ngram"].is_monotonic_increasing
    assert len(table) == len(fitted.pipeline[0].vocabulary_)


def test_no_pair_of_characters_takes_much_longer_than_prose_to_score(scorer: NgramScorer) -> None:
    found = ratios(lambda text: scorer.log_odds([text]), 40_000, per_token=False)
    print(found)
    assert max(found.values()) < 60, "quadratic ones take hundreds of times as long"
