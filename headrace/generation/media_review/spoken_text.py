"""A text as it is spoken, in letters: what is compared with what was heard, and how long a text takes to say.

Numbers are in words, by ICU, since nobody hears digits. A number that may be a year has two readings, and the one that
was heard counts. Other letters than a to z stay: nobody who knows English alone hears them, so they count as wrong.
"""

import re
import unicodedata
from functools import cache

from icu4py.messageformat import MessageFormat

from headrace.text.words import encodable

_NUMBER = re.compile(r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
_SIGNS = {"%": " percent ", "&": " and ", "+": " plus ", "=": " equals ", "°": " degrees ", "$": " dollars "}
_SIGNS |= {"£": " pounds ", "€": " euros ", "@": " at ", "½": " one half ", "¼": " one quarter ", "×": " times "}
_LETTERS = str.maketrans({"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th"})
# Of more ICU counts on in digits, and of thousands Python reads no number.
_CARDINAL_DIGITS_MAX = 15
_YEARS = range(1100, 2100)


def readings(text: str) -> tuple[str, ...]:
    """The text's letters, without case, blanks and accents: by one reading of its numbers, or two."""
    plain = encodable(text)
    for sign, word in _SIGNS.items():
        plain = plain.replace(sign, word)
    plain = unicodedata.normalize("NFKC", plain)
    cardinal = _NUMBER.sub(lambda found: f" {_in_words(found[0])} ", plain)
    as_years = _NUMBER.sub(lambda found: f" {_as_year(found[0])} ", plain)
    return tuple(dict.fromkeys((letters(cardinal), letters(as_years))))


def letters(text: str) -> str:
    """Without case, blanks, signs and accents."""
    folded = unicodedata.normalize("NFKD", text.casefold().translate(_LETTERS))
    return "".join(sign for sign in folded if sign.isalnum())


def _in_words(number: str) -> str:
    whole, _, fraction = number.replace(",", "").partition(".")
    if len(whole.lstrip("0")) > _CARDINAL_DIGITS_MAX:
        return _digits(whole)
    said = _spelt(int(whole))
    return f"{said} point {_digits(fraction)}" if fraction else said


def _as_year(number: str) -> str:
    if len(number) != 4 or not number.isdecimal() or int(number) not in _YEARS:
        return _in_words(number)
    century, year = divmod(int(number), 100)
    if year == 0:
        return _spelt(int(number)) if century % 10 == 0 else f"{_spelt(century)} hundred"
    return f"{_spelt(century)} {'oh ' if year < 10 else ''}{_spelt(year)}"


def _digits(digits: str) -> str:
    return " ".join(_spelt(int(digit)) for digit in digits)


def _spelt(number: int) -> str:
    return _words_of().format({"n": number})


@cache
def _words_of() -> MessageFormat:
    return MessageFormat("{n, spellout}", "en")
