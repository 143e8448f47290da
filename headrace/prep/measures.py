"""What the quality rules look at: counts of a text, in one compiled pass over its UTF-8 bytes as Arrow keeps them.

Which counts are too many is `rule_sets`' business. Words are the tokens of `token_rule` that are no signs. They, lines
and paragraphs are told apart by 64-bit hashes; sequences of words by the places of their words, exactly.
"""

from typing import Any

import numpy as np

from headrace.prep.compiling import compiled
from headrace.prep.token_rule import NUM_CODE_POINTS, Kind

_BLANK, _LETTER, _SINGLE, _MARK = int(Kind.BLANK), int(Kind.LETTER), int(Kind.SINGLE), int(Kind.MARK)
_SIGN, _UNSEEN = int(Kind.SIGN), int(Kind.UNSEEN)
_START, _PRIME, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(0x9FB21C651E98DF25), np.uint64(32)
_IDEOGRAPHS_END = 0x40000
_SPACE, _NEWLINE = 32, 10

# What `measures` counts of a text, in the order of its columns.
MEASURES = (
    *("length", "characters", "letters", "words", "word_characters", "spaced_words", "spaced_word_characters"),
    *("letter_words", "repeated_words", "stop_words", "hashes", "ellipses"),
    *("lines", "longest_line", "line_characters", "bullet_lines", "ellipsis_lines"),
    *("repeated_lines", "repeated_line_characters"),
    *("paragraphs", "repeated_paragraphs", "repeated_paragraph_characters"),
    *(f"top_{length}_gram_characters" for length in (2, 3, 4)),
    *(f"repeated_{length}_gram_characters" for length in range(5, 11)),
    *("sentences", "newlines", "curly_brackets", "ended_lines", "short_lines"),
)
_OF_WORDS, _OF_LINES, _OF_PARAGRAPHS, _OF_TOP, _OF_REPEATED, _OF_SENTENCES = 0, 12, 19, 22, 25, 31
# FineWeb's: Penedo et al. 2024, section 3.6.
_SHORT_LINE_CHARACTERS = 30
# A word counts as repeated if it is among so many words before it, so that a long text has no more of them.
WINDOW_WORDS = 50
_HASH, _DOT, _DASH, _CURLY = 0x23, 0x2E, 0x2D, 0x7B
_IS_LETTER, _IS_VISIBLE, _ENDS_SENTENCE, _IS_QUOTE = 1, 2, 4, 8
# In UTF-8.
_BULLET, _DOTS, _ELLIPSIS = (0xE2, 0x80, 0xA2), (0x2E, 0x2E, 0x2E), (0xE2, 0x80, 0xA6)


