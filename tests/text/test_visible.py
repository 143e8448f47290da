import re
import sys
import unicodedata

import pytest

from headrace.text.visible import one_line, shortened, visible, visible_lines
from tests.text.foreign import FOREIGN

_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
# Characters of categories that steer which are seen all the same, or belong to words of some script.
_PART_OF_WORDS = {
    *(0x200C, 0x200D),
    *range(0x0600, 0x0606),
    *(0x06DD, 0x070F, 0x0890, 0x0891, 0x08E2, 0x110BD, 0x110CD),
    *range(0x13430, 0x13440),
}
_ENGLAND = "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
_INVISIBLE = {*range(0xE0000, 0xE0100), *range(0xE01F0, 0xE1000), *range(0x2060, 0x2070)}


def _steers(code: int) -> bool:
    nobody = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    category = unicodedata.category(chr(code))
    return (category in _CATEGORIES or nobody or code in _INVISIBLE) and code not in _PART_OF_WORDS


def test_exactly_the_characters_that_steer_become_escapes():
    stay = "".join(chr(code) for code in range(sys.maxunicode + 1) if not _steers(code))
    assert visible(stay) == stay
    steering = [chr(code) for code in range(sys.maxunicode + 1) if _steers(code)]
    assert re.fullmatch(r"(\\([nrt]|x..|u....|U........))*", shown := visible("".join(steering)))
    assert shown.count("\\") == len(steering)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x9b2J", "\\x9b2J"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("half \ud83d", "half \\ud83d"),
        ("hidden \U000e0041", "hidden \\U000e0041"),
        ("a\x1cb", "a\\x1cb"),
        (" two\r\n\tlines ", "two lines"),
        ("C:\\new [bold] नमस्ते 👩‍👧", "C:\\new [bold] नमस्ते 👩‍👧"),
        (_ENGLAND, _ENGLAND),
    ],
)
def test_a_cell_shows_what_was_written(text: str, seen: str):
    assert one_line(text) == seen


def test_a_line_keeps_its_blanks_and_shows_where_it_would_have_ended():
    assert visible("a  b\tc\r\nd") == "a  b\\tc\\r\\nd"


def test_several_lines_stay_several_lines():
    assert visible_lines("a\n\tb\r\n\x1bc") == "a\n\tb\\r\n\\x1bc"


@pytest.mark.parametrize("text", FOREIGN, ids=range(len(FOREIGN)))
def test_what_is_shown_can_be_encoded_and_steers_nothing_any_more(text: str):
    shown = one_line(text)
    shown.encode()
    assert one_line(shown) == shown
    assert "\n" not in shown


def test_a_text_that_is_cut_says_so():
    assert (shortened("abcdef", 4), shortened("abcd", 4)) == ("abc…", "abcd")
