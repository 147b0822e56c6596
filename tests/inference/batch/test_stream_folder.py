"""The output of a stream and its checkpoint, which must be of one stream. Spark is not needed to tell."""

from pathlib import Path

import pytest

from inference.batch.files import FileError
from inference.batch.stream import Files


def files(folder: Path, done: int | None, begun: int | None) -> Files:
    """A stream whose last finished and last begun micro-batches have these numbers."""
    made = Files(folder / "in", folder / "out", folder / "at", "text", "jsonl", "", 10)
    if done is not None:
        (made.output / "scored" / f"batch-{done:09}").mkdir(parents=True)
    if begun is not None:
        (made.checkpoint / "offsets").mkdir(parents=True)
        (made.checkpoint / "offsets" / str(begun)).touch()
    return made


@pytest.mark.parametrize(("done", "begun"), [(None, None), (None, 0), (0, 0), (3, 3), (3, 4)])
def test_a_stream_goes_on_with_its_own_checkpoint(
    tmp_path: Path, done: int | None, begun: int | None
) -> None:
    with files(tmp_path, done, begun).ready():
        pass


@pytest.mark.parametrize(("done", "begun"), [(0, None), (4, 3), (10, 9)])
def test_an_output_without_its_checkpoint_is_refused(tmp_path: Path, done: int, begun: int | None) -> None:
    stream = files(tmp_path, done, begun)
    with pytest.raises(FileError, match=f"holds batch-{done:09}, which .* has not begun"), stream.ready():
        pass


def test_two_streams_do_not_write_one_output(tmp_path: Path) -> None:
    first, second = (files(tmp_path, None, None) for _ in range(2))
    with first.ready(), pytest.raises(FileError, match="is being written by another process"), second.ready():
        pass
