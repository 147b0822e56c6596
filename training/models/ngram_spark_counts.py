"""Counting n-grams on Apache Spark, from any number of reviews.

The tasks are the numpy of :mod:`training.models.features` on a slice of the reviews; Spark sums what they found. Only n-grams
that may be kept, and counts, come to the driver, never a review.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from pyspark import RDD, StorageLevel, cloudpickle
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import (
    array_distinct,
    col,
    count_if,
    explode,
    lit,
    pandas_udf,
    pmod,
    when,
    xxhash64,
)

from sentiment_model import cleaning
from spark.session import told
from training.models.features import raised_min_df
from training.models.ngram_fit import FOLDS, check_labels, too_rare
from training.parameters import LogCountRatios

for ours in (cleaning, sys.modules[__name__]):
    cloudpickle.register_pickle_by_value(ours)  # the executors need not have this project

Batches = Iterator[pa.RecordBatch]
Block = tuple[np.ndarray, ...]

COLUMNS = ("row", "review", "sentiment", "split", "source")
TEST = FOLDS  # the group of the held-out rows; those before it are the folds
# which groups each model sees: all, the training rows, these without one fold
SEEN = np.array([[1] * (FOLDS + 1), [1] * FOLDS + [0], *([*row, 0] for row in 1 - np.eye(FOLDS, dtype=int))])


@dataclass(frozen=True)
class Counts:
    """Reviews as sets of numbered n-grams, on the executors, and what is known of each n-gram.

    Attributes
    ----------
    names : Array of str, length n_ngrams
        Sorted.
    frequency : ndarray of shape (n_ngrams, n_groups)
        In how many reviews of each fold, and of the held-out rows, an n-gram stands.
    rows : ndarray of shape (n_groups,)
    blocks : RDD of tuples of ndarray
        Up to some thousand reviews each: row, group, whether positive, where the n-grams of each begin, and these.
    """

    names: pa.Array
    frequency: np.ndarray
    rows: np.ndarray
    blocks: RDD


def reviews_of(spark: SparkSession, table: pd.DataFrame) -> DataFrame:
    """Return a table as a Spark DataFrame with numbered rows, one slice a core."""
    spark.conf.set("spark.sql.execution.arrow.pyspark.enabled", "true")
    spark.conf.set(
        "spark.sql.execution.arrow.maxRecordsPerBatch",
        -(-len(table) // spark.sparkContext.defaultParallelism),
    )
    numbered = table.reset_index(drop=True).reset_index(names="row")[list(COLUMNS)]
    found = spark.createDataFrame(numbered)
    spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    return found


def count(reviews: DataFrame, parameters: LogCountRatios) -> Counts:
    """Count the n-grams that are frequent enough, level by level as :func:`training.models.features.count_ngrams` does.

    Parameters
    ----------
    reviews : DataFrame
        Columns ``row`` (a number of its own for each), ``review``, ``sentiment``, ``split`` and ``source``.
    parameters : LogCountRatios

    Raises
    ------
    TrainingError
        If a split lacks a class, or no n-gram is frequent enough.
    SparkError
        If a job fails.
    """

    @pandas_udf("array<string>")  # type: ignore[call-overload]  # its stubs know no types as text
    def tokenize(texts: pd.Series) -> pd.Series:
        return texts.map(cleaning.tokenize)

    with told("training on Spark failed"):
        spark = reviews.sparkSession.sparkContext
        labels = reviews.groupBy("split", "sentiment").count().toPandas()
        check_labels(labels.set_index(["split", "sentiment"])["count"])
        fold = pmod(xxhash64("row", lit(parameters.seed)), lit(FOLDS)).cast("int")
        tokens = reviews.select(
            col("row").cast("long"),
            when(col("split") == "test", TEST).otherwise(fold).alias("group"),
            (col("sentiment") == "positive").alias("positive"),
            tokenize("review").alias("tokens"),
        ).persist()
        rows = np.zeros(TEST + 1, dtype=np.int64)
        for group, number in tokens.groupBy("group").count().collect():
            rows[group] = number

        words, frequency = _frequent(
            tokens.select(explode(array_distinct("tokens")).alias("ngram"), "group"), parameters
        )
        levels: list[np.ndarray] = []
        numbered = tokens.mapInArrow(
            partial(_number_words, spark.broadcast(words)),
            "row long, group int, positive boolean, words array<int>",
        ).persist()
        terms, last_word, vocabulary = words, np.arange(len(words)), [words]
        for _ in range(1, parameters.ngram_max):
            known = spark.broadcast((len(words), levels))
            found = numbered.mapInArrow(partial(_candidates, known), "ngram long, group int")
            column, often = _frequent(found, parameters)
            keys = column.to_numpy()
            prefix, suffix = np.divmod(keys, max(len(terms), 1))
            last_word = last_word[suffix]
            terms = pc.binary_join_element_wise(
                terms.take(prefix), words.take(last_word), pa.scalar(" ", pa.large_string())
            )
            levels.append(keys)
            vocabulary.append(terms)
            frequency = np.concatenate([frequency, often])

        names = pa.concat_arrays(vocabulary)
        kept = np.flatnonzero(_kept(frequency, parameters).any(axis=1))
        with too_rare(parameters):
            if not len(kept):
                raise ValueError(f"no n-gram stands in {parameters.min_df} of {rows.sum()} reviews")
        kept = kept[pc.sort_indices(names.take(kept)).to_numpy()]
        columns = np.full(len(names), -1, dtype=np.int32)
        columns[kept] = np.arange(len(kept))
        placed = spark.broadcast((len(words), levels, columns))
        packed = "row binary, group binary, positive binary, start binary, ngrams binary"
        blocks = numbered.mapInArrow(partial(_pack, placed), packed).rdd.map(_unpack)
        blocks.persist(StorageLevel.MEMORY_AND_DISK).count()
        numbered.unpersist()
        tokens.unpersist()
    return Counts(names.take(kept), frequency[kept], rows, blocks)


def _frequent(found: DataFrame, parameters: LogCountRatios) -> tuple[pa.Array, np.ndarray]:
    """Return the n-grams, in order, that may be kept, and in how many reviews of each group they stand.

    A threshold that ``max_features`` raises for n-grams of one length is no higher for all of them.
    """
    groups = [count_if(col("group") == group).alias(str(group)) for group in range(TEST + 1)]
    counted = (
        found.groupBy("ngram")
        .agg(*groups)
        .filter(f"{'+'.join(f'`{g}`' for g in range(TEST + 1))} >= {parameters.min_df}")
    )
    table = counted.toArrow().sort_by("ngram")
    frequency = np.column_stack([column.to_numpy() for column in table.columns[1:]])
    kept = _kept(frequency, parameters).any(axis=1)
    names = table["ngram"].combine_chunks()
    if pa.types.is_string(names.type):
        names = names.cast(pa.large_string())
    return names.filter(pa.array(kept)), frequency[kept]


def _kept(frequency: np.ndarray, parameters: LogCountRatios) -> np.ndarray:
    """Return which n-grams each model keeps, of shape (n_ngrams, n_models)."""
    if not parameters.max_features:
        return frequency.sum(axis=1, keepdims=True) >= parameters.min_df
    seen = frequency @ SEEN.T
    return np.column_stack(
        [one >= raised_min_df(one, parameters.min_df, parameters.max_features) for one in seen.T]
    )


def _number_words(known: Any, batches: Batches) -> Batches:
    words = known.value
    for batch in batches:
        tokens = batch["tokens"]
        number = pc.index_in(tokens.flatten().cast(words.type), value_set=words).fill_null(-1)
        starts = pc.subtract(tokens.offsets, tokens.offsets[0])
        yield pa.RecordBatch.from_arrays(
            [batch["row"], batch["group"], batch["positive"], pa.ListArray.from_arrays(starts, number)],
            ["row", "group", "positive", "words"],
        )


def _levels(
    batch: pa.RecordBatch, n_words: int, levels: list[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, for each length of n-grams known and the next one, the review and the number of what starts at each token.

    The number of an n-gram of the next length is the pair of the numbers of the two within it. What is not
    known is left out.
    """
    words = batch["words"]
    review = np.repeat(np.arange(len(words), dtype=np.int32), words.value_lengths().to_numpy())
    same_review = review[:-1] == review[1:]
    at = words.flatten().to_numpy().astype(np.int64)
    size = n_words
    yield review[at >= 0], at[at >= 0]
    for level in range(len(levels) + 1):
        place = np.flatnonzero((at[:-1] >= 0) & (at[1:] >= 0) & same_review)
        pairs = at[place] * size + at[place + 1]
        if level == len(levels):
            yield review[place], pairs
            return
        known = levels[level]
        number = np.searchsorted(known, pairs)
        there = known.take(number, mode="clip") == pairs if len(known) else np.zeros(len(pairs), bool)
        place, number = place[there], number[there]
        at[:] = -1
        at[place] = number
        size = len(known)
        yield review[place], number


