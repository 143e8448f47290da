"""The inner loops of data prep, compiled: over UTF-8 bytes as Arrow keeps them, no Python string per text.

All hashes are fixed: with others, the next run would drop other borderline documents. Texts come as `data` (uint8, the
bytes of many texts) and `offsets` (int64 [text + 1]); `kinds` and `folded` are the tables of `token_rule`. One file,
since numba compiles a function anew only if the function's own file has changed.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from headrace.prep.token_rule import NUM_CODE_POINTS, Kind

_BLANK, _LETTER, _SINGLE, _MARK = int(Kind.BLANK), int(Kind.LETTER), int(Kind.SINGLE), int(Kind.MARK)
_SENTENCE, _SIGN, _UNSEEN, _LINE_END = int(Kind.SENTENCE), int(Kind.SIGN), int(Kind.UNSEEN), int(Kind.LINE_END)
_START, _PRIME = np.uint64(0x9E3779B97F4A7C15), np.uint64(0x9FB21C651E98DF25)
_MIX, _HALF = np.uint64(0xD6E8FEB86659FD93), np.uint64(32)
_IDEOGRAPHS_END = 0x40000
_SPACE, _TAB, _NEWLINE = 32, 9, 10
_UNSET = np.uint32(0xFFFFFFFF)

# What `measures` counts of a text, in the order of its columns.
MEASURES = (
    *("length", "characters", "letters", "words", "word_characters", "spaced_words", "spaced_word_characters"),
    *("letter_words", "repeated_words", "stop_words", "hashes", "ellipses"),
    *("lines", "longest_line", "line_characters", "bullet_lines", "ellipsis_lines"),
    *("repeated_lines", "repeated_line_characters"),
    *("paragraphs", "repeated_paragraphs", "repeated_paragraph_characters"),
    *(f"top_{length}_gram_characters" for length in (2, 3, 4)),
    *(f"repeated_{length}_gram_characters" for length in range(5, 11)),
)
_OF_WORDS, _OF_LINES, _OF_PARAGRAPHS, _OF_TOP, _OF_REPEATED = 0, 12, 19, 22, 25
# A word counts as repeated if it is among so many words before it, so that a long text has no more of them.
WINDOW_WORDS = 50
_HASH, _DOT, _DASH, _BULLET, _ELLIPSIS = 0x23, 0x2E, 0x2D, 0x2022, 0x2026

# Of a hash table: keys, the turn in which each was put there, and a value.
_Table = tuple[np.ndarray, np.ndarray, np.ndarray]


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder for the compiled function: seconds at each start
        return numba.njit(nogil=True)(function)


# For the file of kernels that compare two texts, which calls none of this file.
compiled = _compiled


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
def text_hashes(data: np.ndarray, offsets: np.ndarray, hashes: np.ndarray) -> None:
    """Mixes a hash of each text's bytes into uint64 `hashes` [text], so that several columns make one hash."""
    for text in range(len(offsets) - 1):
        at, stop = offsets[text], offsets[text + 1]
        value = _mixed((hashes[text] + np.uint64(stop - at)) * _PRIME + _START)
        while at < stop:
            word = np.uint64(0)
            for byte in range(min(8, stop - at)):
                word |= np.uint64(data[at + byte]) << np.uint64(8 * byte)
            value = (value ^ _mixed(word * _PRIME)) * _MIX + _START
            value, at = value ^ (value >> np.uint64(29)), at + 8
        hashes[text] = _mixed(value)


