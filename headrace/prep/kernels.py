"""The inner loops of data prep, compiled: over UTF-8 bytes as Arrow keeps them, no Python string per text.

All hashes are fixed: with others, the next run would drop other borderline documents. Texts come as `data` (uint8, the
bytes of many texts) and `offsets` (int64 [text + 1]); `kinds` and `folded` are the tables of `token_rule`. One file,
since numba compiles a function anew only if the function's own file has changed.
"""

from typing import Any

import numpy as np

from headrace.prep.compiling import compiled as _compiled
from headrace.prep.token_rule import NUM_CODE_POINTS, Kind

_BLANK, _LETTER, _SINGLE, _MARK = int(Kind.BLANK), int(Kind.LETTER), int(Kind.SINGLE), int(Kind.MARK)
_SENTENCE, _SIGN, _UNSEEN, _LINE_END = int(Kind.SENTENCE), int(Kind.SIGN), int(Kind.UNSEEN), int(Kind.LINE_END)
_START, _PRIME = np.uint64(0x9E3779B97F4A7C15), np.uint64(0x9FB21C651E98DF25)
_MIX, _HALF = np.uint64(0xD6E8FEB86659FD93), np.uint64(32)
_IDEOGRAPHS_END = 0x40000
_SPACE, _TAB, _NEWLINE = 32, 9, 10
_UNSET = np.uint32(0xFFFFFFFF)


@_compiled
def _mixed(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> _HALF)) * _MIX
    return value ^ (value >> _HALF)


@_compiled
def _decoded(data: np.ndarray, at: int) -> Any:
    """The code point that begins there, and where the next one does; Arrow has checked that it is UTF-8."""
    byte = np.int64(data[at])
    if byte < 0x80:
        return byte, at + 1
    if byte < 0xE0:
        return ((byte & 0x1F) << 6) | (data[at + 1] & 0x3F), at + 2
    if byte < 0xF0:
        return ((byte & 0x0F) << 12) | (np.int64(data[at + 1] & 0x3F) << 6) | (data[at + 2] & 0x3F), at + 3
    code = ((byte & 0x07) << 18) | (np.int64(data[at + 1] & 0x3F) << 12)
    return code | (np.int64(data[at + 2] & 0x3F) << 6) | (data[at + 3] & 0x3F), at + 4


@_compiled
def tokens(data: np.ndarray, start: int, stop: int, kinds: np.ndarray, folded: np.ndarray, hashes: np.ndarray) -> int:
    """Writes a hash for each token of the text at `data[start:stop]`, and returns how many there are."""
    number, token, is_open, is_single, at = 0, _START, False, False, start
    while at < stop:
        code, at = _decoded(data, at)
        if code < NUM_CODE_POINTS:
            code = np.int64(folded[code])
            kind = np.int64(kinds[code])
        else:
            kind = _SINGLE if code < _IDEOGRAPHS_END else _SIGN
        if kind == _UNSEEN:
            continue
        if is_open and (kind not in (_LETTER, _MARK) or (kind == _LETTER and is_single)):
            hashes[number], number, token, is_open = token, number + 1, _START, False
        if kind in (_LETTER, _MARK, _SINGLE):
            is_single = kind == _SINGLE or (is_single and is_open)
            token, is_open = (token + np.uint64(code)) * _PRIME, True
        elif kind == _SENTENCE:
            if at < stop and (data[at] >= 0x80 or kinds[data[at]] == _LETTER or kinds[data[at]] == _SIGN):
                hashes[number], number = np.uint64(code) * _PRIME, number + 1
        elif kind == _SIGN:
            hashes[number], number = np.uint64(code) * _PRIME, number + 1
        elif kind == _LINE_END:
            depth, begin = _PRIME, at
            while at < stop and (data[at] == _SPACE or data[at] == _TAB):
                depth, at = (depth + np.uint64(data[at])) * _PRIME, at + 1
            if at > begin and at < stop and data[at] != _NEWLINE:
                hashes[number], number = depth, number + 1
    if is_open:
        hashes[number], number = token, number + 1
    return number


