"""Reads and prints the queue, once or until interrupted."""

import sys
import time
from datetime import UTC, datetime

from dagster import DagsterInstance
from rich.live import Live
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from headrace.command_line.output import aligned, print_heading, print_json, print_lines, print_table
from headrace.errors import HeadraceError
from headrace.text.drawing import Terminal, TerminalText
from headrace.text.terminal import say
from headrace.text.visible import one_line
from headrace_dagster.queue_views.queue_json import queue_body, run_body
from headrace_dagster.queue_views.queue_lines import (
    WAITS_FOR_HEADERS,
    daemon_note,
    facts,
    heading,
    plain_lines,
    waits_for_rows,
)
from headrace_dagster.queue_views.queue_table import queue_table
from headrace_dagster.queue_views.queue_view import QueueView, RunView, read_queue
from headrace_dagster.queue_views.run_answer import run_answer

ROWS = 30
_REASON_CHARS = 60


def show_queue(instance: DagsterInstance, *, every_seconds: float | None, limit: int | None, as_json: bool) -> None:
    """Prints once, or at intervals until interrupted: in a pipe a block for each look, with `as_json` a line."""
    console, rows = Terminal(), ROWS if limit is None else limit
    if every_seconds is not None and sys.stdout.isatty() and not as_json:
        _watch(instance, console, rows, every_seconds)
    while True:
        view = read_queue(instance, time.time())
        if as_json:
            print_json(queue_body(view, limit=limit), indent=2 if every_seconds is None else None)
        elif sys.stdout.isatty():
            console.print(queue_table(view, limit=rows, width=console.width))
        else:
            print_lines([*plain_lines(view, limit=rows), *([] if every_seconds is None else [""])])
            _say_note(view)
        if every_seconds is None:
            return
        sys.stdout.flush()
        time.sleep(every_seconds)


def _watch(instance: DagsterInstance, console: Terminal, rows: int, every_seconds: float) -> None:
    view = None
    with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            hint = f"every {every_seconds:g} s; Ctrl-C ends"
            try:
                view = read_queue(instance, time.time())
            except (HeadraceError, SQLAlchemyError) as error:
                # Watching continues while a database or a cluster is away for a moment.
                if view is None:
                    raise
                hint = f"The last look failed ({one_line(str(error))[:_REASON_CHARS]}); {hint}"
            hint = f"{datetime.fromtimestamp(view.at, UTC):%H:%M:%S} UTC, {hint}"
            table = queue_table(view, limit=rows, width=console.width, height=console.height, hint=hint)
            live.update(table, refresh=True)
            time.sleep(every_seconds)


def _say_note(view: QueueView) -> None:
    if note := daemon_note(view):
        say(note, error=True)


def print_answer(instance: DagsterInstance, typed: str, *, as_json: bool) -> None:
    view = read_queue(instance, time.time())
    run = run_answer(instance, typed, view)
    if as_json:
        print_json(run_body(run))
        return
    _print_run(run, view.at)
    if run.state in {"next", "held"} and daemon_note(view):
        say()
        _say_note(view)


def _print_run(run: RunView, now: float) -> None:
    rows = facts(run, now)
    if sys.stdout.isatty():
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(name, TerminalText(value))
        Terminal().print(TerminalText(f"{heading(run)}. ", style="bold") + TerminalText(run.why), "", table, sep="\n")
    else:
        print_lines([f"{heading(run)}. {run.why}", "", *aligned(rows)])
    if run.waits_for:
        print_heading("Waits for")
        print_table(WAITS_FOR_HEADERS, waits_for_rows(run.waits_for, now))
