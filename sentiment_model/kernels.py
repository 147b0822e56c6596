"""The inner loops, compiled by numba: from the UTF-8 bytes of a cleaned text to its known n-grams.

An n-gram is found by a chain of look-ups, one for each of its tokens: a word in ``words``, and each longer
n-gram in ``slots`` under the place of its prefix and that of its last token. So no n-gram is ever joined
to a string, and one whose prefix is unknown is not looked up at all: a table holds the prefix of
every n-gram that it holds. Both tables are open addressing with linear probing.

Prefix and last token make a key that no other n-gram has. Multiplied by an odd number it is still one that
no other has; its upper bits are the home of the n-gram in ``slots``. A slot needs to hold the lower bits only, and
how far from home it is: 4 bytes that never take one n-gram for another [1]_.

References
----------
.. [1] J. G. Cleary, "Compact Hash Tables Using Bidirectional Linear Probing", IEEE Transactions on
       Computers C-33, 1984 (the "remainders"; here probed in one direction).
"""

from functools import partial

import numpy as np
from numba import from_dtype, njit, types

WORD = np.dtype(
    [("hash", "u8"), ("begin", "u4"), ("length", "u4"), ("pull", "f4"), ("square", "f4")], align=True
)
VALUE = np.dtype([("pull", "f4"), ("square", "f4")], align=True)
SLOT = np.dtype("u4")
HIT = np.dtype([("token", "i4"), ("order", "i4"), ("pull", "f4"), ("square", "f4")], align=True)

SPACE, MARK, LETTER = 0, 1, 2  # what stands between tokens, is one, and is part of one

_TEXT = types.Array(types.uint8, 1, "C", readonly=True)
_BYTES, _POSITIONS, _INTS, _HASHES = types.uint8[::1], types.int32[::1], types.int64[::1], types.uint64[::1]
_SLOTS = types.uint32[::1]
_FLOATS, _DOUBLES = types.float32[::1], types.float64[::1]
_WORDS, _VALUES, _HITS = (from_dtype(record)[::1] for record in (WORD, VALUE, HIT))
_INT, _HASH = types.int64, types.uint64
_compiled = partial(njit, cache=True, nogil=True, error_model="numpy")

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio
_HALF, _BYTE, _TOP = np.uint64(32), np.uint64(8), np.uint64(56)


@_compiled(types.UniTuple(_INT, 2)(_TEXT, _INT))
def _point(text, i):
    """Return the code point that begins at ``text[i]``, and where the next one does."""
    point = np.int64(text[i])
    if point < 0x80:
        return point, i + 1
    more = 1 if point < 0xE0 else 2 if point < 0xF0 else 3
    point &= 0x3F >> more
    for j in range(i + 1, i + 1 + more):
        point = point << 6 | text[j] & 0x3F
    return point, i + 1 + more


@_compiled(_HASH(_HASH, types.uint8))
def _hash(value, byte):
    """Return the hash of a token with one more byte: eight bytes are their own hash."""
    return (value << _BYTE | byte) ^ (value >> _TOP) * _MULTIPLIER


@_compiled(_INT(_TEXT, _BYTES, _POSITIONS, _POSITIONS, _HASHES))
def _tokenize(text, classes, begins, ends, hashes):
    """Find the tokens of a text; fill their spans and hashes, return their number."""
    n = 0
    i = 0
    while i < len(text):
        start, value, kind = i, np.uint64(0), LETTER
        while i < len(text) and text[i] < 0x80 and classes[text[i]] == LETTER:  # fast, where it is enough
            value = _hash(value, text[i])
            i += 1
        while i < len(text) and kind == LETTER:
            point, after = _point(text, i)
            if i > start and classes[point] != LETTER:
                break
            kind = classes[point]
            for j in range(i, after):
                value = _hash(value, text[j])
            i = after
        if kind != SPACE:
            begins[n], ends[n], hashes[n] = start, i, value
            n += 1
    return n


@_compiled(_INT(_TEXT, _INT, _INT, _HASH, _BYTES, _WORDS))
def _find_word(text, begin, end, value, letters, words):
    """Return the place in ``words`` of the token ``text[begin:end]``; of an absent one, ~ that of the gap."""
    mask = len(words) - 1
    place = np.int64(value * _MULTIPLIER >> _HALF) & mask
    while words[place].length:
        if words[place].hash == value and words[place].length == end - begin:
            same = 0 if end - begin > 8 else end - begin
            while begin + same < end and letters[words[place].begin + same] == text[begin + same]:
                same += 1
            if begin + same == end:
                return place
        place = (place + 1) & mask
    return ~place


