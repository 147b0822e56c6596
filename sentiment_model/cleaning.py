"""From a raw review to tokens. Every pattern is linear in the length of the text."""

import html
import re
import unicodedata

_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
# white space, control and invisible characters: a text of nothing else is blank
NOTHING = "".join(
    c
    for c in map(chr, [*range(0x3001), 0xFEFF])
    if c.isspace() or unicodedata.category(c) == "Cc" or _INVISIBLE.match(c)
)
WORD, MARK = r"\w", r"[^\w\s\x00-\x1f\x7f]"  # character classes: of words, and of marks that stand alone
_TOKEN = re.compile(f"{WORD}+|{MARK}")


def clean(text: str) -> str:
    """Return ``text`` lower-cased, in Unicode NFKC, without HTML tags, entities or invisible characters.

    Examples
    --------
    >>> clean("A <b>wonderful</b> film.<br />Caf&eacute; scenes!")
    'a  wonderful  film. café scenes!'
    """
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = _TAG.sub(" ", text)
    if not text.isascii():
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    return text.lower()


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
