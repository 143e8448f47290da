"""Prints for commands: tables on a terminal, plain columns in a pipe, JSON for programs; progress on stderr."""

import base64
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

from headrace.text.terminal import say
from headrace.text.visible import json_visible, one_line, shortened, visible

_GAP = "  "
# About three lines of a terminal: enough to judge a text, and no page.
_CELL_CHARS_MAX = 300
# One long text must not move the columns beside it off every line.
_PADDED_CELLS_MAX = 80
_MARKS = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}
Row = Sequence[str]


def print_table(headers: Sequence[str], rows: Sequence[Row], *, right: Sequence[str] = (), marked: str = "") -> None:
    """Prints aligned columns. `right`: headers of number columns; `marked`: a style for the first column on a terminal.

    On a terminal, wraps cells to its width; in a pipe, each row is one whole line.
    """
    if not sys.stdout.isatty():
        print_lines(aligned([headers, *rows], right=[headers.index(name) for name in right]))
        return
    from rich.table import Table

    from headrace.text.drawing import Terminal, TerminalText

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, header in enumerate(headers):
        table.add_column(
            header,
            justify="right" if header in right else "left",
            style=marked if index == 0 else "",
            no_wrap=header in right,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*map(TerminalText, row))
    Terminal().print(table)


def print_lines(lines: Sequence[str]) -> None:
    """Shows line breaks within a line as escapes."""
    for line in lines:
        say(visible(line))


def print_marked(level: str, text: str, *, indent: str = "") -> None:
    """A line that begins with `ok`, `warn` or `FAIL`, in its colour. `level`: as of a `Finding`."""
    mark, colour = _MARKS[level]
    if indent:
        say(indent, goes_on=True)
    say(f"{mark:4}", colour=colour, goes_on=True)
    say(f"  {visible(text)}")


def print_heading(text: str) -> None:
    say()
    say(text, bold=True)


def print_json(body: Any, *, indent: int | None = 2) -> None:
    """Writes characters that steer a terminal as JSON escapes; every reader gets the same values."""
    say(json_visible(json.dumps(json_value(body), indent=indent, ensure_ascii=False, allow_nan=False)))


def json_value(value: Any) -> Any:
    """Converts values that JSON lacks: bytes to base64, times to ISO 8601, durations to seconds, NaN to text; a
    dataclass to its fields."""
    if is_dataclass(value):
        return {each.name: json_value(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, dict):
        return {str(name): json_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_value(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def aligned(rows: Sequence[Row], *, right: Sequence[int] = ()) -> list[str]:
    """One line for each row, for any texts; columns two blanks apart. Widths are in terminal cells.

    A column is no wider than 80: a longer text is whole, and moves the rest of its own line alone.
    """
    rows = [list(map(visible, row)) for row in rows]
    widths = [min(max(map(cells, column)), _PADDED_CELLS_MAX) for column in zip(*rows, strict=True)]
    return [
        _GAP.join(
            " " * (width - cells(cell)) + cell if index in right else cell + " " * (width - cells(cell))
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def cell_text(text: str) -> str:
    """A prompt or an answer in a table: one line, and its beginning if it is long; JSON has it whole."""
    return shortened(one_line(text), _CELL_CHARS_MAX)


def cells(text: str) -> int:
    """Terminal columns of `text`: CJK characters and emoji take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def bytes_text(num_bytes: float) -> str:
    """`1.2 GB`: powers of 1000, as disk makers and the UI use them."""
    for unit in ("B", "KB", "MB", "GB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.0f} {unit}" if unit == "B" or num_bytes >= 99.5 else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def age_text(seconds: float) -> str:
    """`3 h`: in the largest unit that fits at least twice."""
    seconds = max(seconds, 0.0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def counted(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


@contextmanager
def progress(what: str, total: int | None, *, in_bytes: bool = True) -> Iterator[Callable[[int], None]]:
    """Yields a function that adds finished work. Shows progress only if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TransferSpeedColumn

    from headrace.text.drawing import Terminal

    columns = [DownloadColumn(), TransferSpeedColumn()] if in_bytes else [MofNCompleteColumn()]
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), *columns, console=Terminal(stderr=True), transient=True
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
