"""The inner loops, compiled by numba: from the UTF-8 bytes of a cleaned text to its known n-grams.

An n-gram is found by a chain of look-ups, one for each of its tokens: a word in ``words``, and each longer
n-gram in ``slots`` under the place of its prefix and that of its last token. So no n-gram is ever joined
to a string, and one whose prefix is unknown is not looked up at all: a table holds the prefix of
every n-gram that it holds. Both tables are open addressing with linear probing, at most half full.
"""

from functools import partial

import numpy as np
from numba import from_dtype, njit, types

WORD = np.dtype(
    [("hash", "u8"), ("begin", "u4"), ("length", "u4"), ("pull", "f4"), ("square", "f4")], align=True
)
SLOT = np.dtype([("key", "u8"), ("pull", "f4"), ("square", "f4")], align=True)
HIT = np.dtype([("token", "i4"), ("order", "i4"), ("pull", "f4"), ("square", "f4")], align=True)

SPACE, MARK, LETTER = 0, 1, 2  # what stands between tokens, is one, and is part of one

_TEXT = types.Array(types.uint8, 1, "C", readonly=True)
_BYTES, _POSITIONS, _INTS, _HASHES = types.uint8[::1], types.int32[::1], types.int64[::1], types.uint64[::1]
_FLOATS, _DOUBLES = types.float32[::1], types.float64[::1]
_WORDS, _SLOTS, _HITS = (from_dtype(record)[::1] for record in (WORD, SLOT, HIT))
_INT, _HASH = types.int64, types.uint64
_compiled = partial(njit, cache=True, nogil=True, error_model="numpy")

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio
_HALF, _BYTE, _TOP = np.uint64(32), np.uint64(8), np.uint64(56)


@_compiled(_INT(_TEXT, _INT, _INT, _BYTES, _POSITIONS, _POSITIONS, _HASHES))
def _tokenize(text, begin, end, classes, begins, ends, hashes):
    """Find the tokens of ``text[begin:end]``; fill their spans and hashes, return their number."""
    n = 0
    previous = SPACE
    value = np.uint64(0)
    i = begin
    while i < end:
        start = i
        point = np.int64(text[i])
        i += 1
        if point >= 0x80:
            more = 1 if point < 0xE0 else 2 if point < 0xF0 else 3
            point &= 0x3F >> more
            for _ in range(more):
                point = point << 6 | text[i] & 0x3F
                i += 1
        kind = classes[point]
        if kind != LETTER or previous != LETTER:
            if previous != SPACE:
                ends[n], hashes[n] = start, value
                n += 1
            begins[n], value = start, np.uint64(0)
        for j in range(start, i):
            value = (value << _BYTE | text[j]) ^ (value >> _TOP) * _MULTIPLIER
        previous = kind
    if previous != SPACE:
        ends[n], hashes[n] = end, value
        n += 1
    return n


@_compiled(_INT(_HASH, _INT))
def _home(key, mask):
    return np.int64(key * _MULTIPLIER >> _HALF) & mask


@_compiled(_INT(_TEXT, _INT, _INT, _HASH, _BYTES, _WORDS))
def _find_word(text, begin, end, value, letters, words):
    """Return the place in ``words`` of the token ``text[begin:end]``; of an absent one, ~ that of the gap."""
    mask = len(words) - 1
    place = _home(value, mask)
    while words[place].length:
        if words[place].hash == value and words[place].length == end - begin:
            same = 0 if end - begin > 8 else end - begin
            while begin + same < end and letters[words[place].begin + same] == text[begin + same]:
                same += 1
            if begin + same == end:
                return place
        place = (place + 1) & mask
    return ~place


@_compiled(_HASH(_INT, _INT))
def _key(prefix, word):
    """Return what stands for an n-gram; 0 stands for none."""
    return (np.uint64(prefix) << _HALF | np.uint64(word)) + np.uint64(1)


@_compiled(_INT(_INT, _INT, _SLOTS))
def _find_slot(prefix, word, slots):
    """Return the place in ``slots`` of an n-gram; of an absent one, ~ that of the gap."""
    mask = len(slots) - 1
    key = _key(prefix, word)
    place = _home(key, mask)
    while slots[place].key:
        if slots[place].key == key:
            return place
        place = (place + 1) & mask
    return ~place