@_compiled
def measures(
    data: np.ndarray,
    offsets: np.ndarray,
    kinds: np.ndarray,
    folded: np.ndarray,
    traits: np.ndarray,
    stop_words: np.ndarray,
    counts: np.ndarray,
    with_repetition: bool,
) -> None:
    """Writes `counts`, float64 [text, measure], as `MEASURES` names them.

    Args:
        traits: `token_rule.traits`.
        stop_words: uint64, hashes of words as `tokens` makes them.
        with_repetition: also those of lines, paragraphs and sequences of words, for half of the work; else 0.
    """
    longest = 0
    for text in range(len(offsets) - 1):
        longest = max(longest, offsets[text + 1] - offsets[text])
    size = 16
    while size < 2 * longest + 2:
        size *= 2
    words, lengths = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.int64)
    seen = np.empty(size, np.uint64), np.full(size, -1, np.int64), np.zeros(size, np.int64)
    turn = 0
    counts[:] = 0
    for text in range(len(offsets) - 1):
        start, stop = offsets[text], offsets[text + 1]
        number = _words(data, start, stop, kinds, folded, traits, words, lengths, counts[text])
        turn = _repeated_words(words, number, stop_words, seen, turn, counts[text])
        turn = _lines(data, start, stop, seen, turn, counts[text], with_repetition)
        if not with_repetition:
            continue
        turn = _paragraphs(data, start, stop, seen, turn, counts[text])
        for length in range(2, 5):
            counts[text, _OF_TOP + length - 2] = _top_sequence(words, lengths, number, length, seen, turn)
            turn += 1
        for length in range(5, 11):
            counts[text, _OF_REPEATED + length - 5] = _repeated_sequences(words, lengths, number, length, seen, turn)
            turn += 1


@_compiled
def _words(
    data: np.ndarray,
    start: int,
    stop: int,
    kinds: np.ndarray,
    folded: np.ndarray,
    traits: np.ndarray,
    words: np.ndarray,
    lengths: np.ndarray,
    counts: np.ndarray,
) -> int:
    """Hashes and lengths, in code points, of the text's words: of its tokens those that are no signs."""
    number, word, length, has_letter, is_single, at = 0, _START, 0, False, False, start
    is_letter, is_visible = 0, 0
    while True:
        kind, code = _BLANK, 0
        if at < stop:
            code, at = _decoded(data, at)
            counts[0] += 1
            counts[10] += code == _HASH
            counts[11] += code == _ELLIPSIS
            if code < NUM_CODE_POINTS:
                code = np.int64(folded[code])
                kind = np.int64(kinds[code])
                is_letter, is_visible = traits[code] & 1, traits[code] >> 1
            else:
                kind = _SINGLE if code < _IDEOGRAPHS_END else _SIGN
                is_letter, is_visible = kind == _SINGLE, 1
            counts[1] += is_visible
            counts[2] += is_letter
            if kind == _UNSEEN:
                continue
        else:
            at += 1
        if length and (kind not in (_LETTER, _MARK) or (kind == _LETTER and is_single)):
            words[number], lengths[number], number = word, length, number + 1
            counts[4] += length
            counts[5] += not is_single
            counts[6] += 0 if is_single else length
            counts[7] += has_letter
            word, length, has_letter, is_single = _START, 0, False, False
        if at > stop:
            break
        if kind in (_LETTER, _MARK, _SINGLE):
            is_single = is_single or kind == _SINGLE
            word, length, has_letter = (word + np.uint64(code)) * _PRIME, length + 1, has_letter or is_letter
    counts[3] = number
    at = start
    while at + 2 < stop:
        if data[at] == _DOT and data[at + 1] == _DOT and data[at + 2] == _DOT:
            counts[11], at = counts[11] + 1, at + 3
        else:
            at += 1
    return number


@_compiled
def _place(seen: _Table, turn: int, key: np.uint64) -> Any:
    """Where a key of this turn stands in the table, and whether it is new; the table is as good as empty each turn."""
    keys, turns, _ = seen
    at = np.int64(_mixed(key) & np.uint64(len(keys) - 1))
    while turns[at] == turn and keys[at] != key:
        at = (at + 1) & (len(keys) - 1)
    is_new = turns[at] != turn
    keys[at], turns[at] = key, turn
    return at, is_new


@_compiled
def _repeated_words(
    words: np.ndarray, number: int, stop_words: np.ndarray, seen: _Table, turn: int, counts: np.ndarray
) -> int:
    last = seen[2]
    for one in range(number):
        at, is_new = _place(seen, turn, words[one])
        if not is_new and one - last[at] <= WINDOW_WORDS:
            counts[8] += 1
        last[at] = one
    for stop_word in stop_words:
        at, is_new = _place(seen, turn, stop_word)
        counts[9] += not is_new
    return turn + 1


