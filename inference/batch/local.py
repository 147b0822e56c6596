"""Scoring a source on this machine: one process reads and writes, one on each core scores."""

import os
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import joblib
import mlflow
import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from cli import end_with, signals_noted
from inference.batch.answers import Counts, Scored, answered
from inference.batch.files import FAULT, Piece, Source, Write, read
from registry.errors import RegistryError
from registry.versions import check_examples

_WORTH_A_START = 2**25  # bytes, which one process scores in less time than another needs to start
_model: Any = None  # of a process that scores


def score(source: Source, copy: Path, scored: Scored, write: Write) -> Counts:
    """Score the rows of a source in their order, in bounded memory.

    Parameters
    ----------
    source : Source
    copy : Path
        The verified files of a version.
    scored : Scored
        What is added to the rows.
    write : callable
        Is given the scored batches.

    Raises
    ------
    RegistryError
        If the model does not load, or a process that scores is killed.
    FileError
        If a file cannot be read on.
    """
    size = sum(file.stat().st_size for file in source.files)
    workers = min(joblib.cpu_count(), 1 + size // _WORTH_A_START)
    counts = Counts()
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _load, (str(copy), os.getpid()))
    try:
        with signals_noted() as noted:  # a process whose start is cut off says so on the terminal
            for _ in range(workers):  # else the second one starts when the first one is busy
                pool.submit(int)
        if noted:
            signal.raise_signal(noted[0])
        check_examples(copy, lambda texts: pool.submit(_answers, texts.tolist()).result().to_pandas())
        waiting: deque[tuple[pa.RecordBatch, Future[pa.RecordBatch]]] = deque()

        def finish() -> None:
            batch, answers = waiting.popleft()
            done = scored.add(batch, answers.result())
            counts.add(done, scored)
            write(done)

        for batch in _with_progress(source):
            texts = batch[source.column].to_pylist()
            if batch[FAULT].null_count < len(batch):
                texts = [
                    None if fault else text
                    for text, fault in zip(texts, batch[FAULT].to_pylist(), strict=True)
                ]
            waiting.append((batch, pool.submit(_answers, texts)))
            if len(waiting) > 2 * workers:
                finish()
        while waiting:
            finish()
    except BrokenProcessPool:
        raise RegistryError(
            "a process that scores ended: the model does not load (see above), or the machine is out of memory"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
    return counts


def _with_progress(source: Source) -> Iterator[pa.RecordBatch]:
    sizes = [file.stat().st_size for file in source.files]
    total = sum(sizes)
    with tqdm(total=total, desc="scoring", unit="B", unit_scale=True, disable=None) as progress:
        for file, behind in zip(source.files, accumulate(sizes, initial=0), strict=False):
            for batch, at in read(source, Piece(file)):
                yield batch
                progress.update(min(behind + at, total) - progress.n)


def _load(copy: str, parent: int) -> None:
    global _model
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us, in order
    end_with(parent)
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    _model = mlflow.pyfunc.load_model(copy, suppress_warnings=True)  # of pins, which were checked: a second


def _answers(texts: list[str | None]) -> pa.RecordBatch:
    (name,) = _model.metadata.get_input_schema().input_names()
    return answered(_model.predict(pd.DataFrame({name: pd.Series(texts, dtype=object)})))