@_compiled(_INT(_TEXT, _INTS, _FLOATS, _FLOATS, _BYTES, _BYTES, _WORDS, _SLOTS))
def fill(ngrams, ends, pull, square, classes, letters, words, slots):
    """Fill the empty ``letters``, ``words`` and ``slots``.

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
        All zero. Their lengths are powers of two.

    Returns
    -------
    int
        The row of an n-gram whose prefix or last token is not in the table; -1 if there is none.
    """
    longest = 0
    begin = 0
    for row in range(len(ends)):
        longest = max(longest, ends[row] - begin)
        begin = ends[row]
    begins, stops = np.empty(longest, np.int32), np.empty(longest, np.int32)
    hashes = np.empty(longest, np.uint64)
    for first in (True, False):
        begin = used = 0
        for row in range(len(ends)):
            n = _tokenize(ngrams, begin, ends[row], classes, begins, stops, hashes)
            begin = ends[row]
            if (n == 1) != first:
                continue
            if n == 1:
                word = ~_find_word(ngrams, begins[0], stops[0], hashes[0], letters, words)
                if word < 0:
                    return row
                words[word].hash = hashes[0]
                words[word].begin, words[word].length = used, stops[0] - begins[0]
                words[word].pull, words[word].square = pull[row], square[row]
                for j in range(begins[0], stops[0]):
                    letters[used] = ngrams[j]
                    used += 1
                continue
            node = -1
            for k in range(n):
                word = _find_word(ngrams, begins[k], stops[k], hashes[k], letters, words)
                if word < 0:
                    return row
                if k == 0:
                    node = word
                    continue
                slot = _find_slot(node, word, slots)
                if k < n - 1:
                    if slot < 0:
                        return row
                    node = len(words) + slot
                elif slot >= 0:
                    return row
                else:
                    slots[~slot].key = _key(node, word)
                    slots[~slot].pull, slots[~slot].square = pull[row], square[row]
    return -1


@_compiled(
    types.Tuple((types.float64, types.float64, _INT))(
        _TEXT, _INT, _INT, _INT, _BYTES, _BYTES, _WORDS, _SLOTS, _HITS
    )
)
def _known(text, begin, end, ngram_max, classes, letters, words, slots, hits):
    """Return pulls and squares summed over the distinct known n-grams of ``text[begin:end]``; their number.

    Write as many of them to ``hits`` as it holds.
    """
    length = end - begin
    begins, ends = np.empty(length, np.int32), np.empty(length, np.int32)
    keys, ahead = np.empty(length, np.uint64), np.empty(length, np.uint64)
    n = _tokenize(text, begin, end, classes, begins, ends, keys)
    token, node = np.empty(n, np.int32), np.empty(n, np.int32)
    size = 8
    while size < 2 * n:
        size *= 2
    seen = np.empty(size, np.int32)
    mask = len(slots) - 1
    pull = square = 0.0
    found = 0
    live = 0
    starts = begins  # the spans are not needed once the words are found
    for j in range(n):
        token[j] = _find_word(text, begins[j], ends[j], keys[j], letters, words)
        if token[j] >= 0:
            starts[live], node[live] = j, token[j]
            live += 1
    for order in range(1, ngram_max + 1):
        if order > 1:
            candidates = 0
            for j in range(live):
                last = starts[j] + order - 1
                if last < n and token[last] >= 0:
                    keys[candidates] = _key(node[j], token[last])
                    starts[candidates] = starts[j]
                    candidates += 1
            for j in range(candidates):
                # memory answers such independent reads side by side
                ahead[j] = slots[_home(keys[j], mask)].key
            live = 0
            for j in range(candidates):
                place = _home(keys[j], mask)
                other = ahead[j]
                while other != keys[j] and other:
                    place = (place + 1) & mask
                    other = slots[place].key
                if other:
                    starts[live], node[live] = starts[j], len(words) + place
                    live += 1
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
                    p, s = slots[node[j] - len(words)].pull, slots[node[j] - len(words)].square
                pull += p
                square += s
                if found < len(hits):
                    hits[found].token, hits[found].order = starts[j], order
                    hits[found].pull, hits[found].square = p, s
                found += 1
    return pull, square, found


@_compiled(types.void(_TEXT, _INTS, _INT, _BYTES, _BYTES, _WORDS, _SLOTS, _HITS, _DOUBLES, _DOUBLES))
def score(texts, ends, ngram_max, classes, letters, words, slots, hits, scores, known):
    """Fill ``scores``, ``known`` and ``hits``.

    Parameters
    ----------
    texts : ndarray of uint8
        Cleaned texts, one after the other, in UTF-8.
    ends : ndarray of int64 of shape (n_texts,)
        Where each ends.
    ngram_max : int
    classes, letters, words, slots
        As :func:`fill` left them.
    hits : ndarray of HIT
        Filled with the known n-grams of the last text, as many as it holds.
    scores, known : ndarray of float64 of shape (n_texts,)
        The sum of the pulls of its known n-grams by the root of the sum of their squares; their number.
    """
    begin = 0
    for i in range(len(ends)):
        pull, square, n = _known(texts, begin, ends[i], ngram_max, classes, letters, words, slots, hits)
        scores[i] = pull / np.sqrt(square) if n else 0.0
        known[i] = n
        begin = ends[i]
