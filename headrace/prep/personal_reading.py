r"""A text as its characters are meant, for what looks for values in it, and where each stands in the text as written.

What is written in full width or with digits of another script is read as ASCII, and what programs and JSON escape
(`\n`, `\u0040`, `\/`) as what it stands for. A text in which a URL or a mail may have encoded characters (`%20`,
`=3D`) or a value follows `%s` is read both as it is and with what they stand for. An invisible character is nothing
within a value and an end beside one, so a text that has some is read both ways. A name after a backslash that begins
with n, r or t (`DOMAIN\tom@example.com`) is read as one after a line end.
"""

import re
import sys
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache

import polars as pl

_BLANKS = "\u00a0\u2000-\u200a\u202f\u205f\u3000"
_INVISIBLE = "\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufe00-\ufe0f\ufeff"
# An ideographic full stop ends a sentence, unless it stands within a domain.
_ESCAPES = r"u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|x[0-9A-Fa-f]{2}|[nrt]|[/_.+@:=*`\-]"
_MOVES = re.compile(rf"(?P<invisible>[{_INVISIBLE}])|(?<=[A-Za-z0-9])[。｡](?=[a-z])|(?<!\\)\\++(?:{_ESCAPES})")
# ASCII's blanks and punctuation, not its letters: `%ad` is an encoded character more rarely than a format.
ENCODED = "%(?:0[9ADad]|2[0-9A-Fa-f]|3[A-Fa-f]|40|5[B-Fb-f]|7[B-Db-d])|=3D"
# In Rust's syntax, too.
_MAY_BE_ENCODED = re.compile(f"{ENCODED}|%s[+A-Za-z0-9]")
_ENCODED_MOVES = re.compile(rf"{_MOVES.pattern}|{ENCODED}|%s")
_MAY_BE_INVISIBLE = re.compile(rf"[{_INVISIBLE}]|\\[uUx]")
# Rust's syntax; every text that is read otherwise than it is written, as far as its values go, matches it. A text in
# Chinese has punctuation in full width, and mostly no more.
_OTHERWISE = (
    r"[\x{ff0b}\x{ff0d}-\x{ff0f}\x{ff10}-\x{ff19}\x{ff20}-\x{ff3a}\x{ff3f}\x{ff41}-\x{ff5a}]"
    rf"|[{_INVISIBLE}]|[\p{{Nd}}--0-9]|\d[{_BLANKS}]\d|[A-Za-z0-9][。｡]|\\[nrtuUx/_.+@:=*`\-]|{_MAY_BE_ENCODED.pattern}"
)
_NO_CHARACTER = "\ufffd"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """`text` as it is read; `moved`: places in it where a character begins or ends that is written otherwise, and
    `written`: where that is in the text as written."""

    text: str
    moved: tuple[int, ...] = (0,)
    written: tuple[int, ...] = (0,)

    def as_written(self, start: int, end: int) -> tuple[int, int]:
        """Where in the text as written a value begins and ends."""
        first, last = bisect_right(self.moved, start) - 1, bisect_right(self.moved, end - 1) - 1
        begin = self.written[first] + start - self.moved[first]
        # Every second step is one character that stands for several.
        return begin, self.written[last + 1] if last % 2 else self.written[last] + end - self.moved[last]


def readings(text: str) -> list[Reading]:
    """The text as it is read; once more with blanks for its invisible characters and with encoded ones as what they
    stand for, if it has any."""
    plain = text if text.isascii() else text.translate(_as_ascii())
    encoded = [_reading(plain, "", _ENCODED_MOVES)] if _MAY_BE_ENCODED.search(text) else []
    if not _MOVES.search(plain):
        return [Reading(text=plain), *encoded]
    invisible = [_reading(plain, " ", _MOVES)] if _MAY_BE_INVISIBLE.search(plain) else []
    return [_reading(plain, "", _MOVES), *invisible, *encoded]


@cache
def _as_ascii() -> dict[int, str]:
    """Character → the one of ASCII as which it is read: of one each, so that no place moves.

    Superscripts stay: they are a note behind a number, not its digits. Made at first use, in 0.1 s.
    """
    found = {ord(blank): " " for blank in "\u00a0\u202f\u205f\u3000"} | dict.fromkeys(range(0x2000, 0x200B), " ")
    found |= {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    # There are no digits beyond the second plane.
    digits = (code for code in range(0x80, 0x20000) if unicodedata.category(chr(code)) == "Nd")
    return found | {code: str(unicodedata.decimal(chr(code))) for code in digits}


def _reading(plain: str, invisible: str, moves: re.Pattern[str]) -> Reading:
    parts, moved, written, done, length = [], [0], [0], 0, 0
    for change in moves.finditer(plain):
        new = invisible if change["invisible"] else _meant(change[0], invisible)
        parts += [plain[done : change.start()], new]
        length += change.start() - done
        # What stands for several characters begins where they do; what comes after it, after all of them.
        moved += [length, length + len(new)]
        written += [change.start(), change.end()]
        length, done = length + len(new), change.end()
    return Reading(text="".join([*parts, plain[done:]]), moved=tuple(moved), written=tuple(written))


def _meant(written: str, invisible: str) -> str:
    if written[0] in "%=":
        return " " if written == "%s" else chr(int(written[1:], 16))
    name = written.lstrip("\\")
    if len(name) > 1:
        code = int(name[1:], 16)
        meant = chr(code) if code <= sys.maxunicode and not 0xD800 <= code < 0xE000 else _NO_CHARACTER
        return invisible if re.fullmatch(f"[{_INVISIBLE}]", meant) else meant.translate(_as_ascii())
    return {"n": "\n", "r": "\r", "t": "\t", "。": ".", "｡": "."}.get(name, name)


def read(texts: pl.Series) -> pl.Series:
    """Each text in all its readings, one below the other, for patterns that say what may hold something.

    All at once where no character is given by its number or encoded, which one by one takes twenty times as long.
    """
    others = texts.str.contains(_OTHERWISE).fill_null(False).arg_true()
    if others.is_empty():
        return texts
    some = texts.gather(others)
    numbered = some.str.contains(rf"\\[uUx][0-9A-Fa-f]{{2}}|{_MAY_BE_ENCODED.pattern}")
    plain = some.str.replace_many([*map(chr, _as_ascii())], [*_as_ascii().values()])
    plain = plain.str.replace_all(r"\\+[nrt]", "\n").str.replace_all(r"\\+([/_.+@:=*`\-])", "$1")
    plain = plain.str.replace_all(r"([A-Za-z0-9])[。｡]([a-z])", "$1.$2")
    both = plain.str.replace_all(f"[{_INVISIBLE}]", "") + "\n" + plain.str.replace_all(f"[{_INVISIBLE}]", " ")
    one_by_one = ["\n".join(one.text for one in readings(text)) for text in some.filter(numbered)]
    both = both.scatter(numbered.arg_true(), pl.Series(one_by_one, dtype=pl.String))
    return texts.clone().scatter(others, both)
