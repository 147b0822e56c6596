"""Every kind of request that users send, and what comes back: one list, which the tests ask and ``docs/api.md`` shows.

``python -m tests.cases`` prints the tables of that page.
"""

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence

import pandas as pd

SECRET = "zq7Secret"  # stands in every bad request; neither answers nor log lines may repeat it
JSON = {"Content-Type": "application/json"}
CSV = {"Content-Type": "text/csv"}
PARQUET = {"Content-Type": "application/vnd.apache.parquet"}
GOOD = json.dumps({"inputs": [f"A wonderful film. {SECRET}"]}).encode()
FIRST, LAST = "A wonderful film.", "Dull."  # the good rows around a questionable one

Request = tuple[dict[str, str], bytes]


def body(**fields: object) -> bytes:
    """JSON of an object."""
    return json.dumps(fields).encode()


def _json(pattern: str, item: str = "%s") -> Callable[[list[str]], Request]:
    def form(values: list[str]) -> Request:
        return JSON, (pattern % ", ".join(item % value for value in values)).encode(errors="surrogatepass")

    return form


# a request of values that are written in JSON already
FORMS: dict[str, Callable[[list[str]], Request]] = {
    "dataframe_split": _json('{"dataframe_split": {"columns": ["text"], "data": [%s]}}', "[%s]"),
    "dataframe_records": _json('{"dataframe_records": [%s]}', '{"text": %s}'),
    "inputs": _json('{"inputs": [%s]}'),
    "instances": _json('{"instances": [%s]}'),
    "inputs by column": _json('{"inputs": {"text": [%s]}}'),
    "instances by record": _json('{"instances": [%s]}', '{"text": %s}'),
}


def as_csv(texts: list[str]) -> Request:
    """A CSV request of texts."""
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["text"], *([text] for text in texts)])
    return CSV, file.getvalue().encode()


def as_parquet(texts: Sequence[str | None]) -> Request:
    """A Parquet request of texts."""
    return PARQUET, pd.DataFrame({"text": pd.array(texts, dtype="string")}).to_parquet()


# answered alike in every form
TEXTS = {
    "one character": "a",
    "control characters": "A wonderful\x01\x1b\t film.",
    "a NUL": "A wonderful\0 film.",
    "a NUL at the end": "A wonderful film.\0",
    "a byte order mark": "\ufeffA wonderful film.",
    "right-to-left letters and marks": "\u202bفيلم رائع\u202c",
    "emoji with modifiers": "👩🏽\u200d🚀👍🏿 wonderful",
    "combining marks": "A wonderful film, cafe\u0301 scenes, z\u0351\u0369\u034a",
    "zero-width characters": "A won\u200bder\u200dful film.",
    "mixed scripts": "A w\u043enderful кино 映画",
    "full-width letters": "Ａ ｗｏｎｄｅｒｆｕｌ ｆｉｌｍ",
    "HTML": "<b>A wonderful film.</b><br />So &eacute;&amp;&#33;",
    "a script tag": "<script>alert('x')</script> dull",
    "an entity of 5,000 digits": "A wonderful film. &#" + "1" * 5000 + "; &#x" + "1" * 5000 + ";",
    "an open tag": "<" * 1000 + " dull",
    "another language": "Ein wunderbarer Film.",
    "JSON": '{"inputs": ["dull"]}',
    "a formula of a spreadsheet": '=HYPERLINK("http://x")',
    "quotes, commas and line breaks": 'He said "wonderful", twice,\nand left.\r\n',
    "inf": "inf",
    "N/A": "N/A",
    "None, and more": "None of it works.",
    "1 MB": "A wonderful film. " * 58_000,
    "1 MB of combining marks": "e" + "\u0301\u0327" * 250_000,  # to sort them all took minutes
    "10 MB": "A dull film. " * 800_000,
}
NOT_IN_CSV = {
    name for name, text in TEXTS.items() if "\0" in text or text == "N/A"
}  # pandas ends a field at a NUL

NULL, BLANK = "text is null", "text is blank"
SCORED, REFUSED = "scored", "400"


def _arrives(word: str) -> str:
    return f"text is '{word}', which is how a missing value arrives"


