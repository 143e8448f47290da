"""The inner loops of near de-duplication, compiled: tokens, their sequences, MinHash, and exact comparison.

Texts come as `data` (uint8, the bytes of many texts) and `offsets` (int64 [text + 1]); `kinds` and `folded` are the
tables of `token_rule`. All hashes are fixed: with others, the next run would drop other borderline documents. Two
sequences count as one if 32 bits of their hashes are equal: by chance that raises the similarity of two texts of n
sequences by n / 2^32, so by less than 0.001 below four million.
"""

from typing import Any

import numpy as np

from headrace.prep.compiling import compiled
from headrace.prep.token_rule import NUM_CODE_POINTS, Kind

_BLANK, _LETTER, _SINGLE, _MARK = int(Kind.BLANK), int(Kind.LETTER), int(Kind.SINGLE), int(Kind.MARK)
_SENTENCE, _SIGN, _UNSEEN, _LINE_END = int(Kind.SENTENCE), int(Kind.SIGN), int(Kind.UNSEEN), int(Kind.LINE_END)
_START, _PRIME = np.uint64(0x9E3779B97F4A7C15), np.uint64(0x9FB21C651E98DF25)
_MIX, _HALF = np.uint64(0xD6E8FEB86659FD93), np.uint64(32)
_IDEOGRAPHS_END = 0x40000
_SPACE, _TAB, _NEWLINE = 32, 9, 10
_UNSET = np.uint32(0xFFFFFFFF)
# Bytes that are looked at together for whether all are ASCII.
_BLOCK = 32


@compiled
def _mixed(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> _HALF)) * _MIX
    return value ^ (value >> _HALF)


@compiled
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


@compiled
def _ascii_end(data: np.ndarray, at: int, stop: int) -> int:
    """How far ASCII goes on, in whole blocks; the blanks before other text, which may be an indentation, are left to
    it."""
    end = at
    while end < stop:
        block = data[end : min(end + _BLOCK, stop)]
        seen = np.uint8(0)
        for byte in block:
            seen |= byte
        if seen >= 0x80:
            break
        end += len(block)
    while at < end < stop and data[end - 1] <= _SPACE:
        end -= 1
    return end


@compiled
def _ascii_kinds(run: np.ndarray, units: np.ndarray, found: np.ndarray) -> bool:
    """Writes each byte in lower case and its kind; whether there are line ends.

    `token_rule` once more, by comparing instead of by table: so the loop has no branches and is done 64 bytes at once.
    """
    for at in range(len(run)):
        byte = run[at]
        lower = byte | np.uint8(0x20)
        is_latin = (lower >= 0x61) & (lower <= 0x7A)
        units[at] = lower if is_latin else byte
        is_letter = is_latin | ((byte >= 0x30) & (byte <= 0x39)) | (byte == 0x5F)
        is_blank = (byte <= _SPACE) | (byte == 0x22) | (byte == 0x27) | (byte == 0x60) | (byte == 0x7F)
        of_sentence = (
            (byte == 0x21) | (byte == 0x2C) | (byte == 0x2E) | (byte == 0x3A) | (byte == 0x3B) | (byte == 0x3F)
        )
        other = np.uint8(_BLANK) if is_blank else np.uint8(_SENTENCE) if of_sentence else np.uint8(_SIGN)
        kind = np.uint8(_LINE_END) if byte == _NEWLINE else other
        found[at] = np.uint8(_LETTER) if is_letter else kind
    has_lines = np.uint8(0)
    for at in range(len(found)):
        has_lines |= np.uint8(found[at] == _LINE_END)
    return has_lines != 0


@compiled
def _ascii_tokens(kinds_found: np.ndarray, units: np.ndarray, begins: np.ndarray) -> None:
    """Marks the units that begin a token, and makes 0 of those in none.

    Args:
        kinds_found: of the character before, of each, and of the one after.
    """
    here, after = kinds_found[1:], kinds_found[2:]
    for at in range(len(begins)):
        is_letter = here[at] == _LETTER
        is_sign = (here[at] == _SIGN) | ((here[at] == _SENTENCE) & ((after[at] == _SIGN) | (after[at] == _LETTER)))
        begins[at] = np.uint8(is_sign | (is_letter & (kinds_found[at] != _LETTER)))
        units[at] = units[at] if is_sign | is_letter else np.uint8(0)