def _candidates(known: Any, batches: Batches) -> Batches:
    for batch in batches:
        *_, (review, pairs) = _levels(batch, *known.value)
        found = pd.DataFrame({"review": review, "ngram": pairs}).drop_duplicates()
        group = batch["group"].to_numpy()[found["review"]]
        yield pa.RecordBatch.from_arrays([pa.array(found["ngram"]), pa.array(group)], ["ngram", "group"])


def _pack(known: Any, batches: Batches) -> Batches:
    n_words, levels, columns = known.value
    first = np.cumsum([0, n_words, *map(len, levels)])
    for batch in batches:
        *found, _ = _levels(batch, n_words, levels)
        review = np.concatenate([one for one, _ in found])
        column = np.concatenate(
            [columns[start + number] for start, (_, number) in zip(first, found, strict=False)]
        )
        counted = sp.csr_matrix(
            (np.ones(np.count_nonzero(column >= 0), np.int8), (review[column >= 0], column[column >= 0])),
            (batch.num_rows, max(columns.max(initial=0) + 1, 1)),
        )
        counted.sum_duplicates()
        values = (
            batch["row"].to_numpy(),
            batch["group"].to_numpy(),
            batch["positive"].to_numpy(zero_copy_only=False),
            counted.indptr,
            counted.indices,
        )
        yield pa.RecordBatch.from_arrays(
            [pa.array([value.tobytes()]) for value in values], ["row", "group", "positive", "start", "ngrams"]
        )


def _unpack(row: Any) -> Block:
    types = (np.int64, np.int32, np.bool_, np.int32, np.int32)
    return tuple(np.frombuffer(value, kind) for value, kind in zip(row, types, strict=True))