def _kind(name: str) -> str:
    return f"text is of type {name}"


# a value in JSON: what its row says in dataframe_split and dataframe_records; in inputs and instances; and there, by column
VALUES = {
    "`null`": ("null", NULL, _arrives("None"), _arrives("None")),
    "`NaN`": ("NaN", NULL, _arrives("nan"), _arrives("nan")),
    '`""`': ('""', BLANK, BLANK, BLANK),
    "white space": (json.dumps(" \t\n\u00a0\u3000"), BLANK, BLANK, BLANK),
    "NULs": (json.dumps("\0\0"), BLANK, BLANK, BLANK),
    "invisible characters": (json.dumps("\u200b\ufeff\x07 \u200d"), BLANK, BLANK, BLANK),
    '`"None"`': ('"None"', *(_arrives("None"),) * 3),
    '`"nan"` and white space': ('" nan\\n\\u0000"', *(_arrives("nan"),) * 3),
    '`"NULL"`': ('"NULL"', *(_arrives("NULL"),) * 3),
    "`5`": ("5", _kind("int"), SCORED, SCORED),
    "`1.5`": ("1.5", _kind("float"), SCORED, SCORED),
    "`Infinity`, `1e400`": ("1e400", _kind("float"), SCORED, SCORED),
    "`true`": ("true", _kind("bool"), SCORED, SCORED),
    "a list": ('["a wonderful film"]', _kind("list"), REFUSED, REFUSED),
    "an object": ('{"a": "b"}', _kind("dict"), REFUSED, SCORED),
    "half of a surrogate pair": ('"A \\ud800 film."', REFUSED, REFUSED, REFUSED),
}
# a CSV field: what its row says
FIELDS = {
    "`NA`, `N/A`, `null`, `None`, `nan`, `#N/A` …": ("#N/A", NULL),
    '`""`': ('""', NULL),
    '`" "`': ('" "', BLANK),
    "`none`, `NONE`": ("NONE", _arrives("NONE")),
    "`5`": ("5", SCORED),
    "`True`": ("True", SCORED),
    "`=1+1`": ("=1+1", SCORED),
}

# answered, though one may not expect it: the request, its number of answers, and what to know
ODD: dict[str, tuple[Request, int, str]] = {
    "no rows": ((JSON, b'{"inputs": []}'), 0, "an empty list"),
    "a table without rows": (
        (JSON, b'{"dataframe_split": {"columns": ["text"], "data": []}}'),
        0,
        "an empty list",
    ),
    "CSV, the first line alone": ((CSV, b"text\n"), 0, "an empty list"),
    "Parquet without rows": (as_parquet([]), 0, "an empty list"),
    "one more column": ((JSON, body(dataframe_records=[{"text": FIRST, "stars": 5}])), 1, "it is ignored"),
    "CSV, one more column": ((CSV, f"id,text\n1,{FIRST}\n".encode()), 1, "it is ignored"),
    "one more key": ((JSON, body(inputs=[FIRST], id=5)), 1, "it is ignored"),
    "a key twice": (
        (JSON, b'{"inputs": ["x", "y"], "inputs": ["A wonderful film."]}'),
        1,
        "the last one counts",
    ),
    "an unknown param": ((JSON, body(inputs=[FIRST], params={"temperature": 1})), 1, "it is ignored"),
    "`params` is null or empty": ((JSON, body(inputs=[FIRST], params=None)), 1, "as without it"),
    "`dataframe_records`, one without the column": (
        (JSON, body(dataframe_records=[{"text": FIRST}, {"review": "x"}])),
        2,
        "its row says that the text is null",
    ),
    "`instances`, one without the column": (
        (JSON, body(instances=[{"text": FIRST}, {"review": "x"}])),
        1,
        "**MLflow drops the row**: one answer less than rows; send `dataframe_records`",
    ),
    "`inputs`, `instances`, all texts in lists": (
        (JSON, body(inputs=[[FIRST], [LAST]])),
        2,
        "each row says that its text is of type list",
    ),
    "`messages`, `prompt` or `input` beside `text`": (
        (JSON, body(text=FIRST, prompt="")),
        1,
        "**MLflow takes it for a prompt**: a list of one row, without `predictions`",
    ),
    "`inputs`, a text for the column": ((JSON, body(inputs={"text": FIRST})), 1, "one row"),
    "a byte order mark before JSON": (
        (JSON, b'\xef\xbb\xbf{"inputs": ["A wonderful film."]}'),
        1,
        "as without it",
    ),
    "JSON in UTF-16 or UTF-32": (
        (JSON, '{"inputs": ["A wonderful film."]}'.encode("utf-16")),
        1,
        "as in UTF-8",
    ),
    "`application/json; charset=utf-8`": (
        ({"Content-Type": "application/json; charset=utf-8"}, body(inputs=[FIRST])),
        1,
        "as without it",
    ),
    "CSV, a byte order mark": ((CSV, f"\ufefftext\n{FIRST}\n".encode()), 1, "as without it"),
    "CSV, lines ended by CR LF": ((CSV, f"text\r\n{FIRST}\r\n".encode()), 1, "as with LF"),
    "CSV, a blank line": (
        (CSV, f"text\n{FIRST}\n\n{LAST}\n".encode()),
        2,
        '**pandas drops it**: quote it, `""`',
    ),
    "CSV, a comma without quotes": (
        (CSV, b"text\nDull, but A wonderful film.\n"),
        1,
        "**pandas takes what stands before the last comma for a name of the row**: quote it",
    ),
    "CSV, a NUL in a field": (
        (CSV, b"text\nDull.\0 A wonderful film.\n"),
        1,
        "**pandas ends the field there**",
    ),
}
for form, request in FORMS.items():
    ODD[f"`{form}`, 10,000 rows"] = (
        request([json.dumps(FIRST)] * 10_000),
        10_000,
        "100,000 are the bound, with `explain` 10,000",
    )

