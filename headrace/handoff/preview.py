"""The first rows of a table as Markdown, short enough for Dagster's UI to show it in place."""

import re
from typing import Any

import pyarrow as pa

from headrace.text import markdown
from headrace.text.visible import one_line, shortened

# What people look at a document for: it gets most of the room, and stays when other columns go.
TEXT = "text"
_FILE = "source_file"

_ID = re.compile(r"[0-9a-f]{32,}")
_ID_CHARS = 8
# Characters of a text, characters of any other cell, rows: the first that fit are shown.
_ROOM = ((48, 48, 5), (24, 24, 5), (24, 24, 3), (12, 12, 3), (12, 12, 1))
_ROOM_WITH_TEXT = (
    *((text, 48, 5) for text in (120, 80, 48)),
    *((text, 24, rows) for rows in (5, 3) for text in (120, 80)),
    *((text, 12, rows) for rows in (5, 3) for text in (120, 80, 48)),
    (48, 12, 1),
)


def preview_markdown(table: pa.Table) -> str:
    """At most 5 rows; shortens cells, then drops rows, then columns, until it fits into `markdown.CHARS_MAX`."""
    rows = table.slice(0, 5).to_pylist()
    names = table.schema.names
    for num_columns in range(len(names), 0, -1):
        shown = names[:num_columns]
        if TEXT in names and TEXT not in shown:
            shown = [*shown[:-1], TEXT]
        for text_chars, cell_chars, num_rows in _ROOM_WITH_TEXT if TEXT in names else _ROOM:
            text = _table(names, shown, rows[:num_rows], text_chars, cell_chars)
            if len(text) <= markdown.CHARS_MAX:
                return text
    return f"{len(names)} columns"


def _table(names: list[str], shown: list[str], rows: list[dict[str, Any]], text_chars: int, cell_chars: int) -> str:
    surplus = [f"+{len(names) - len(shown)}"] if len(shown) < len(names) else []
    most = [text_chars if name == TEXT else cell_chars for name in shown]
    cells = [
        [_cut(name, one_line(_plain(row[name])), chars) for name, chars in zip(shown, most, strict=True)]
        + [""] * len(surplus)
        for row in rows
    ]
    return markdown.table([*(shortened(one_line(name), cell_chars) for name in shown), *surplus], cells)


def _cut(name: str, text: str, chars_max: int) -> str:
    # By its end a file is told from those beside it.
    return shortened(text[::-1], chars_max)[::-1] if name == _FILE else shortened(text, chars_max)


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return "[" + ", ".join(_plain(item) for item in value[:8]) + (", …]" if len(value) > 8 else "]")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = str(value)
    # The beginning of an id tells rows apart; the whole would push texts out of the table.
    return f"{text[:_ID_CHARS]}…" if _ID.fullmatch(text) else text