@_compiled
def _lines(
    data: np.ndarray, start: int, stop: int, seen: _Table, turn: int, counts: np.ndarray, with_repetition: bool
) -> int:
    """Lines that are not blank: what they begin and end with, and which there were before."""
    begin = start
    while begin < stop:
        end = begin
        while end < stop and data[end] != _NEWLINE:
            end += 1
        first, after = begin, end
        while first < after and data[first] <= _SPACE:
            first += 1
        while after > first and data[after - 1] <= _SPACE:
            after -= 1
        begin = end + 1
        if first == after:
            continue
        length, content = 0, _START
        for at in range(first, after):
            length += (data[at] & 0xC0) != 0x80
            content = (content + np.uint64(data[at])) * _PRIME
        code, _ = _decoded(data, first)
        counts[_OF_LINES] += 1
        counts[_OF_LINES + 1] = max(counts[_OF_LINES + 1], length)
        counts[_OF_LINES + 2] += length
        counts[_OF_LINES + 3] += code in (_BULLET, _DASH)
        is_ellipsis = after - first >= 3 and data[after - 1] == _DOT and data[after - 2] == _DOT
        if after - first >= 3 and data[after - 3] == 0xE2 and data[after - 2] == 0x80 and data[after - 1] == 0xA6:
            is_ellipsis = True
        elif is_ellipsis:
            is_ellipsis = data[after - 3] == _DOT
        counts[_OF_LINES + 4] += is_ellipsis
        if with_repetition:
            _, is_new = _place(seen, turn, content)
            if not is_new:
                counts[_OF_LINES + 5] += 1
                counts[_OF_LINES + 6] += length
    return turn + 1


@_compiled
def _paragraphs(data: np.ndarray, start: int, stop: int, seen: _Table, turn: int, counts: np.ndarray) -> int:
    """Paragraphs are separated by an empty line."""
    begin = start
    while begin < stop:
        end = begin
        while end < stop and not (data[end] == _NEWLINE and end + 1 < stop and data[end + 1] == _NEWLINE):
            end += 1
        length, content, is_blank = 0, _START, True
        for at in range(begin, end):
            length += (data[at] & 0xC0) != 0x80
            content = (content + np.uint64(data[at])) * _PRIME
            is_blank = is_blank and data[at] <= _SPACE
        begin = end + 1
        while begin < stop and data[begin] == _NEWLINE:
            begin += 1
        if is_blank:
            continue
        counts[_OF_PARAGRAPHS] += 1
        _, is_new = _place(seen, turn, content)
        if not is_new:
            counts[_OF_PARAGRAPHS + 1] += 1
            counts[_OF_PARAGRAPHS + 2] += length
    return turn + 1


@_compiled
def _top_sequence(words: np.ndarray, lengths: np.ndarray, number: int, length: int, seen: _Table, turn: int) -> Any:
    """Characters, with blanks between words, of all occurrences of the sequence that occurs most often, the first of
    them that does."""
    occurrences, most, most_characters = seen[2], 0, 0
    for first in range(number - length + 1):
        key, characters = np.uint64(0), length - 1
        for one in range(first, first + length):
            key, characters = key * _PRIME + words[one], characters + lengths[one]
        at, is_new = _place(seen, turn, key)
        occurrences[at] = 1 if is_new else occurrences[at] + 1
        most = max(most, occurrences[at])
    for first in range(number - length + 1):
        key, characters = np.uint64(0), length - 1
        for one in range(first, first + length):
            key, characters = key * _PRIME + words[one], characters + lengths[one]
        at, _ = _place(seen, turn, key)
        if occurrences[at] == most:
            most_characters = characters
            break
    return most * most_characters


@_compiled
def _repeated_sequences(
    words: np.ndarray, lengths: np.ndarray, number: int, length: int, seen: _Table, turn: int
) -> int:
    """Characters of sequences that occurred before, each character once."""
    repeated, first = 0, 0
    while first < number - length + 1:
        key, characters = np.uint64(0), 0
        for one in range(first, first + length):
            key, characters = key * _PRIME + words[one], characters + lengths[one]
        _, is_new = _place(seen, turn, key)
        repeated += 0 if is_new else characters
        first += 1 if is_new else length
    return repeated
