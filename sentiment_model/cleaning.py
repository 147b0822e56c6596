"""From a raw review to tokens. Every pattern is linear in the length of the text."""

import html
import re
import unicodedata

# what `html.unescape` replaces: no name in HTML has other characters, and it asks Python about each "&" and what follows;
# a number of more than 4,300 digits it cannot read
_ENTITY = re.compile("&(?:#(?:[0-9]{1,4000}|[xX][0-9a-fA-F]+)|[a-zA-Z][a-zA-Z0-9]{1,31});?")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
# white space, control and invisible characters: a text of nothing else is blank
NOTHING = "".join(
    c
    for c in map(chr, [*range(0x3001), 0xFEFF])
    if c.isspace() or unicodedata.category(c) == "Cc" or _INVISIBLE.match(c)
)
# Python sorts a run of combining marks in time quadratic in its length: none is left longer than Unicode's bound for text that
# streams (UAX #15), by an invisible character that goes afterwards
_COMBINING = "".join(
    c for c in map(chr, range(0x1F000)) if unicodedata.combining(unicodedata.normalize("NFKD", c)[0])
)
_THIRTY = re.compile(f"[{_COMBINING}]{{30}}")
# quick to look for, as the sparse ones past U+FFFF are one range
_RUN = re.compile(f"[{''.join(c for c in _COMBINING if ord(c) < 0x10000)}\U00010000-\U0001efff]{{31,}}")
WORD, MARK = r"\w", r"[^\w\s\x00-\x1f\x7f]"  # character classes: of words, and of marks that stand alone
_TOKEN = re.compile(f"{WORD}+|{MARK}")


def clean(text: str) -> str:
    """Return ``text`` lower-cased, in Unicode NFKC, without HTML tags, entities or invisible characters.

    Examples
    --------
    >>> clean("A <b>wonderful</b> film.<br />Caf&eacute; scenes!")
    'a  wonderful  film. café scenes!'
    """
    return plain(text).lower()


def plain(text: str) -> str:
    """Return what :func:`clean` does, in the letters that the text has."""
    if "&" in text:
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    if "<" in text:
        text = _TAG.sub(" ", text)
    if not text.isascii():
        if not unicodedata.is_normalized("NFKC", text):
            text = _RUN.sub(lambda run: _THIRTY.sub("\\g<0>\u200b", run[0]), text)
            text = unicodedata.normalize("NFKC", text)
        text = _INVISIBLE.sub("", text)
    return text


def encodable(text: str) -> str:
    """Return ``text`` with a question mark for each lone surrogate, which is no character of UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def tokenize(text: str) -> list[str]:
    """Return the words and the single punctuation marks of a raw text, in order.

    Contractions fall apart at the apostrophe, so that ``it's`` and the ``it 's`` of treebank-style
    corpora give the same tokens.

    Examples
    --------
    >>> tokenize("It's GOOD!!")
    ['it', "'", 's', 'good', '!', '!']
    """
    return _TOKEN.findall(clean(text))