@_compiled(types.Tuple((_INT, _INT))(_WORDS, _SLOTS))
def _bits(words, slots):
    """Return how many bits of a key a slot holds, and how many a key has; ``slots`` is no shorter than ``words``."""
    low = 1
    while 1 << low - 1 < len(words):
        low += 1
    whole = low
    while 1 << whole - low < len(slots):
        whole += 1
    return low, whole


@_compiled(_HASH(_INT, _INT, _INT, _WORDS))
def _key(prefix, word, bits, words):
    """Return a number of so many bits that stands for one n-gram alone."""
    return np.uint64(prefix * len(words) + word) * _MULTIPLIER & np.uint64((1 << bits) - 1)


@_compiled(types.Tuple((_INT, types.uint32))(_HASH, _INT))
def _home(key, low):
    """Return the home of a key, and what stands there in its slot."""
    return np.int64(key >> np.uint64(low)), np.uint32(key & np.uint64((1 << low) - 1)) + np.uint32(1 << low)


@_compiled(_INT(_HASH, _INT, _SLOTS))
def _find_slot(key, low, slots):
    """Return the place in ``slots`` of an n-gram; of an absent one, ~ that of the gap."""
    mask = len(slots) - 1
    place, content = _home(key, low)
    while slots[place]:
        if slots[place] == content:
            return place
        place = (place + 1) & mask
        content += np.uint32(1 << low)
    return ~place


@_compiled(_INT(_TEXT, _INTS, _FLOATS, _FLOATS, _BYTES, _BYTES, _WORDS, _SLOTS, _VALUES))
def fill(ngrams, ends, pull, square, classes, letters, words, slots, values):
    """Fill the empty ``letters``, ``words``, ``slots`` and ``values``.

    Parameters
    ----------
    ngrams : ndarray of uint8
        All n-grams, each after its own prefix, as one UTF-8 text; tokens are joined by a space.
    ends : ndarray of int64 of shape (n_ngrams,)
        Where each ends in it.
    pull, square : ndarray of float32 of shape (n_ngrams,)
        Idf times weight, idf squared.
    classes : ndarray of uint8 of shape (0x110000,)
        SPACE, MARK or LETTER for each code point.
    letters : ndarray of uint8, as long as ``ngrams``
    words, slots : ndarray of WORD and of SLOT
        All zero. Their lengths are powers of two; ``slots`` is no shorter.
    values : ndarray of VALUE, as long as ``slots``

    Returns
    -------
    int
        The row of an n-gram whose prefix or last token is not in the table, or that stands there twice, or that
        is too far from its home; -1 if there is none.
    """
    low, bits = _bits(words, slots)
    longest = 0
    begin = 0
    for row in range(len(ends)):
        longest = max(longest, ends[row] - begin)
        begin = ends[row]
    begins, stops = np.empty(longest, np.int32), np.empty(longest, np.int32)
    hashes = np.empty(longest, np.uint64)
    many = crowd = 1  # one gap is left, at which a search ends
    for first in (True, False):
        begin = used = 0
        for row in range(len(ends)):
            ngram = ngrams[begin : ends[row]]
            begin = ends[row]
            n = _tokenize(ngram, classes, begins, stops, hashes)
            if (n == 1) != first:
                continue
            if n == 1:
                word = ~_find_word(ngram, begins[0], stops[0], hashes[0], letters, words)
                if word < 0 or many == len(words):
                    return row
                many += 1
                words[word].hash = hashes[0]
                words[word].begin, words[word].length = used, stops[0] - begins[0]
                words[word].pull, words[word].square = pull[row], square[row]
                for j in range(begins[0], stops[0]):
                    letters[used] = ngram[j]
                    used += 1
                continue
            node = -1
            for k in range(n):
                word = _find_word(ngram, begins[k], stops[k], hashes[k], letters, words)
                if word < 0:
                    return row
                if k == 0:
                    node = word
                    continue
                key = _key(node, word, bits, words)
                slot = _find_slot(key, low, slots)
                if k < n - 1:
                    if slot < 0:
                        return row
                    node = len(words) + slot
                    continue
                home, content = _home(key, low)
                content = (((~slot - home) & (len(slots) - 1)) << low) + np.int64(content)
                if slot >= 0 or content >> 32 or crowd == len(slots):
                    return row
                crowd += 1
                slots[~slot] = content
                values[~slot].pull, values[~slot].square = pull[row], square[row]
    return -1


