"""The first rows of a table as Markdown, short enough for Dagster's UI to show it in place."""

import re
from typing import Any

import pyarrow as pa

from headrace.text import markdown

_ID = re.compile(r"[0-9a-f]{32,}")
_ID_CHARS = 8


def preview_markdown(table: pa.Table) -> str:
    """At most 5 rows; shortens cells, then drops rows, then columns, until it fits into `markdown.CHARS_MAX`."""
    rows = table.slice(0, 5).to_pylist()
    names = table.schema.names
    for num_columns in range(len(names), 0, -1):
        for cell_chars, num_rows in ((48, 5), (24, 5), (24, 3), (12, 3), (12, 1)):
            text = _table(names, rows[:num_rows], num_columns, cell_chars)
            if len(text) <= markdown.CHARS_MAX:
                return text
    return f"{len(names)} columns"


def _table(names: list[str], rows: list[dict[str, Any]], num_columns: int, cell_chars: int) -> str:
    shown = names[:num_columns]
    surplus = [f"+{len(names) - num_columns}"] if num_columns < len(names) else []
    cells = [[_plain(row[name]) for name in shown] + [""] * len(surplus) for row in rows]
    return markdown.table([*shown, *surplus], cells, cell_chars_max=cell_chars)


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, list):
        return "[" + ", ".join(_plain(item) for item in value[:8]) + (", …]" if len(value) > 8 else "]")
    text = str(value)
    # The beginning of an id tells rows apart; the whole would push texts out of the table.
    return f"{text[:_ID_CHARS]}…" if _ID.fullmatch(text) else text