@compiled
def _ascii_indentations(run: np.ndarray, after: int, units: np.ndarray, begins: np.ndarray) -> None:
    """Makes tokens of the blanks that lines begin with, except for lines of nothing else."""
    at = 0
    while at < len(run):
        if run[at] != _NEWLINE:
            at += 1
            continue
        first = at
        at += 1
        while at < len(run) and (run[at] == _SPACE or run[at] == _TAB):
            at += 1
        if at > first + 1 and (run[at] if at < len(run) else after) > _SPACE:
            units[first:at], begins[first] = run[first:at], 1


@compiled
def _units(
    data: np.ndarray,
    start: int,
    stop: int,
    kinds: np.ndarray,
    folded: np.ndarray,
    room: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> int:
    """Writes the text's tokens one after the other, and marks where they begin; returns how many units that takes.

    An ASCII character is one unit, any other three, of which the first is 0x80 or more; 0 are units of no token, and
    then of the token's end. So tokens that differ have units that differ.
    """
    units, begins, kinds_found = room
    size, at, is_open, is_single, mixed_end = 0, start, False, False, start
    while at < stop:
        if at >= mixed_end and data[at] < 0x80:
            end = _ascii_end(data, at, stop)
            mixed_end = end + _BLOCK
            if end > at:
                length, after = end - at, data[end] if end < stop else np.uint8(_NEWLINE)
                has_lines = _ascii_kinds(data[at:end], units[size:], kinds_found[1 : length + 1])
                kinds_found[0] = _LETTER if is_open and not is_single else _BLANK
                kinds_found[length + 1] = kinds[folded[after]] if after < 0x80 else _SIGN
                _ascii_tokens(kinds_found[: length + 2], units[size:], begins[size : size + length])
                if has_lines:
                    _ascii_indentations(data[at:end], after, units[size:], begins[size:])
                is_open, is_single = kinds_found[length] == _LETTER, False
                size, at = size + length, end
                continue
        code, at = _decoded(data, at)
        if code < NUM_CODE_POINTS:
            code = np.int64(folded[code])
            kind = np.int64(kinds[code])
        else:
            kind = _SINGLE if code < _IDEOGRAPHS_END else _SIGN
        if kind == _UNSEEN:
            continue
        begins_token = True
        if kind == _LETTER:
            begins_token = not is_open or is_single
            is_open, is_single = True, False
        elif kind == _MARK:
            begins_token = not is_open
            is_open, is_single = True, is_open and is_single
        elif kind == _SINGLE:
            is_open, is_single = True, True
        elif kind == _LINE_END:
            first, is_open = at, False
            while at < stop and (data[at] == _SPACE or data[at] == _TAB):
                at += 1
            if at > first and at < stop and data[at] > _SPACE:
                begins[size : size + 1 + at - first] = 0
                units[size], begins[size] = _NEWLINE, 1
                units[size + 1 : size + 1 + at - first] = data[first:at]
                size += 1 + at - first
            continue
        else:
            is_open = False
            if kind == _SENTENCE:
                if at == stop or (data[at] < 0x80 and kinds[data[at]] != _LETTER and kinds[data[at]] != _SIGN):
                    continue
            elif kind != _SIGN:
                continue
        begins[size] = begins_token
        if code < 0x80:
            units[size], size = code, size + 1
        else:
            units[size], units[size + 1], units[size + 2] = 0x80 | (code & 0x7F), (code >> 7) & 0xFF, code >> 15
            begins[size + 1], begins[size + 2], size = 0, 0, size + 3
    return size


@compiled
def _eight(units: np.ndarray, first: int) -> np.uint64:
    """Eight units as one number; compiled to one load, since no index is below 0."""
    at, found = np.uint64(first), np.uint64(0)
    for one in range(8):
        found |= np.uint64(units[at + np.uint64(one)]) << np.uint64(8 * one)
    return found


@compiled
def _tokens(units: np.ndarray, begins: np.ndarray, places: np.ndarray, hashes: np.ndarray) -> int:
    """Writes a hash for each token of `units`, which have 24 more behind them, and returns how many there are.

    Most tokens are shorter than 16 units: two steps, the same for all, cost less than a branch that is guessed wrong.
    """
    number, size, every = 0, len(begins), ~np.uint64(0)
    for at in range(size):
        places[number] = at
        number += begins[at]
    places[number] = size
    for one in range(number):
        at, rest = places[one], places[one + 1] - places[one]
        token = (_eight(units, at) & (every >> np.uint64(64 - 8 * min(rest, 8)))) * _PRIME
        second = (every >> np.uint64(64 - 8 * min(max(rest - 8, 1), 8))) if rest > 8 else np.uint64(0)
        token = ((token ^ (token >> _HALF)) ^ (_eight(units, at + 8) & second)) * _PRIME
        while rest > 16:
            at, rest = at + 8, rest - 8
            more = _eight(units, at + 8) & (every >> np.uint64(64 - 8 * min(rest - 8, 8)))
            # A token that ends with blanks is the token.
            token = ((token ^ (token >> _HALF)) ^ more) * _PRIME if more else token
        hashes[one] = _mixed(token)
    return number


@compiled
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
    # Of two bytes three units can come; a token's last eight are read with what follows them.
    most = longest * 3 // 2 + 32
    units, begins, kinds_found = np.zeros(most, np.uint8), np.empty(most, np.uint8), np.empty(longest + 2, np.uint8)
    places, hashes, sums = np.empty(longest + 2, np.int64), np.empty(longest, np.uint64), np.empty(longest, np.uint64)
    bounds = np.zeros(num_texts + 1, np.int64)
    for text in range(num_texts):
        size = _units(data, offsets[text], offsets[text + 1], kinds, folded, (units, begins, kinds_found))
        number = _tokens(units, begins[:size], places, hashes)
        length = min(number, num_tokens)
        bounds[text + 1] = bounds[text] + (number - length + 1 if number else 0)
        of_text = found[bounds[text] : bounds[text + 1]]
        sums[: len(of_text)] = length
        for first in range(length):
            of_first = hashes[first : first + len(of_text)]
            for one in range(len(of_text)):
                sums[one] = sums[one] * _PRIME + of_first[one]
        for one in range(len(of_text)):
            of_text[one] = np.uint32(_mixed(sums[one]) >> _HALF)
    return bounds


@compiled
def band_keys(
    found: np.ndarray,
    bounds: np.ndarray,
    factors: np.ndarray,
    summands: np.ndarray,
    keys: np.ndarray,
) -> None:
    """Writes uint64 `keys` [text, band].

    Args:
        found, bounds: as `sequences` makes them.
        factors, summands: uint32 [band * row]; each pair is one permutation, of which MinHash keeps the least value.
    """
    num_texts, num_bands = keys.shape
    num_rows = len(factors) // num_bands
    least = np.empty(len(factors), np.uint32)
    for text in range(num_texts):
        least[:] = _UNSET
        last = bounds[text + 1] - 1
        # Four at a time, or most of the work would be to load and store `least`. The last may come twice.
        for first in range(bounds[text], last + 1, 4):
            one, two = found[first], found[min(first + 1, last)]
            three, four = found[min(first + 2, last)], found[min(first + 3, last)]
            for permutation in range(len(factors)):
                factor, summand = factors[permutation], summands[permutation]
                least_of_two = min(np.uint32(one * factor + summand), np.uint32(two * factor + summand))
                least_of_others = min(np.uint32(three * factor + summand), np.uint32(four * factor + summand))
                least[permutation] = min(least[permutation], min(least_of_two, least_of_others))
        for band in range(num_bands):
            key = _mixed(np.uint64(band))
            for row in range(num_rows):
                key = _mixed((key ^ np.uint64(least[band * num_rows + row])) * _PRIME)
            keys[text, band] = key


@compiled
def text_hashes(data: np.ndarray, offsets: np.ndarray, hashes: np.ndarray) -> None:
    """Mixes a hash of each text's bytes into uint64 `hashes` [text], so that several columns make one hash."""
    for text in range(len(offsets) - 1):
        at, stop = offsets[text], offsets[text + 1]
        value = _mixed((hashes[text] + np.uint64(stop - at)) * _PRIME + _START)
        while at < stop:
            word = np.uint64(0)
            if at + 8 <= stop:
                word = _eight(data, at)
            else:
                for byte in range(stop - at):
                    word |= np.uint64(data[at + byte]) << np.uint64(8 * byte)
            value = (value ^ _mixed(word * _PRIME)) * _MIX + _START
            value, at = value ^ (value >> np.uint64(29)), at + 8
        hashes[text] = _mixed(value)


@compiled
def shared_keys(keys: np.ndarray) -> np.ndarray:
    """For each of uint64 `keys`, whether it is there more than once."""
    size = 16
    while size < 2 * len(keys):
        size *= 2
    # A hash table of the first place of each key. Keys are hashes, but those of one range begin with the same bits.
    firsts, is_shared = np.full(size, -1, np.int32), np.zeros(len(keys), np.bool_)
    for one in range(len(keys)):
        at = np.int64(keys[one] & np.uint64(size - 1))
        while firsts[at] >= 0 and keys[firsts[at]] != keys[one]:
            at = (at + 1) & (size - 1)
        if firsts[at] < 0:
            firsts[at] = one
        else:
            is_shared[firsts[at]] = is_shared[one] = True
    return is_shared