@_compiled(
    types.Tuple((types.float64, types.float64, _INT))(
        _TEXT, _INT, _BYTES, _BYTES, _WORDS, _SLOTS, _VALUES, _HITS
    )
)
def _known(text, ngram_max, classes, letters, words, slots, values, hits):
    """Return pulls and squares summed over the distinct known n-grams of a text; their number.

    Write as many of them to ``hits`` as it holds.
    """
    begins, ends = np.empty(len(text), np.int32), np.empty(len(text), np.int32)
    hashes = np.empty(len(text), np.uint64)
    n = _tokenize(text, classes, begins, ends, hashes)
    token, node = np.empty(n, np.int32), np.empty(n, np.int32)
    keys, ahead = np.empty(n, np.uint64), np.empty(n, np.uint32)
    size = 8
    while size < 2 * n:
        size *= 2
    seen = np.empty(size, np.int32)
    mask = len(slots) - 1
    low, bits = _bits(words, slots)
    pull = square = 0.0
    found = 0
    live = 0
    starts = begins  # the spans are not needed once the words are found
    for j in range(n):
        token[j] = _find_word(text, begins[j], ends[j], hashes[j], letters, words)
        if token[j] >= 0:
            starts[live], node[live] = j, token[j]
            live += 1
    for order in range(1, ngram_max + 1):
        if order > 1:
            candidates = 0
            for j in range(live):
                last = starts[j] + order - 1
                if last < n:
                    keys[candidates] = _key(node[j], token[last], bits, words)
                    starts[candidates] = starts[j]
                    candidates += 1 if token[last] >= 0 else 0  # which no branch has to foresee
            for j in range(candidates):
                ahead[j] = slots[_home(keys[j], low)[0]]  # memory answers such independent reads side by side
            live = 0
            for j in range(candidates):
                place, content = _home(keys[j], low)
                other = ahead[j]
                while other != content and other:
                    place = (place + 1) & mask
                    content += np.uint32(1 << low)
                    other = slots[place]
                starts[live], node[live] = starts[j], len(words) + place
                live += 1 if other else 0
        for j in range(size):
            seen[j] = -1
        for j in range(live):
            place = node[j] & (size - 1)
            while seen[place] != -1 and seen[place] != node[j]:
                place = (place + 1) & (size - 1)
            if seen[place] == -1:
                seen[place] = node[j]
                if order == 1:
                    p, s = words[node[j]].pull, words[node[j]].square
                else:
                    p, s = values[node[j] - len(words)].pull, values[node[j] - len(words)].square
                pull += p
                square += s
                if found < len(hits):
                    hits[found].token, hits[found].order = starts[j], order
                    hits[found].pull, hits[found].square = p, s
                found += 1
    return pull, square, found


@_compiled(types.void(_TEXT, _INTS, _INT, _BYTES, _BYTES, _WORDS, _SLOTS, _VALUES, _HITS, _DOUBLES, _DOUBLES))
def score(texts, ends, ngram_max, classes, letters, words, slots, values, hits, scores, known):
    """Fill ``scores``, ``known`` and ``hits``.

    Parameters
    ----------
    texts : ndarray of uint8
        Cleaned texts, one after the other, in UTF-8.
    ends : ndarray of int64 of shape (n_texts,)
        Where each ends.
    ngram_max : int
    classes, letters, words, slots, values
        As :func:`fill` left them.
    hits : ndarray of HIT
        Filled with the known n-grams of the last text, as many as it holds.
    scores, known : ndarray of float64 of shape (n_texts,)
        The sum of the pulls of its known n-grams by the root of the sum of their squares; their number.
    """
    begin = 0
    for i in range(len(ends)):
        pull, square, n = _known(
            texts[begin : ends[i]], ngram_max, classes, letters, words, slots, values, hits
        )
        scores[i] = pull / np.sqrt(square) if n else 0.0
        known[i] = n
        begin = ends[i]