@compiled
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
        traits: `token_rule.traits`, plus 4 for what ends a sentence, plus 8 for a quote.
        stop_words: uint8, words with blanks between them.
        with_repetition: also those of lines, paragraphs and sequences of words; else 0.
    """
    longest = len(stop_words)
    for text in range(len(offsets) - 1):
        longest = max(longest, offsets[text + 1] - offsets[text])
    slots = np.zeros(_num_slots(longest + len(stop_words)), np.int64)
    # A word and what separates it from the next are two bytes or more; so are lines, and paragraphs.
    size = longest + len(stop_words) + 2
    words, ends = np.empty(size, np.uint64), np.zeros(size, np.int64)
    first, numbers = np.empty(size, np.int32), np.empty(size, np.int32)
    scratch, active = np.empty(size, np.int32), np.empty(size, np.int32)
    counts[:] = 0
    # Of a byte in ASCII: its kind, its folded form, its traits; of another: no kind.
    of_byte = np.full(256, 0xFF, np.uint32)
    for code in range(128):
        fold = folded[code]
        of_byte[code] = kinds[fold] | (np.uint32(fold) << 8) | (np.uint32(traits[fold]) << 16)
    tables = kinds, folded, traits, of_byte
    stops = words[: _words(stop_words, 0, len(stop_words), tables, words, ends, counts[0])].copy()
    counts[0] = 0
    base = 1
    for text in range(len(offsets) - 1):
        start, stop = offsets[text], offsets[text + 1]
        number = _words(data, start, stop, tables, words, ends, counts[text])
        base = _words_again(words, number, stops, slots, base, first, numbers, scratch, counts[text])
        # Their hashes are not needed any more: the same arrays hold others.
        base = _lines(data, start, stop, tables, slots, base, words, scratch, counts[text], with_repetition)
        if with_repetition:
            base = _sequences_again(first, numbers, ends, number, slots, base, scratch, active, words, counts[text])


@compiled
def _num_slots(number: int) -> int:
    size = 16
    while size < 2 * number + 2:
        size *= 2
    return size


@compiled
def _words(
    data: np.ndarray, start: int, stop: int, tables: Any, words: np.ndarray, ends: np.ndarray, counts: np.ndarray
) -> int:
    """Hashes of the text's words, of its tokens those that are no signs; and where each ends, in letters of words."""
    kinds, folded, traits, of_byte = tables
    number, word, length, num_letters_before, is_single, at = 0, _START, 0, 0, False, start
    num_visible, num_letters, num_hashes, num_ellipses, num_newlines, num_curly, num_sentences = 0, 0, 0, 0, 0, 0, 0
    num_characters, num_spaced, num_spaced_characters, num_with_letter, all_length = stop - start, 0, 0, 0, 0
    while at <= stop:
        if not is_single:
            begin = at
            while at < stop:
                entry = of_byte[data[at]]
                if entry & 0xFF != _LETTER:
                    break
                word, at = (word + np.uint64((entry >> 8) & 0xFF)) * _PRIME, at + 1
                num_letters += np.int64(entry >> 16) & 1
            length, num_visible = length + at - begin, num_visible + at - begin
        kind, code = _BLANK, 0
        if at < stop:
            if data[at] < 0x80:
                entry = of_byte[data[at]]
                num_hashes += data[at] == _HASH
                num_newlines += data[at] == _NEWLINE
                num_curly += data[at] == _CURLY
                code, kind, trait = np.int64((entry >> 8) & 0xFF), np.int64(entry & 0xFF), np.int64(entry >> 16)
                at += 1
                if trait & _ENDS_SENTENCE:
                    # In 1.5 and in example.org it does not.
                    num_sentences += at == stop or data[at] <= _SPACE or of_byte[data[at]] >> 16 & _IS_QUOTE != 0
            else:
                code, after = _decoded(data, at)
                num_characters, at = num_characters - (after - at - 1), after
                num_ellipses += code == 0x2026
                if code < NUM_CODE_POINTS:
                    code = np.int64(folded[code])
                    kind, trait = np.int64(kinds[code]), np.int64(traits[code])
                    num_sentences += (trait & _ENDS_SENTENCE) != 0
                elif code < _IDEOGRAPHS_END:
                    kind, trait = _SINGLE, 3
                else:
                    kind, trait = _SIGN, 2
            if kind == _UNSEEN:
                continue
            num_visible += (trait >> 1) & 1
        else:
            at, trait = at + 1, 0
        if length and (kind not in (_LETTER, _MARK) or (kind == _LETTER and is_single)):
            all_length += length
            words[number], ends[number + 1], number = word, all_length, number + 1
            num_spaced += not is_single
            num_spaced_characters += 0 if is_single else length
            num_with_letter += num_letters > num_letters_before
            word, length, is_single = _START, 0, False
            num_letters_before = num_letters
        num_letters += trait & 1
        if kind in (_LETTER, _MARK, _SINGLE):
            is_single = is_single or kind == _SINGLE
            word, length = (word + np.uint64(code)) * _PRIME, length + 1
        else:
            num_letters_before = num_letters
    counts[0], counts[1], counts[2], counts[3] = num_characters, num_visible, num_letters, number
    counts[4], counts[5], counts[6], counts[7] = all_length, num_spaced, num_spaced_characters, num_with_letter
    counts[10], counts[11] = num_hashes, num_ellipses
    counts[_OF_SENTENCES], counts[_OF_SENTENCES + 1], counts[_OF_SENTENCES + 2] = num_sentences, num_newlines, num_curly
    return number


@compiled
def _first_like(keys: np.ndarray, one: int, slots: np.ndarray, mask: np.uint64, base: int) -> int:
    """The first of the keys so far that is the same.

    `slots` is a hash table of places in `keys`, plus `base`; what is below `base` is left there from before.
    """
    key = keys[one]
    at = np.int64((((key ^ (key >> _HALF)) * _PRIME) >> _HALF) & mask)
    while slots[at] >= base:
        if keys[slots[at] - base] == key:
            return slots[at] - base
        at = (at + 1) & np.int64(mask)
    slots[at] = base + one
    return one


