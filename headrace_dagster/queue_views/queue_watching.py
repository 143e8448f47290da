"""Reads and prints, once or until somebody has seen enough."""

import sys
import time
from datetime import UTC, datetime
from typing import Any

from dagster import DagsterInstance
from rich.live import Live
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from headrace.command_line.output import (
    aligned,
    print_heading,
    print_json,
    print_lines,
    print_table,
)
from headrace.errors import HeadraceError
from headrace.text.drawing import Terminal, TerminalText
from headrace.text.terminal import say
from headrace.text.visible import one_line
from headrace_dagster.queue_views.queue_json import queue_body, run_body
from headrace_dagster.queue_views.queue_lines import daemon_note, plain_lines
from headrace_dagster.queue_views.queue_table import queue_table
from headrace_dagster.queue_views.queue_view import QueueView, RunView, read_queue
from headrace_dagster.queue_views.run_answer import run_answer
from headrace_dagster.queue_views.run_text import WAITS_FOR_HEADERS, facts, heading, waits_for_rows

_REASON_CHARS = 60


def print_queue(instance: DagsterInstance, *, limit: int | None, default_limit: int, as_json: bool) -> None:
    view = read_queue(instance, time.time())
    if as_json:
        print_json(queue_body(view, limit=limit))
    elif sys.stdout.isatty():
        console = Terminal()
        console.print(queue_table(view, limit=default_limit if limit is None else limit, width=console.width))
    else:
        _print_plainly(view, default_limit if limit is None else limit)


def watch_queue(
    instance: DagsterInstance, *, every_seconds: float, limit: int | None, default_limit: int, as_json: bool
) -> None:
    """Until interrupted. In a pipe a block, with `as_json` a line, for each look."""
    rows = default_limit if limit is None else limit
    if as_json or not sys.stdout.isatty():
        while True:
            view = read_queue(instance, time.time())
            if as_json:
                print_json(queue_body(view, limit=limit), indent=None)
            else:
                _print_plainly(view, rows)
                say()
            sys.stdout.flush()
            time.sleep(every_seconds)
    console = Terminal()
    with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="ellipsis") as live:
        view = None
        while True:
            hint = f"every {every_seconds:g} s; Ctrl-C ends"
            try:
                view = read_queue(instance, time.time())
            except (HeadraceError, SQLAlchemyError) as error:
                # A database or a cluster that is away for a moment is no reason to look away.
                if view is None:
                    raise
                hint = f"The last look failed ({one_line(str(error))[:_REASON_CHARS]}); {hint}"
            hint = f"{datetime.fromtimestamp(view.at, UTC):%H:%M:%S} UTC, {hint}"
            table = queue_table(view, limit=rows, width=console.width, height=console.height, hint=hint)
            live.update(table, refresh=True)
            time.sleep(every_seconds)


def _print_plainly(view: QueueView, limit: int) -> None:
    print_lines(plain_lines(view, limit=limit))
    if note := daemon_note(view):
        say(note, error=True)


def print_answer(instance: DagsterInstance, typed: str, *, as_json: bool) -> None:
    view = read_queue(instance, time.time())
    run = run_answer(instance, typed, view)
    if as_json:
        print_json(run_body(run))
        return
    print_run(run, view.at)
    if run.state in {"next", "held"} and (note := daemon_note(view)):
        say()
        say(note, error=True)


def print_run(run: RunView, now: float) -> None:
    rows: list[Any] = facts(run, now)
    if sys.stdout.isatty():
        console = Terminal()
        console.print(TerminalText(f"{heading(run)}. ", style="bold") + TerminalText(run.why))
        console.print()
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(name, TerminalText(value))
        console.print(table)
    else:
        print_lines([f"{heading(run)}. {run.why}", "", *aligned(rows)])
    if run.waits_for:
        print_heading("Waits for")
        print_table(WAITS_FOR_HEADERS, waits_for_rows(run.waits_for, now))
