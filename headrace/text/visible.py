"""Foreign text for a terminal or a log: it looks as it was written, and moves nothing.

Characters that control the display (control characters and with them ANSI's escapes, overrides of the writing
direction, invisible format characters, lone surrogates) become escapes in Python's spelling: `\\x1b`, `\\u202e`.
Letters of every script, combining marks, joiners and emoji stay. A backslash stays, so the four written characters
`\\x1b` look like the escaped character: both are harmless.
"""

import json
import re

# None of these is ordinary text: Unicode's control, format, surrogate and private-use characters and noncharacters,
# except those that belong to words (joiners, Arabic and Kaithi number signs, Egyptian joiners). Written out, since
# searching all of Unicode would cost every command a tenth of a second; a test compares.
_STEERING = (
    "\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\uf8ff\ufdd0-\ufdef\ufeff"
    "\ufff9-\ufffb\ufffe\uffff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
    "\U000f0000-\U0010ffff"
) + "".join(f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(1, 15))
# A flag such as Scotland's is a black flag and invisible letters; only this use of them is kept.
_FLAG = "\U0001f3f4[\U000e0020-\U000e007e]{1,6}\U000e007f"
_HIDDEN = re.compile(f"(?P<flag>{_FLAG})|[{_STEERING}]")
_HIDDEN_BUT_LINES = re.compile(f"(?P<flag>{_FLAG})|(?![\n\t])[{_STEERING}]")
# Blanks, tabs and line ends; not str.split(), which silently drops the separators \x1c to \x1f.
_WHITE = re.compile(r"[ \t\r\n]+")


def one_line(text: str) -> str:
    """For a cell or a log line: joins runs of blanks, tabs and line ends into one blank, escapes control characters."""
    return _HIDDEN.sub(_escape, _WHITE.sub(" ", text).strip(" "))


def visible(text: str) -> str:
    """One line as it was written, with all blanks; line ends and tabs become escapes too."""
    return _HIDDEN.sub(_escape, text)


def visible_lines(text: str) -> str:
    """Several lines, with line feeds and tabs unchanged."""
    return _HIDDEN_BUT_LINES.sub(_escape, text)


def json_visible(json_text: str) -> str:
    """Equivalent JSON with a JSON escape for each control character."""
    return _HIDDEN_BUT_LINES.sub(lambda match: match["flag"] or json.dumps(match[0])[1:-1], json_text)


def shortened(text: str, chars_max: int) -> str:
    """At most `chars_max` characters; if something was cut off, the last one is an ellipsis."""
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escape(match: re.Match[str]) -> str:
    if match["flag"]:
        return match["flag"]
    code = ord(match[0])
    return _NAMED.get(match[0]) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )
