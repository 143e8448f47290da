"""Texts of the code as Markdown that GitHub and the site's renderer show alike."""

import re
from collections.abc import Iterable, Sequence

# Outside of code; a bar would begin a column, and the two renderers disagree about backslashes before it.
_SYNTAX = re.compile(r"[<>|*\[\]]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")
_ENTITIES = {"<": "&lt;", ">": "&gt;", "|": "&#124;"}
_ADDRESS = re.compile(r"(?:https?|s3|file)://[^\s,;)]*[^\s,;).]")


def code(text: str) -> str:
    """Inline code; with a bar in it as HTML, since only that survives in a table of either renderer."""
    if "|" not in text and "`" not in text:
        return f"`{text}`"
    for character, entity in {"&": "&amp;", **_ENTITIES, "`": "&#96;"}.items():
        text = text.replace(character, entity)
    return f"<code>{text}</code>"


def prose(text: str) -> str:
    """One line of a docstring or a help text. What stands in backticks stays code, addresses become code."""
    line = " ".join(text.split())
    pieces = line.split("`")
    if len(pieces) % 2 == 0:  # a single backtick is a character like others
        pieces = [line.replace("`", "&#96;")]
    return "".join(_outside(piece) if index % 2 == 0 else code(piece) for index, piece in enumerate(pieces))


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The cells are Markdown already."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(cell.replace(chr(10), ' ') for cell in line)} |" for line in lines)


def page(title: str, *parts: str) -> str:
    notice = "<!-- Written by `make reference` from the code: change it there. -->"
    return "\n\n".join([notice, f"# {title}", *filter(None, parts)]) + "\n"


def _outside(text: str) -> str:
    pieces, start = [], 0
    for match in _ADDRESS.finditer(text):
        pieces += [_escaped(text[start : match.start()]), code(match[0])]
        start = match.end()
    return "".join([*pieces, _escaped(text[start:])])


def _escaped(text: str) -> str:
    return _SYNTAX.sub(lambda match: _ENTITIES.get(match[0], f"\\{match[0]}"), text)
