"""Words and characters of every script by Unicode and ICU; literal terms in running text.

`\\w` does not find words: it finds one in a page of Chinese or Thai, several in one Hindi word, and the letter C in
`C++`. ICU cuts text by Unicode's rules (UAX #29), and by dictionary if a script has no blanks between words (Chinese,
Japanese, Thai, Lao, Khmer, Burmese). A dictionary guesses, and cuts an unknown name into several words. So only counts
depend on a dictionary; whether a term occurs in a text does not.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from icu4py.breakers import CharacterBreaker, WordBreaker

# No language's rules in particular; ICU chooses dictionaries by script, not by locale.
_LOCALE = "und"
# First words of the Unicode names of letters whose scripts put no blank between words.
_WITHOUT_BLANKS = {
    *("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "IDEOGRAPHIC", "YI"),
    *("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE", "BALINESE", "TAI", "NEW", "AHOM", "CHAM"),
}
# Different spellings that are read alike, and invisible characters.
_ALIKE = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "“": '"', "”": '"', "‐": "-", "‑": "-", "–": "-"})
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSEEN = re.compile("[\u00ad\u200b\u2060\ufe00-\ufe0f\ufeff]")


def words(text: str) -> list[str]:
    """The words of a text, in order, without blanks and punctuation; a word has a letter or a digit."""
    return [segment for segment in segments(text) if segment.isalnum() or any(map(str.isalnum, segment))]


def segments(text: str) -> list[str]:
    """The text cut at every word border: words, blanks and signs. Joined, they are the text."""
    return list(WordBreaker(encodable(text), _LOCALE))


def graphemes(text: str) -> list[str]:
    """What readers see as single characters: each with its accents, vowel signs, joiners and skin tones."""
    return list(CharacterBreaker(encodable(text), _LOCALE))


def encodable(text: str) -> str:
    """The text with U+FFFD for lone surrogates, which ICU refuses."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def tokens(text: str) -> list[str]:
    """Words without case, for comparing texts; for scripts without blanks single characters, without a dictionary."""
    found = []
    for word in words(folded(text)):
        found += graphemes(word) if has_no_blanks(word[0]) else [word]
    return found


def folded(text: str) -> str:
    """The text without case, compatibility forms, invisible characters and kinds of quotes; joins runs of blanks."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", encodable(text)).casefold())
    return " ".join(_UNSEEN.sub("", plain.translate(_ALIKE)).split())


def has_no_blanks(letter: str) -> bool:
    """Whether a letter's script puts no blanks between words."""
    return not letter.isascii() and unicodedata.name(letter, "").partition(" ")[0].partition("-")[0] in _WITHOUT_BLANKS


@dataclass(frozen=True)
class Term:
    """A word, a phrase or any other literal text to look for, as written except for what `folded` removes.

    Matches whole characters only: never a part of a letter with its accents, of an emoji, of a syllable. If the term
    begins or ends with a letter or a digit of a script with blanks, a word border must be there.
    """

    text: str

    @cached_property
    def _folded(self) -> str:
        return folded(self.text)

    @cached_property
    def _borders(self) -> tuple[bool, bool]:
        """Whether its beginning and its end must be word borders."""
        clusters = graphemes(self._folded)
        first, last = (_is_bounded(cluster) for cluster in (clusters[0], clusters[-1]))
        return first, last

    def stands_in(self, text: "Running") -> bool:
        """Whether the text contains the term; never for an empty term."""
        if not self._folded or self._folded not in text.folded:
            return False
        needs_first, needs_last = self._borders
        for start in _occurrences(self._folded, text.folded):
            end = start + len(self._folded)
            if not {start, end} <= text.characters:
                continue
            if (not needs_first or start in text.borders) and (not needs_last or end in text.borders):
                return True
        return False


class Running:
    """A text to search for terms; its possible cuts are computed once, and only if needed."""

    def __init__(self, text: str) -> None:
        self.folded = folded(text)

    @cached_property
    def borders(self) -> frozenset[int]:
        return _offsets(segments(self.folded))

    @cached_property
    def characters(self) -> frozenset[int]:
        return _offsets(graphemes(self.folded))


def _is_bounded(cluster: str) -> bool:
    return cluster[0].isalnum() and not has_no_blanks(cluster[0])


def _offsets(pieces: list[str]) -> frozenset[int]:
    # Not `segments()` of icu4py, whose offsets count UTF-16 units.
    offsets, at = {0}, 0
    for piece in pieces:
        at += len(piece)
        offsets.add(at)
    return frozenset(offsets)


def _occurrences(term: str, text: str) -> Iterator[int]:
    start = text.find(term)
    while start >= 0:
        yield start
        start = text.find(term, start + 1)
