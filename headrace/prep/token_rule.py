"""What two texts are compared by: their tokens, in every script, with the signs that change a meaning.

A token is a run of letters, digits and marks; or one character (with its marks) of a script without blanks between
words; or one sign, since `7 + 5` is not `7 * 5` and `C++` is not `C#`; or the blanks that a line begins with, since
they are part of a program. Not compared are case and compatibility forms (full width, ligatures), quotes, invisible
characters, the punctuation of sentences (`.,;:!?` before a blank, a quote or the end; `1.5` and `a != b` keep theirs),
and how lines are broken.

`KINDS` and `FOLDED` are tables by code point, which compiled loops look up (`kernels`, `measures`). Characters
beyond them are ideographs, or signs.
"""

import unicodedata
from enum import IntEnum
from functools import cache

import numpy as np

from headrace.text.words import has_no_blanks

NUM_CODE_POINTS = 0x20000
_SENTENCE_SIGNS = frozenset(".,;:!?")
_QUOTES = frozenset("'\"`´‘’‚‛“”„‟«»‹›")
# Zero-width (non-)joiners, word joiner, soft hyphen, byte order mark.
_INVISIBLE = frozenset("\u00ad\u200c\u200d\u2060\ufeff")


class Kind(IntEnum):
    """What a character does to the token before it."""

    BLANK = 0
    LETTER = 1
    # A letter of a script without blanks: it is a token of its own.
    SINGLE = 2
    # Belongs to the character before it.
    MARK = 3
    # A sign only if a letter, a digit or a sign follows.
    SENTENCE = 4
    SIGN = 5
    UNSEEN = 6
    LINE_END = 7


@cache
def kinds() -> np.ndarray:
    """uint8 [code point]: the `Kind` of each character, after `folded`."""
    return np.array([_kind(chr(code)) for code in range(NUM_CODE_POINTS)], dtype=np.uint8)


@cache
def folded() -> np.ndarray:
    """uint32 [code point]: the character in lower case and without its compatibility form, if that is one character."""
    return np.array([ord(_folded(chr(code))) for code in range(NUM_CODE_POINTS)], dtype=np.uint32)


@cache
def traits() -> np.ndarray:
    """uint8 [code point]: 1 for a letter or a mark, plus 2 for what is neither blank nor invisible; after `folded`."""
    return np.array([_traits(chr(code)) for code in range(NUM_CODE_POINTS)], dtype=np.uint8)


def _traits(character: str) -> int:
    category = unicodedata.category(character)
    return (category[0] in "LM") + 2 * (category[0] not in "CZ")


def _kind(character: str) -> Kind:
    category = unicodedata.category(character)
    if character in _INVISIBLE or category == "Cs" or "\ufe00" <= character <= "\ufe0f":
        return Kind.UNSEEN
    if character == "\n":
        return Kind.LINE_END
    if character in _SENTENCE_SIGNS:
        return Kind.SENTENCE
    if character in _QUOTES:
        return Kind.BLANK
    match category[0]:
        case "L":
            return Kind.SINGLE if has_no_blanks(character) else Kind.LETTER
        case _ if category == "Pc":
            # `snake_case` is one word.
            return Kind.LETTER
        case "N":
            return Kind.LETTER
        case "M":
            return Kind.MARK
        case "P" | "S":
            # Signs of sentences in other scripts: 。、！
            return Kind.BLANK if category == "Po" and not character.isascii() else Kind.SIGN
        case _:
            return Kind.BLANK


def _folded(character: str) -> str:
    for form in (unicodedata.normalize("NFKC", character).lower(), character.lower()):
        if len(form) == 1:
            return form
    return character