@compiled
def _words_again(
    words: np.ndarray,
    number: int,
    stops: np.ndarray,
    slots: np.ndarray,
    base: int,
    first: np.ndarray,
    numbers: np.ndarray,
    last: np.ndarray,
    counts: np.ndarray,
) -> int:
    """For each word the place of the first that is the same, and there how many are; counts those that come again."""
    mask, close = np.uint64(_num_slots(number + len(stops)) - 1), 0
    for one in range(number):
        found = _first_like(words, one, slots, mask, base)
        first[one] = found
        if found == one:
            numbers[one] = 1
        else:
            numbers[found] += 1
            close += one - last[found] <= WINDOW_WORDS
        last[found] = one
    for at in range(len(stops)):
        words[number + at] = stops[at]
        counts[_OF_WORDS + 9] += _first_like(words, number + at, slots, mask, base) < number
    counts[_OF_WORDS + 8] = close
    return base + number + len(stops)


@compiled
def _sequences_again(
    first: np.ndarray,
    numbers: np.ndarray,
    ends: np.ndarray,
    number: int,
    slots: np.ndarray,
    base: int,
    classes: np.ndarray,
    active: np.ndarray,
    keys: np.ndarray,
    counts: np.ndarray,
) -> int:
    """Characters of the sequence that occurs most often, the first of them that does, with blanks between words, of all
    its occurrences; and of sequences that occurred before, each character once.

    A sequence can only come again if both shorter ones in it do, so few are looked up: `active` are the places where
    one that does begins, `classes` where it began first.
    """
    mask, num_active = np.uint64(_num_slots(number) - 1), 0
    for one in range(number):
        classes[one] = first[one]
        active[num_active] = one
        num_active += numbers[first[one]] > 1
    for length in range(2, min(number, 10) + 1):
        num_found, most, most_at = 0, 1, 0
        for at in range(num_active - 1):
            one = active[at]
            if active[at + 1] != one + 1:
                continue
            keys[one] = (np.uint64(classes[one]) << _HALF) | np.uint64(first[one + length - 1])
            found = _first_like(keys, one, slots, mask, base)
            classes[one], numbers[found] = found, 1 if found == one else numbers[found] + 1
            active[num_found], num_found = one, num_found + 1
        base, num_active, after, again = base + number, 0, 0, 0
        for at in range(num_found):
            one = active[at]
            found = classes[one]
            if numbers[found] > most:
                most, most_at = numbers[found], one
            active[num_active] = one
            num_active += numbers[found] > 1
        if length <= 4:
            characters = ends[most_at + length] - ends[most_at] + length - 1
            counts[_OF_TOP + length - 2] = most * characters
            continue
        for at in range(num_active):
            one = active[at]
            if one < after:
                continue
            if numbers[classes[one]] < 0:
                again, after = again + ends[one + length] - ends[one], one + length
            numbers[classes[one]] = -1
        counts[_OF_REPEATED + length - 5] = again
    return base


@compiled
def _lines(
    data: np.ndarray,
    start: int,
    stop: int,
    tables: Any,
    slots: np.ndarray,
    base: int,
    keys: np.ndarray,
    sizes: np.ndarray,
    counts: np.ndarray,
    with_repetition: bool,
) -> int:
    """Lines that are not blank: what they begin and end with, and which there were before; the same of paragraphs,
    which are separated by empty lines."""
    at, num_lines, num_paragraphs = start, 0, 0
    longest, characters, num_bullets, num_with_ellipsis, num_ellipses, num_dots = 0, 0, 0, 0, 0, 0
    num_ended, num_short = 0, 0
    paragraph, paragraph_length, is_blank = _START, 0, True
    # Those of paragraphs are kept from the end of the same arrays.
    end = len(keys) - 1
    while at <= stop:
        begin = at
        while at < stop and data[at] != _NEWLINE:
            num_dots = num_dots + 1 if data[at] == _DOT else 0
            if num_dots == 3:
                num_ellipses, num_dots = num_ellipses + 1, 0
            at += 1
        visible, after, num_dots = begin, at, 0
        while visible < after and data[visible] <= _SPACE:
            visible += 1
        while after > visible and data[after - 1] <= _SPACE:
            after -= 1
        content, length = _hashed(data, visible, after), _num_characters(data, visible, after)
        if at > begin:
            paragraph = (((paragraph + _hashed(data, begin, visible)) * _PRIME) + content) * _PRIME
            paragraph = (paragraph + _hashed(data, after, at)) * _PRIME
            # With the end of the line.
            paragraph_length += length + visible - begin + at - after + 1
        if after > visible:
            is_blank = False
            num_bullets += data[visible] == _DASH or _is(data, visible, visible, after, _BULLET)
            num_with_ellipsis += _is(data, after - 3, visible, after, _DOTS) or _is(
                data, after - 3, visible, after, _ELLIPSIS
            )
            longest, characters = max(longest, length), characters + length
            num_ended += _ends(data, after, tables)
            num_short += length <= _SHORT_LINE_CHARACTERS
            keys[num_lines], sizes[num_lines], num_lines = content, length, num_lines + 1
        if at in (begin, stop):
            if not is_blank:
                place = end - num_paragraphs
                keys[place], sizes[place], num_paragraphs = paragraph, paragraph_length - 1, num_paragraphs + 1
            paragraph, paragraph_length, is_blank = _START, 0, True
        at += 1
    counts[11] += num_ellipses
    counts[_OF_LINES], counts[_OF_LINES + 1], counts[_OF_LINES + 2] = num_lines, longest, characters
    counts[_OF_LINES + 3], counts[_OF_LINES + 4] = num_bullets, num_with_ellipsis
    counts[_OF_SENTENCES + 3], counts[_OF_SENTENCES + 4] = num_ended, num_short
    if with_repetition:
        counts[_OF_PARAGRAPHS] = num_paragraphs
        base = _again(keys[:num_lines], sizes[:num_lines], slots, base, counts[_OF_LINES + 5 : _OF_LINES + 7])
        keys, sizes = keys[::-1][:num_paragraphs], sizes[::-1][:num_paragraphs]
        base = _again(keys, sizes, slots, base, counts[_OF_PARAGRAPHS + 1 : _OF_PARAGRAPHS + 3])
    return base