@_compiled
def sequences(
    data: np.ndarray, offsets: np.ndarray, kinds: np.ndarray, folded: np.ndarray, num_tokens: int, found: np.ndarray
) -> np.ndarray:
    """Writes a hash for each sequence of `num_tokens` tokens of each text; returns int64 [text + 1] offsets into them.

    A text of fewer tokens has one sequence, a text without tokens none.

    Args:
        found: uint32, with a place for each byte of `data`.
    """
    num_texts, longest = len(offsets) - 1, 0
    for text in range(num_texts):
        longest = max(longest, offsets[text + 1] - offsets[text])
    hashes = np.empty(longest + 1, np.uint64)
    bounds = np.zeros(num_texts + 1, np.int64)
    size = 0
    for text in range(num_texts):
        number = tokens(data, offsets[text], offsets[text + 1], kinds, folded, hashes)
        length = min(number, num_tokens)
        for one in range(number):
            hashes[one] = _mixed(hashes[one])
        if number > 0:
            for first in range(number - length + 1):
                sequence = np.uint64(length)
                for one in range(length):
                    sequence = sequence * _PRIME + hashes[first + one]
                found[size], size = np.uint32(_mixed(sequence) >> _HALF), size + 1
        bounds[text + 1] = size
    return bounds


@_compiled
def band_keys(
    found: np.ndarray,
    bounds: np.ndarray,
    factors: np.ndarray,
    summands: np.ndarray,
    beside: np.ndarray,
    keys: np.ndarray,
) -> None:
    """Writes uint64 `keys` [text, band].

    Args:
        found, bounds: as `sequences` makes them.
        factors, summands: uint32 [band * row]; each pair is one permutation, of which MinHash keeps the least value.
        beside: uint64 [text]; texts with different values share no key.
    """
    num_texts, num_bands = keys.shape
    num_rows = len(factors) // num_bands
    least = np.empty(len(factors), np.uint32)
    for text in range(num_texts):
        least[:] = _UNSET
        for one in range(bounds[text], bounds[text + 1]):
            for permutation in range(len(factors)):
                value = np.uint32(found[one] * factors[permutation] + summands[permutation])
                least[permutation] = min(least[permutation], value)
        for band in range(num_bands):
            key = _mixed(beside[text] + np.uint64(band))
            for row in range(num_rows):
                key = _mixed((key ^ np.uint64(least[band * num_rows + row])) * _PRIME)
            keys[text, band] = key


@_compiled
def _jaccard(sets: np.ndarray, left: int, left_end: int, right: int, right_end: int) -> float:
    total, shared = (left_end - left) + (right_end - right), 0
    while left < left_end and right < right_end:
        if sets[left] == sets[right]:
            shared, left, right = shared + 1, left + 1, right + 1
        elif sets[left] < sets[right]:
            left += 1
        else:
            right += 1
    return shared / (total - shared)


@_compiled
def repeats(
    groups: np.ndarray, num_groups: int, sets: np.ndarray, bounds: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """For each text, an earlier one with which it overlaps by at least `threshold`, and by how much.

    The earlier one has none itself: a text that was dropped is nobody's original.

    Args:
        groups: int32 [text, band], the texts that share a band's key; -1: nobody else has it.
        sets, bounds: each text's sequences, sorted, each once, and int64 [text + 1] offsets into them.

    Returns:
        int64 [text], its original or -1, and float64 [text], their Jaccard similarity or 0.
    """
    num_texts, num_bands = groups.shape
    # Kept members of a group, the latest first.
    latest = np.full(num_groups, -1, np.int32)
    before = np.empty((num_texts, num_bands), np.int32)
    compared_with = np.full(num_texts, -1, np.int32)
    originals, similarities = np.full(num_texts, -1, np.int64), np.zeros(num_texts)
    for text in range(num_texts):
        size = bounds[text + 1] - bounds[text]
        for band in range(num_bands):
            group = groups[text, band]
            other = latest[group] if group >= 0 else -1
            while other >= 0 and originals[text] < 0:
                other_size = bounds[other + 1] - bounds[other]
                if compared_with[other] != text and min(size, other_size) >= threshold * max(size, other_size):
                    compared_with[other] = text
                    overlap = _jaccard(sets, bounds[text], bounds[text + 1], bounds[other], bounds[other + 1])
                    if overlap >= threshold:
                        originals[text], similarities[text] = other, overlap
                other = before[other, band]
            if originals[text] >= 0:
                break
        if originals[text] >= 0:
            continue
        for band in range(num_bands):
            group = groups[text, band]
            if group >= 0:
                before[text, band], latest[group] = latest[group], text
    return originals, similarities
