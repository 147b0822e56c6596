"""Tables of texts in files: CSV, JSON lines and Parquet, read and written in batches of bounded size.

Nothing is guessed about a text. Every value of a CSV is a string; JSON and Parquet keep their types. A row that
cannot be read stays in its place with the reason in the column ``_fault``; a file that cannot be read on is an error.
"""

import csv
import glob
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

FAULT = "_fault"
ROWS, BYTES = 2_000, 8 * 2**20  # of a batch, at most; a single row may be larger
LONGEST = 256 * 2**20  # of a line of JSON, or a field of a CSV
SAMPLE = 10_000  # lines of JSON, from which the types of its columns are known
GROUP = 64 * 2**20  # bytes in memory of a row group that is written
PIECES = 4 * 2**20, 256 * 2**20  # bytes of a file that one task of Spark reads, at least and at most
FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4", ".br": "brotli"}
_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a pair, or a byte that is not UTF-8
_SAY_WHICH = "--column NAME (mlflow run: -P column=NAME)"
_NOTHING = {b"holds": b"nothing"}  # the columns of a file without one JSON object
_AS_JSON = {b"holds": b"json"}  # a column of JSON of several types, kept as its text


class FileError(click.ClickException):
    """A file or folder cannot be read or written; the message says which, why and what to do."""


@dataclass(frozen=True)
class Source:
    """Files with the same columns.

    Attributes
    ----------
    files : list of Path
        In the order of their rows.
    column : str
        That of the texts.
    schema : Schema
        What :func:`read` gives: the columns of the files, the texts as strings, and ``_fault``.
    forgiving : bool
        Whether what does not fit is a row with a fault, as in a stream, and not an error.
    """

    files: list[Path]
    column: str
    schema: pa.Schema
    forgiving: bool = False


@dataclass(frozen=True)
class Piece:
    """A part of a file: row groups of a Parquet file, or bytes of uncompressed JSON lines, ``begin`` to ``end``.

    Attributes
    ----------
    size : int
        About how many bytes of the file it is.
    fault : str or None
        Why the file cannot be read: it is one row then, which says so.
    """

    file: Path
    begin: int = 0
    end: int | None = None
    size: int = 0
    fault: str | None = None


def form_of(path: Path) -> tuple[str, str | None]:
    """Return the format and the compression that the name of a file says.

    Raises
    ------
    FileError
        If it says none.

    Examples
    --------
    >>> form_of(Path("reviews.csv.gz"))
    ('csv', 'gzip')
    """
    if _SURROGATE.search(str(path)):
        raise FileError(f"{readable(str(path))}: the name is not UTF-8; rename it")
    ends = [end.lower() for end in path.suffixes[-2:]]
    compression = COMPRESSIONS.get(ends[-1]) if ends else None
    form = FORMATS.get(ends[-2] if compression and len(ends) > 1 else ends[-1] if ends else "")
    if not form or (compression and form == "parquet"):
        raise FileError(
            f"{path}: the name does not say the format; expected .csv, .jsonl (.ndjson, .json), both also with "
            f"{', '.join(COMPRESSIONS)}, or .parquet; of a folder with others too give a pattern, such as 'folder/*.csv'"
        )
    return form, compression


def find(given: str) -> list[Path]:
    """Return the files of a path: itself, those of a folder and of its folders, or those that a pattern matches, sorted.

    Names that begin with ``.`` or ``_`` are passed over, as other tools do: they are not finished, or not data.

    Raises
    ------
    FileError
        If there is none.
    """
    path = Path(given)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [
            file
            for file in path.rglob("*")
            if file.is_file() and not any(part[0] in "._" for part in file.relative_to(path).parts)
        ]
        if not found:
            raise FileError(f"{path}: the folder holds no file")
        return sorted(found)
    found = [Path(file) for file in glob.glob(given, recursive=True) if Path(file).is_file()]
    if not found:
        kind = "no file matches" if glob.has_magic(given) else "no such file or folder"
        raise FileError(f"{given}: {kind}; a relative path counts from {Path.cwd()}")
    return sorted(found)


