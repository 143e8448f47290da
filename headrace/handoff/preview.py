"""The first rows of a table as Markdown, short enough for Dagster's UI to show it in place."""

from typing import Any

import pyarrow as pa

# The UI hides Markdown of 1,000 characters and more behind a button.
MARKDOWN_CHARS = 999


def preview_markdown(table: pa.Table) -> str:
    """At most 5 rows; cells, then rows, then columns give way until it fits into `MARKDOWN_CHARS`."""
    rows = table.slice(0, 5).to_pylist()
    names = table.schema.names
    for num_columns in range(len(names), 0, -1):
        for cell_chars, num_rows in ((48, 5), (24, 5), (24, 3), (12, 3), (12, 1)):
            text = _table(names, rows[:num_rows], num_columns, cell_chars)
            if len(text) <= MARKDOWN_CHARS:
                return text
    return f"{len(names)} columns"


def _table(names: list[str], rows: list[dict[str, Any]], num_columns: int, cell_chars: int) -> str:
    shown = names[:num_columns]
    surplus = [f"+{len(names) - num_columns}"] if num_columns < len(names) else []
    lines = [[_cell(name, cell_chars) for name in shown] + surplus, ["-"] * (num_columns + len(surplus))]
    lines += [[_cell(row[name], cell_chars) for name in shown] + [""] * len(surplus) for row in rows]
    return "\n".join(f"|{'|'.join(line)}|" for line in lines)


def _cell(value: Any, cell_chars: int) -> str:
    text = " ".join(_plain(value).split())
    text = text if len(text) <= cell_chars else text[: cell_chars - 1] + "…"
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("`", "\\`")


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, list):
        return "[" + ", ".join(_plain(item) for item in value[:8]) + (", …]" if len(value) > 8 else "]")
    return str(value)