NOT_JSON = "the body is not JSON in UTF-8"
KEYS = "exactly one of the keys inputs, instances, dataframe_split and dataframe_records"
NO_COLUMN = "there is no column named text"
SPLIT = 'dataframe_split must look like {"columns": ["text"], "data": '
RECORDS = 'dataframe_records must look like [{"text": '
FLAT = "one flat list of strings"
NO_TABLE = "the texts are no table"
PARAMS = "params must be a JSON object with values of the right types"
RANGE = "send a whole number from 0 (no explanation) to 100"
ANY = "the request does not fit the model"  # what went wrong stands past what the proxy looks at
PLAINER = "nested deeper than 900 levels, or holds a number of more than 4,300 digits"
ROWS = "rows; send at most 100,000 at once, with explain 10,000"
FIRST_LINE = "the first line of the CSV is longer than 8,000 bytes or holds a line break"
NO_CSV = "the CSV cannot be read"
NO_PARQUET = "the Parquet file cannot be read"
NO_UTF8 = "the CSV is not in UTF-8"
LONG = SECRET * 20_000

BAD_JSON: dict[str, tuple[bytes, str]] = {
    "empty": (b"", NOT_JSON),
    "blank": (b"   ", NOT_JSON),
    "cut off": (GOOD[:-2], NOT_JSON),
    "cut off, longer than the proxy looks": (b'{"inputs": ["' + LONG.encode(), NOT_JSON),
    "a bare word": (SECRET.encode(), NOT_JSON),
    "single quotes": (GOOD.replace(b'"', b"'"), NOT_JSON),
    "invalid UTF-8": (GOOD.replace(b"film", b"\xff\xfe"), NOT_JSON),
    "a raw NUL": (GOOD.replace(b"film", b"\0"), NOT_JSON),
    "compressed and not said so": (gzip.compress(GOOD), NOT_JSON),
    "a list": (json.dumps([SECRET]).encode(), KEYS),
    "a string": (json.dumps(SECRET).encode(), KEYS),
    "a number": (b"5", KEYS),
    "null": (b"null", KEYS),
    "no keys": (b"{}", KEYS),
    "an unknown key": (body(**{SECRET: [SECRET]}), KEYS),
    "a long unknown key": (body(**{LONG: 1}), KEYS),
    "a table without its key": (body(columns=["text"], data=[[SECRET]]), KEYS),
    "two keys": (body(inputs=[SECRET], instances=[SECRET]), KEYS),
    "a chat": (body(messages=[{"role": "user", "content": SECRET}]), NO_COLUMN),
    "a prompt": (body(prompt=SECRET), NO_COLUMN),
    "input": (body(input=SECRET), NO_COLUMN),
    "5,000 digits": (GOOD[:-1] + b', "n": ' + b"9" * 5000 + b"}", PLAINER),
    "100,000 lists": (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", PLAINER),
    "100,000 lists, never closed": (b'{"inputs": ["%s", ' % SECRET.encode() + b"[" * 100_000, PLAINER),
    "2,000 objects": (b'{"inputs": ' + b'{"a": ' * 2000 + b"1" + b"}" * 2001, PLAINER),
    "900 lists": (b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}", "the texts are nested too deep"),
    "5,000 digits, further on than the proxy looks": (
        GOOD[:-1] + b', "x": "' + b"x " * 12_000 + b'", "n": ' + b"9" * 5000 + b"}",
        PLAINER,
    ),
    "100,000 lists, further on than the proxy looks": (
        GOOD[:-1] + b', "x": "' + b"x " * 12_000 + b'", "n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        PLAINER,
    ),
    "5,000 digits in UTF-16": ((GOOD.decode()[:-1] + ', "n": ' + "9" * 5000 + "}").encode("utf-16"), PLAINER),
    "100,001 rows": (body(dataframe_records=[{"text": "a"}] * 100_001), ROWS),
    "10,001 rows, with explain": (body(inputs=["a"] * 10_001, params={"explain": 1}), ROWS),
    "too much memory": (body(inputs=[SECRET * 40_000] + ["a"] * 4000), "too much memory"),
}
for form in ("inputs", "instances"):
    BAD_JSON |= {
        f"{form}: a string": (body(**{form: SECRET}), NO_COLUMN),
        f"{form}: a number": (body(**{form: 5}), NO_COLUMN),
        f"{form}: null": (body(**{form: None}), NO_COLUMN),
        f"{form}: true": (body(**{form: True}), NO_COLUMN),
        f"{form}: an empty object": (body(**{form: {}}), NO_COLUMN),
        f"{form}: an unknown column": (body(**{form: {SECRET: [SECRET]}}), NO_COLUMN),
        f"{form}: records without the column": (body(**{form: [{"review": SECRET}]}), NO_COLUMN),
        f"{form}: texts and records": (body(**{form: [SECRET, {"text": SECRET}]}), NO_COLUMN),
        f"{form}: ragged": (body(**{form: [[SECRET], [SECRET, SECRET]]}), FLAT),
        f"{form}: texts and lists": (body(**{form: [SECRET, [SECRET]]}), FLAT),
        f"{form}: columns of two lengths": (
            body(**{form: {"text": [SECRET], "other": [SECRET] * 2}}),
            NO_TABLE,
        ),
        f"{form}: half of a surrogate pair": (body(**{form: [f"{SECRET}\ud800"]}), NO_TABLE),
        f"{form}: an unknown column, longer than the proxy looks": (
            body(**{form: {"review": [LONG] * 5}}),
            ANY,
        ),
    }
BAD_JSON |= {
    f"dataframe_split: {what}": (body(dataframe_split=value), said)
    for what, value, said in [
        ("a string", SECRET, SPLIT),
        ("a list", [SECRET], SPLIT),
        ("null", None, SPLIT),
        ("an empty object", {}, SPLIT),
        ("no data", {"columns": [SECRET]}, SPLIT),
        ("an unknown key", {"columns": ["text"], "data": [[SECRET]], SECRET: 1}, SPLIT),
        ("fewer columns than names", {"columns": ["text", "other"], "data": [[SECRET]]}, SPLIT),
        ("more columns than names", {"columns": ["text"], "data": [[SECRET, SECRET]]}, SPLIT),
        ("data is a string", {"columns": ["text"], "data": SECRET}, SPLIT),
        ("columns is a string", {"columns": SECRET, "data": [[SECRET]]}, SPLIT),
        ("half of a surrogate pair", {"columns": ["text"], "data": [[f"{SECRET}\ud800"]]}, SPLIT),
        ("no columns", {"data": [[SECRET]]}, NO_COLUMN),
        ("an unknown column", {"columns": [SECRET], "data": [["a"]]}, NO_COLUMN),
        ("columns are lists", {"columns": [["text"], [SECRET]], "data": [[SECRET]]}, NO_COLUMN),
        ("the column twice", {"columns": ["text", "text"], "data": [[SECRET, SECRET]]}, "the columns do not"),
    ]
}
BAD_JSON |= {
    f"dataframe_records: {what}": (body(dataframe_records=value), said)
    for what, value, said in [
        ("a string", SECRET, RECORDS),
        ("a number", 5, RECORDS),
        ("null", None, RECORDS),
        ("an object", {"text": SECRET}, RECORDS),
        ("half of a surrogate pair", [{"text": f"{SECRET}\ud800"}], RECORDS),
        ("no records", [], NO_COLUMN),
        ("null among them", [None], NO_COLUMN),
        ("texts", [SECRET], NO_COLUMN),
        ("lists", [[SECRET], [SECRET, SECRET]], NO_COLUMN),
        ("an unknown column", [{"review": SECRET}], NO_COLUMN),
        ("a long text under an unknown name", [{"review": LONG}] * 20, NO_COLUMN),
        ("3,000 unknown columns", [{f"{SECRET}{n}": 1 for n in range(3000)}], NO_COLUMN),
    ]
}
BAD_JSON |= {
    f"params: {what}": (body(inputs=[SECRET], params=value), said)
    for what, value, said in [
        ("a string", SECRET, PARAMS),
        ("a list", [SECRET], PARAMS),
        ("a number", 5, PARAMS),
        ("explain is a string", {"explain": SECRET}, PARAMS),
        ("explain is a list", {"explain": [SECRET]}, PARAMS),
        ("explain is an object", {"explain": {"a": SECRET}}, PARAMS),
        ("explain is true", {"explain": True}, PARAMS),
        ("explain is 1.5", {"explain": 1.5}, PARAMS),
        ("explain is Infinity", {"explain": float("inf")}, PARAMS),
        ("explain is null", {"explain": None}, f"params: explain is null; {RANGE}"),
        ("explain is 101", {"explain": 101}, f"params: explain is 101; {RANGE}"),
        ("explain is -1", {"explain": -1}, f"params: explain is -1; {RANGE}"),
        ("explain is long", {"explain": int("9" * 400)}, "params: explain is 9999"),
    ]
}
BAD_JSON |= {
    "params: with a text that looks like a message": (
        body(
            inputs=[f'x\'. \nError: {SECRET}", "refused": "{SECRET}"}}'],
            params={"explain": 101},
        ),
        f"params: explain is 101; {RANGE}",
    ),
    "a column that looks like a message": (
        body(inputs={f'x", "refused": "{SECRET}"}}': ["a"]}),
        NO_COLUMN,
    ),
}
BAD_CSV: dict[str, tuple[bytes, str]] = {
    "empty": (b"", NO_CSV),
    "blank lines": (b"\n\n\n", NO_CSV),
    "ragged": (f"text\n{SECRET}\n{SECRET},{SECRET},{SECRET}\n".encode(), NO_CSV),
    "an open quote": (f'text\n"{SECRET}\n'.encode(), NO_CSV),
    "a long open quote": (f'text\n"{LONG}'.encode(), NO_CSV),
    "invalid UTF-8": (f"text\n{SECRET}".encode() + b"\xff\n", NO_UTF8),
    "an unknown column": (f"review\n{SECRET}\n".encode(), NO_COLUMN),
    "no first line": (f"{SECRET}\n".encode(), NO_COLUMN),
    "semicolons": (f"text;stars\n{SECRET};5\n".encode(), NO_COLUMN),
    "tabs": (f"text\tstars\n{SECRET}\t5\n".encode(), NO_COLUMN),
    "JSON": (GOOD, NO_COLUMN),
    "3,000 columns": (",".join(f"{SECRET}{n}" for n in range(3000)).encode(), FIRST_LINE),
    "a line break in the first line": (f'"te\nxt"\n{SECRET}\n'.encode(), FIRST_LINE),
    "100,001 rows": (b"text\n" + b"a\n" * 100_001, ROWS),
    "NULs": (b"\0" * 100, NO_COLUMN),
}
BAD_PARQUET = {
    "junk": (SECRET.encode(), NO_PARQUET),
    "empty": (b"", NO_PARQUET),
    "its magic alone": (b"PAR1" + SECRET.encode() + b"PAR1", NO_PARQUET),
    "JSON": (GOOD, NO_PARQUET),
    "4,000,000 rows in a few kilobytes": (as_parquet(["a"] * 4_000_000)[1], ROWS),
}
BAD = {
    **{f"JSON, {what}": (JSON, *case) for what, case in BAD_JSON.items()},
    **{f"CSV, {what}": (CSV, *case) for what, case in BAD_CSV.items()},
    **{f"Parquet, {what}": (PARQUET, *case) for what, case in BAD_PARQUET.items()},
}

# what plain `mlflow models serve` answers, where it is not a 400 with MLflow's own message
PLAIN = {name: 500 for name, (_, _, said) in BAD.items() if said == PLAINER}
TRACES = {name for name, (_, _, said) in BAD.items() if said in (NO_CSV, NO_PARQUET)}

BAD_MEDIA = "the Content-Type must be application/json"
MEDIA_TYPES: dict[str, tuple[dict[str, str], str]] = {
    "`text/plain`": ({"Content-Type": "text/plain"}, BAD_MEDIA),
    "an unknown one": ({"Content-Type": f"text/{SECRET}"}, BAD_MEDIA),
    "in other case, `Application/JSON`": ({"Content-Type": "Application/JSON"}, BAD_MEDIA),
    "with another parameter": ({"Content-Type": f"application/json; {SECRET}=1"}, "without other parameters"),
    "`application/json; charset=latin-1`": (
        {"Content-Type": "application/json; charset=latin-1"},
        "in UTF-8",
    ),
    "`multipart/form-data`": ({"Content-Type": "multipart/form-data; boundary=x"}, BAD_MEDIA),
    "empty": ({"Content-Type": ""}, BAD_MEDIA),
    "a long one": ({"Content-Type": "application/" + SECRET * 1000}, BAD_MEDIA),
    "`Content-Encoding: gzip`": (JSON | {"Content-Encoding": "gzip"}, "without a Content-Encoding"),
    "an unknown `Content-Encoding`": (JSON | {"Content-Encoding": SECRET}, "without a Content-Encoding"),
}


def tables() -> dict[str, str]:
    """The tables of ``docs/api.md`` by name, in Markdown."""
    refused = "the whole request is a 400"

    def says(reason: str) -> str:
        return {SCORED: "scored, as the text that MLflow makes of it", REFUSED: refused}.get(reason, reason)

    def table(*rows: tuple[str, ...]) -> str:
        rows = (rows[0], ("---",) * len(rows[0]), *rows[1:])
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)

    plain = {name: f"{PLAIN.get(name, 400)}{', with a trace' if name in TRACES else ''}" for name in BAD}
    return {
        "values": table(
            (
                "value",
                "`dataframe_split`, `dataframe_records`",
                "`inputs`, `instances`",
                "there, by column or record",
            ),
            *((name, *map(says, reasons)) for name, (_, *reasons) in VALUES.items()),
        ),
        "fields": table(
            ("CSV field", "its row"), *((name, says(reason)) for name, (_, reason) in FIELDS.items())
        ),
        "odd": table(
            ("request", "answers", "what to know"), *((n, f"{k:,}", say) for n, (_, k, say) in ODD.items())
        ),
        "bad": table(
            ("request", "plain `mlflow models serve`", "message of the 400 with `FOLLOW=1`"),
            *((name, plain[name], f"… {said} …") for name, (_, _, said) in BAD.items()),
        ),
        "media": table(
            ("`Content-Type`", "message of the 415 with `FOLLOW=1`"),
            *((name, f"… {said} …") for name, (_, said) in MEDIA_TYPES.items()),
        ),
    }


if __name__ == "__main__":
    for name, table in tables().items():
        print(f"<!-- {name} -->\n\n{table}\n")