def look(files: list[Path], column: str) -> Source:
    """Look at files without reading their rows: one format, the same columns, among them the texts.

    Raises
    ------
    FileError
        If that is not so.
    """
    forms = {form_of(file)[0]: file for file in reversed(files)}
    if len(forms) > 1:
        raise FileError(f"{' and '.join(map(str, forms.values()))} are of several formats; give those of one")
    (form,) = forms
    schema = columns(files[0], form, column)
    if form != "jsonl":  # of which only reading shows the columns
        for file in files[1:]:
            other = columns(file, form, column)
            if not other.equals(schema):
                raise FileError(f"{file} and {files[0]} differ: {difference(other, schema)}")
    return Source(files, column, schema.append(pa.field(FAULT, pa.string())))


def columns(file: Path, form: str, column: str) -> pa.Schema:
    """Return the columns of a file, the texts as strings; of JSON lines those that its first lines have.

    Raises
    ------
    FileError
        If it cannot be read, or has no such column of texts.
    """
    try:
        if form == "parquet":
            schema = pa.schema([(field.name, _plain(field.type)) for field in pq.read_schema(file)])
        elif form == "csv":
            with _decoded(_open(file)) as lines:
                header = _header(file, csv.reader(lines, strict=True))
            schema = pa.schema([(name, pa.string()) for name in header])
        else:
            with _open(file) as stream:
                schema = _json_schema(islice(_lines(file, stream), SAMPLE), column)
    except (OSError, EOFError, pa.ArrowException, csv.Error, UnicodeError) as error:
        raise unreadable(file, error) from None
    if schema.names.count(column) != 1:
        has = ", ".join(schema.names[:20]) or "none"
        which = "more than one column" if column in schema.names else "no column"
        separator = re.search(r"[;\t|]", has) if form == "csv" and len(schema) == 1 else None
        do = (
            f"separate fields by commas, not {separator[0]!r}"
            if separator
            else f"say which with {_SAY_WHICH}"
        )
        raise FileError(f"{file} has {which} {column!r} (it has: {has}); {do}")
    if FAULT in schema.names:
        raise FileError(f"{file}: the column {FAULT!r} is in the way of a row's fault; rename it")
    twice = {name for name in schema.names if schema.names.count(name) > 1}
    if twice:
        raise FileError(f"{file} has the column {min(twice)!r} twice; rename one")
    at = schema.get_field_index(column)
    of_values = schema.types[at]
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    if not any(kind(of_values) for kind in text + binary):
        raise FileError(
            f"{file}: the column {column!r} is {of_values}, no string; say which with {_SAY_WHICH}"
        )
    return schema.set(at, pa.field(column, pa.string()))


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def difference(found: pa.Schema, expected: pa.Schema) -> str:
    """Say how the columns of the first file differ from those of the second."""
    for name in [*expected.names, *found.names]:
        one, other = (
            schema.field(name).type if name in schema.names else None for schema in (found, expected)
        )
        if one is None or other is None:
            return f"only the {'first' if other is None else 'second'} has a column {name!r}"
        if one != other:
            return f"{name!r} is {one} in the first and {other} in the second"
    return f"the order of the columns, in the first {', '.join(found.names)}"


def unreadable(file: Path, error: BaseException) -> FileError:
    """Return the one line for a file that cannot be read."""
    why = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
    return FileError(f"{file} cannot be read: {why}")