@compiled
def _hashed(data: np.ndarray, begin: int, end: int) -> Any:
    """A hash of these bytes, by eight at a time."""
    content, at = _START + np.uint64(end - begin), begin
    while at + 8 <= end:
        eight = np.uint64(0)
        for one in range(8):
            eight |= np.uint64(data[at + one]) << np.uint64(8 * one)
        content = (content ^ eight) * _PRIME
        content, at = content ^ (content >> _HALF), at + 8
    while at < end:
        content, at = (content + np.uint64(data[at])) * _PRIME, at + 1
    return content


@compiled
def _num_characters(data: np.ndarray, begin: int, end: int) -> int:
    number = 0
    for at in range(begin, end):
        number += (data[at] & 0xC0) != 0x80
    return number


@compiled
def _ends(data: np.ndarray, after: int, tables: Any) -> bool:
    """Whether the last character before that place ends a sentence, or is a quote."""
    _, folded, traits, of_byte = tables
    at = after - 1
    if data[at] < 0x80:
        return ((of_byte[data[at]] >> 16) & (_ENDS_SENTENCE | _IS_QUOTE)) != 0
    while (data[at] & 0xC0) == 0x80:
        at -= 1
    code, _ = _decoded(data, at)
    return code < NUM_CODE_POINTS and (traits[folded[code]] & (_ENDS_SENTENCE | _IS_QUOTE)) != 0


@compiled
def _is(data: np.ndarray, at: int, begin: int, after: int, character: tuple[int, int, int]) -> bool:
    """Whether these three bytes are there, within the part."""
    if at < begin or at + 3 > after:
        return False
    return data[at] == character[0] and data[at + 1] == character[1] and data[at + 2] == character[2]


@compiled
def _again(keys: np.ndarray, sizes: np.ndarray, slots: np.ndarray, base: int, counts: np.ndarray) -> int:
    """Counts what occurred before, and its characters."""
    mask = np.uint64(_num_slots(len(keys)) - 1)
    for one in range(len(keys)):
        if _first_like(keys, one, slots, mask, base) != one:
            counts[0] += 1
            counts[1] += sizes[one]
    return base + len(keys)


@compiled
def _decoded(data: np.ndarray, at: int) -> Any:
    """The code point beyond ASCII that begins there, and where the next one does; Arrow has checked the UTF-8."""
    byte = np.int64(data[at])
    if byte < 0xE0:
        return ((byte & 0x1F) << 6) | (data[at + 1] & 0x3F), at + 2
    if byte < 0xF0:
        return ((byte & 0x0F) << 12) | (np.int64(data[at + 1] & 0x3F) << 6) | (data[at + 2] & 0x3F), at + 3
    code = ((byte & 0x07) << 18) | (np.int64(data[at + 1] & 0x3F) << 12)
    return code | (np.int64(data[at + 2] & 0x3F) << 6) | (data[at + 3] & 0x3F), at + 4
