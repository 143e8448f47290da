"""How `headrace queue` looks on a terminal: GPUs with who holds them until when, then the queue with its reasons."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table

from headrace.text.drawing import TerminalText
from headrace.text.visible import one_line
from headrace_dagster.queue_views.fleet_table import GAP, cells_left, fleet_table
from headrace_dagster.queue_views.queue_lines import (
    asks_text,
    daemon_note,
    headline,
    latest_text,
    more_text,
    waited_text,
)
from headrace_dagster.queue_views.queue_view import QueueView, RunView
from headrace_dagster.queue_views.queue_words import short_id

_NODE_LINES_MIN = 6
# On a terminal of few lines: one of facts and mostly two of reasons; above and below them headings and notes.
_LINES_A_RUN = 3
_OTHER_LINES = 8
_STATE_STYLES = {"next": "green", "held": "yellow", "impossible": "red"}


def queue_table(
    view: QueueView, *, limit: int, width: int, height: int | None = None, hint: str = ""
) -> RenderableType:
    """`width`, `height`: of the terminal. With a height, nodes are cut to about half of it, and runs to the rest."""
    parts: list[RenderableType] = [TerminalText(headline(view), style="bold")]
    if hint:
        parts.append(TerminalText(hint, style="dim"))
    max_lines = None if height is None else max(_NODE_LINES_MIN, height // 2)
    fleet = fleet_table(view, width, max_lines=max_lines)
    if height is not None:
        num_fleet_lines = sum(part.row_count if isinstance(part, Table) else 1 for part in fleet)
        limit = min(limit, max(1, (height - num_fleet_lines - _OTHER_LINES) // _LINES_A_RUN))
    parts += [TerminalText(), *fleet, TerminalText(), *_queue(view, limit, width)]
    if note := daemon_note(view):
        parts += [TerminalText(), TerminalText(note, style="red")]
    return Group(*parts)


def _queue(view: QueueView, limit: int, width: int) -> list[RenderableType]:
    if not view.queued:
        return [TerminalText("Nothing is queued.", style="dim")]
    shown = view.queued[:limit]
    rows = [[TerminalText(word) for word in ("", "QUEUED", "WHAT", "ASKS FOR", "WAITED", "AT LATEST")]]
    for number, run in enumerate(shown, 1):
        rows.append(
            [
                TerminalText(str(number), style="dim"),
                TerminalText(short_id(run.run_id), style=_STATE_STYLES.get(run.state, "")),
                TerminalText(one_line(run.name)),
                TerminalText(asks_text(run)),
                TerminalText(waited_text(run, view.at)),
                TerminalText(latest_text(run, view.at)),
            ]
        )
    widths = [max(row[column].cell_len for row in rows) for column in range(len(rows[0]))]
    widths[2] = cells_left(width, [*widths[:2], *widths[3:]], [row[2] for row in rows])
    lines: list[RenderableType] = [_queue_line(rows[0], widths, style="bold")]
    for run, row in zip(shown, rows[1:], strict=True):
        reason = TerminalText(one_line(run.why), style=_STATE_STYLES.get(run.state, ""))
        reason.append(_beside(run), style="dim")
        lines += [_queue_line(row, widths), Padding(reason, (0, 0, 0, widths[0] + GAP))]
    if len(view.queued) > limit:
        lines.append(TerminalText(more_text(view, limit), style="dim"))
    return lines


def _queue_line(texts: Sequence[TerminalText], widths: Sequence[int], *, style: str = "") -> Table:
    line = Table.grid(padding=(0, GAP, 0, 0))
    for column, width in enumerate(widths):
        justify = "right" if column in {0, 4, 5} else "left"
        line.add_column(width=width, no_wrap=True, overflow="ellipsis", justify=justify, style=style)
    line.add_row(*texts)
    return line


def _beside(run: RunView) -> str:
    """What orders the queue, where it is not as usual."""
    facts = [
        *([f"queue {run.queue}"] if run.queue not in {None, "", "default"} else []),
        *([f"priority {run.priority}"] if run.priority else []),
        *([f"{len(run.reserved)} GPUs kept for it"] if len(run.reserved) > 1 else []),
    ]
    return f"  ({', '.join(facts)})" if facts else ""