def pieces(source: Source, parallel: int) -> list[Piece]:
    """Return the parts of a source that can be read on their own, in the order of their rows.

    Parameters
    ----------
    source : Source
    parallel : int
        How many are read at a time.
    """
    sizes = [file.stat().st_size for file in source.files]
    each = _size(sum(sizes), parallel)
    found: list[Piece] = []
    for file, size in zip(source.files, sizes, strict=True):
        form, compression = form_of(file)
        if form == "parquet":
            groups = pq.read_metadata(file).num_row_groups
            step = max(1, each * groups // max(size, 1))
            found += [
                Piece(file, at, min(at + step, groups), size * step // groups)
                for at in range(0, groups, step)
            ]
        elif form == "jsonl" and compression is None:
            found += [Piece(file, at, at + each, min(each, size - at)) for at in range(0, size, each)]
        else:
            found.append(Piece(file, size=size))
    return found


def packed(parts: list[Piece], parallel: int) -> list[list[Piece]]:
    """Return parts in groups that are worth a task of their own, in their order."""
    each = _size(sum(piece.size for piece in parts), parallel)
    groups: list[list[Piece]] = []
    room = 0
    for piece in parts:
        if not groups or room < piece.size:
            groups.append([])
            room = each
        groups[-1].append(piece)
        room -= piece.size
    return groups


def _size(total: int, parallel: int) -> int:
    least, most = PIECES
    return min(max(total // (2 * parallel), least), most)


def faulty(source: Source, fault: str) -> pa.RecordBatch:
    """Return the one row that stands for what cannot be read."""
    return pa.RecordBatch.from_pylist([{FAULT: fault}], schema=source.schema)


def read(source: Source, piece: Piece) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Read the rows of a piece in batches of the source's schema, each with how many bytes of the file are behind it.

    Raises
    ------
    FileError
        If the file cannot be read on, or a value does not fit the type of its column.
    """
    if piece.fault:
        yield faulty(source, piece.fault), 0
        return
    try:
        form = form_of(piece.file)[0]
        if form == "parquet":
            yield from _read_parquet(source, piece)
            return
        with piece.file.open("rb") as raw:
            reads = _read_csv if form == "csv" else _read_json
            for batch in reads(source, piece, raw):
                yield batch, raw.tell() - piece.begin
    except (OSError, EOFError, pa.ArrowException, csv.Error, FileError) as error:
        told = error if isinstance(error, FileError) else unreadable(piece.file, error)
        if not source.forgiving:
            raise told from None
        yield faulty(source, told.message), 0


def _open(file: Path, raw: io.BufferedReader | None = None) -> io.BufferedReader:
    compression = form_of(file)[1]
    raw = raw or file.open("rb")
    if compression is None:
        return raw
    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw, "r"), compression), 2**20)


def _decoded(stream: io.BufferedReader) -> io.TextIOWrapper:
    begins = stream.peek(4)[:4]
    csv.field_size_limit(LONGEST)
    if begins[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return io.TextIOWrapper(stream, "utf-16", "replace", "")
    return io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", "")


def _header(file: Path, rows: Iterator[list[str]]) -> list[str]:
    for row in rows:
        if row:
            return [readable(name) for name in row]
    raise FileError(f"{file} is empty; its first line must name its columns")


def readable(text: str) -> str:
    r"""Return a text with what is no Unicode in it replaced.

    Examples
    --------
    >>> readable("caf\udce9")
    'caf�'
    """
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def _read_csv(source: Source, piece: Piece, raw: io.BufferedReader) -> Iterator[pa.RecordBatch]:
    with _decoded(_open(piece.file, raw)) as lines:
        taken: list[str] = []  # lines since the last row
        rows = csv.reader(_noted(lines, taken), strict=True)
        names = _header(piece.file, rows)
        text = names.index(source.column)
        for some in _batched(
            _checked(piece.file, rows, len(names), text, taken), lambda row: sum(map(len, row[0]))
        ):
            columns = [list(values) for values in zip(*(row for row, _ in some), strict=True)]
            yield _batch(source, dict(zip(names, columns, strict=True)), [fault for _, fault in some])


def _noted(lines: Iterable[str], taken: list[str]) -> Iterator[str]:
    for line in lines:
        taken.append(line)
        yield line


def _checked(
    file: Path, rows: Any, width: int, text: int, taken: list[str]
) -> Iterator[tuple[list[str], str | None]]:
    """Give each row ``width`` fields, and say which had not: then the text is all that the line holds."""
    while True:
        fault = None
        taken.clear()
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if "expected after" not in str(error):  # without its end, nobody can tell what the field holds
                raise FileError(
                    f"{file}, line {rows.line_num}: a field in quotes does not end ({error})"
                ) from None
            row, fault = (
                [],
                "the line is not CSV: text after a closing quote; quotes within a field are doubled",
            )
        else:
            if not row and width > 1:
                continue
            if not row:
                row = [""]  # of a single column an empty line is an empty text
            if len(row) != width:
                fault = f"the line has {len(row)} fields, the header has {width}"
        row = (row + [""] * width)[:width]
        if fault:
            row[text] = "".join(taken).rstrip("\r\n")
        yield row, fault


def _lines(file: Path, stream: io.BufferedReader) -> Iterator[bytes]:
    while line := stream.readline(LONGEST):
        if len(line) == LONGEST and not line.endswith(b"\n"):
            raise FileError(f"{file}: a line is longer than {LONGEST // 2**20} MiB; is it JSON lines?")
        if line.strip():
            yield line


def as_object(line: bytes) -> tuple[dict[str, Any], str | None]:
    """Return what a line of JSON holds, and why it does not hold an object."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {}, f"the line is not JSON in UTF-8: {str(error)[:100]}"
    if not isinstance(found, dict):
        return {}, f"the line holds {type(found).__name__}, no JSON object"
    try:
        "".join(found).encode()
    except UnicodeEncodeError:
        return {}, "the line has a name that is not UTF-8"
    return found, None


def _json_schema(lines: Iterable[bytes], column: str) -> pa.Schema:
    kinds: dict[str, set[type]] = {}
    wide: dict[str, int] = {}  # the largest whole number
    for line in lines:
        for name, value in as_object(line)[0].items():
            kinds.setdefault(name, set()).add(type(value))
            if type(value) is int:
                wide[name] = max(wide.get(name, 0), abs(value))
    if not kinds:
        return pa.schema([(column, pa.string())], metadata=_NOTHING)
    single = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    fields = []
    for name, found in kinds.items():
        found = found - {type(None)}
        if name == column or not found:
            fields.append(pa.field(name, pa.string()))
        elif int in found and wide[name] >= (2**53 if float in found else 2**63):
            fields.append(pa.field(name, pa.string(), metadata=_AS_JSON))
        elif len(found) == 1 and found <= single.keys():
            fields.append(pa.field(name, single[min(found, key=str)]))
        elif found == {int, float}:
            fields.append(pa.field(name, pa.float64()))
        else:
            fields.append(pa.field(name, pa.string(), metadata=_AS_JSON))
    return pa.schema(fields)


def text_of(
    found: dict[str, Any], fault: str | None, line: bytes, column: str
) -> tuple[str | None, str | None]:
    """Return the text of a line of JSON, and why it cannot be scored: then the text is all that the line holds."""
    text = found.get(column)
    if fault is None and (text is None or isinstance(text, str)):
        return text, None
    fault = fault or f"text is of type {type(text).__name__}; send a non-empty string"
    return line.decode("utf-8", "replace").rstrip("\r\n"), fault


def _read_json(source: Source, piece: Piece, raw: io.BufferedReader) -> Iterator[pa.RecordBatch]:
    if piece.begin:  # the line across the border is the piece's before
        raw.seek(piece.begin - 1)
        raw.readline()
    stream = _open(piece.file, raw)
    lines: Iterator[bytes] = _lines(piece.file, stream)
    if piece.end is not None:
        lines = _until(lines, stream, piece.end)
    names = source.schema.names[:-1]
    for some in _batched(lines, len):
        objects, faults = map(list, zip(*map(as_object, some), strict=True))
        for at, line in enumerate(some):
            new = objects[at].keys() - set(names)
            if new and not source.forgiving:
                raise FileError(_unfit(piece.file, source, min(new), f"stands in the line {_short(line)}"))
            fault = _unfit(piece.file, source, min(new), "is new") if new else faults[at]
            objects[at][source.column], faults[at] = text_of(objects[at], fault, line, source.column)
        columns = {name: [one.get(name) for one in objects] for name in names}
        for field in list(source.schema)[:-1]:
            for at in _misfits(columns[field.name], field):
                value = (
                    f"holds {_short(json.dumps(columns[field.name][at]).encode())}, which is no {field.type}"
                )
                fault = _unfit(piece.file, source, field.name, value)
                if not source.forgiving:
                    raise FileError(fault)
                columns[field.name][at] = None
                faults[at], columns[source.column][at] = fault, some[at].decode("utf-8", "replace").rstrip()
        yield _batch(source, columns, faults)


def _short(line: bytes) -> str:
    return line[:60].decode("utf-8", "replace").strip() + ("…" if len(line) > 60 else "")


def _unfit(file: Path, source: Source, name: str, what: str) -> str:
    if source.forgiving:
        return f"{file}: the column {name!r} {what}; the columns are those of the first file of the stream"
    return (
        f"{file}: the column {name!r} {what}; the columns are those of the first {SAMPLE:,} lines of {source.files[0]}. "
        "Have such a line among them, or make it fit"
    )


def _misfits(values: list[Any], field: pa.Field) -> list[int]:
    """Return the places of values that are not of the type of their column."""
    if field.metadata == _AS_JSON:
        return []
    if field.type == pa.int64() and float in set(map(type, values)):  # which Arrow would cut
        return [at for at, value in enumerate(values) if not _fits(value, field)]
    try:
        pa.array(values, field.type)
    except UnicodeEncodeError:
        return [at for at, value in enumerate(values) if not isinstance(value, str | None)]
    except (pa.ArrowException, OverflowError):
        return [at for at, value in enumerate(values) if not _fits(value, field)]
    return []


def _fits(value: Any, field: pa.Field) -> bool:
    if field.type == pa.int64() and isinstance(value, float):
        return False
    try:
        pa.array([value], field.type)
    except UnicodeEncodeError:
        return True
    except (pa.ArrowException, OverflowError):
        return False
    return True


def _until(lines: Iterator[bytes], stream: io.BufferedReader, end: int) -> Iterator[bytes]:
    while stream.tell() < end and (line := next(lines, None)) is not None:
        yield line


def _batched(rows: Iterable[Any], size: Any) -> Iterator[list[Any]]:
    some: list[Any] = []
    weight = 0
    for row in rows:
        some.append(row)
        weight += size(row)
        if len(some) == ROWS or weight >= BYTES:
            yield some
            some, weight = [], 0
    if some:
        yield some


def _batch(source: Source, columns: dict[str, list[Any]], faults: list[str | None]) -> pa.RecordBatch:
    arrays = []
    for field in list(source.schema)[:-1]:
        values = columns[field.name]
        if field.metadata == _AS_JSON:
            values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
        try:
            arrays.append(pa.array(values, field.type))
        except UnicodeEncodeError:
            for at, value in enumerate(values):
                if isinstance(value, str) and _SURROGATE.search(value):
                    values[at] = readable(value)
                    faults[at] = faults[at] or f"{field.name!r} holds what is not UTF-8"
            arrays.append(pa.array(values, field.type))
    return pa.RecordBatch.from_arrays([*arrays, pa.array(faults, pa.string())], schema=source.schema)


def _read_parquet(source: Source, piece: Piece) -> Iterator[tuple[pa.RecordBatch, int]]:
    with pq.ParquetFile(piece.file, pre_buffer=False, buffer_size=2**20) as file:
        groups = range(piece.begin, file.num_row_groups if piece.end is None else piece.end)
        size = piece.file.stat().st_size
        rows = 0
        for batch in file.iter_batches(ROWS, row_groups=list(groups), use_threads=False):
            rows += len(batch)
            yield _from_arrow(source, batch), size * rows // max(file.metadata.num_rows, 1)


def _from_arrow(source: Source, batch: pa.RecordBatch) -> pa.RecordBatch:
    faults = pa.nulls(len(batch), pa.string())
    arrays = []
    for name, values in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if name == source.column:
            values, faults = _valid(values)
        arrays.append(values)
    return pa.RecordBatch.from_arrays([*arrays, faults], schema=source.schema)


def _valid(values: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return strings, and a fault for each that is not UTF-8: a Parquet file may hold any bytes."""
    if pa.types.is_null(values.type):
        return values.cast(pa.string()), pa.nulls(len(values), pa.string())
    try:
        strings = values.cast(pa.string())
        strings.validate(full=True)
    except pa.ArrowInvalid:
        decoded: list[str | None] = []
        faults: list[str | None] = []
        for value in values.cast(pa.large_binary()).to_pylist():
            try:
                decoded.append(None if value is None else value.decode())
                faults.append(None)
            except UnicodeDecodeError:
                decoded.append(value.decode("utf-8", "replace"))
                faults.append("text is not UTF-8")
        return pa.array(decoded, pa.string()), pa.array(faults, pa.string())
    return strings, pa.nulls(len(values), pa.string())


Write = Callable[[pa.RecordBatch], None]


@contextmanager
def writing(path: Path, form: str, compression: str | None, schema: pa.Schema) -> Iterator[Write]:
    """Give a function that writes batches of a schema to a new file, which is complete when the block ends.

    Parameters
    ----------
    path : Path
    form, compression : str, str or None
        As :func:`form_of` returns them.
    schema : Schema

    Raises
    ------
    FileError
        If a value does not go into this format.
    """
    with ExitStack() as stack:
        if form == "parquet":
            write = stack.enter_context(_parquet(path, schema))
        else:
            stream = stack.enter_context(pa.output_stream(str(path), compression=compression))
            write = stack.enter_context((_csv if form == "csv" else _json)(stream, schema))

        def checked(batch: pa.RecordBatch) -> None:
            try:
                write(batch)
            except (ValueError, OverflowError) as error:  # those of Arrow are such too
                why = str(error).splitlines()[0][:200]
                raise FileError(f"a value cannot be written as {form}: {why}; give another format") from None

        yield checked


@contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[Write]:
    schema = schema.remove_metadata()
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        waiting: list[pa.RecordBatch] = []

        def flush() -> None:
            file.write_table(pa.Table.from_batches(waiting, schema))
            waiting.clear()

        def write(batch: pa.RecordBatch) -> None:
            waiting.append(batch.cast(schema))
            if sum(one.nbytes for one in waiting) >= GROUP:  # a row group for each batch would be a slow file
                flush()

        yield write
        flush()


@contextmanager
def _csv(stream: pa.NativeFile, schema: pa.Schema) -> Iterator[Write]:
    flat = pa.schema([(field.name, _flat(field.type)) for field in schema])
    options = pyarrow.csv.WriteOptions(quoting_style="needed")
    with pyarrow.csv.CSVWriter(stream, flat, write_options=options) as file:
        yield lambda batch: file.write_batch(
            pa.RecordBatch.from_arrays([_as_text(values) for values in batch.columns], schema=flat)
        )


@contextmanager
def _json(stream: pa.NativeFile, schema: pa.Schema) -> Iterator[Write]:
    parsed = [field.name for field in schema if field.metadata == _AS_JSON]

    def write(batch: pa.RecordBatch) -> None:
        for row in batch.to_pylist():
            for name in parsed:
                row[name] = None if row[name] is None else json.loads(row[name])
            stream.write(f"{json.dumps(row, ensure_ascii=False, default=str)}\n".encode())

    yield write


def _flat(kind: pa.DataType) -> pa.DataType:
    simple = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return kind if simple or pa.types.is_temporal(kind) else pa.string()


def _as_text(values: pa.Array) -> pa.Array:
    if _flat(values.type) == values.type:
        return values
    if pa.types.is_nested(values.type):
        return pa.array(
            [
                None if v is None else json.dumps(v, ensure_ascii=False, default=str)
                for v in values.to_pylist()
            ],
            pa.string(),
        )
    return values.cast(pa.string())
