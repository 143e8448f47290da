"""The upper half of `headrace queue` on a terminal: nodes and their GPUs, who holds them, until when.

A line for each holder, with a bar in which each has its part; neighbours that differ in nothing are joined (`0–3`).
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.table import Table

from headrace.command_line.output import cells, counted
from headrace.placement.demand import WHOLE
from headrace.text.drawing import TerminalText
from headrace.text.visible import one_line
from headrace_dagster.queue_views.queue_lines import end_text
from headrace_dagster.queue_views.queue_view import DeviceView, NodeView, QueueView, RunView
from headrace_dagster.queue_views.queue_words import devices_text, memory_text, share_text, short_id

GAP = 2
ID_CELLS = 8
_BAR_CELLS = 8
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_SICK = "✕"
# Neighbours on one GPU should differ; red is kept for what is wrong.
_COLOURS = ("cyan", "green", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta", "bright_blue")


@dataclass(frozen=True)
class _Row:
    """One line of the table of GPUs."""

    gpus: str
    bar: TerminalText
    run: TerminalText
    share: str
    what: TerminalText
    until: str


def fleet_table(view: QueueView, width: int, *, max_lines: int | None) -> list[RenderableType]:
    blocks = [(node, _rows(node, view)) for node in view.nodes]
    if not blocks:
        return [TerminalText("No node is known.", style="dim")]
    heading = _Row("GPU", TerminalText("IN USE"), TerminalText("RUN"), "", TerminalText("WHAT"), "UNTIL")
    columns = _Columns.of([heading, *(row for _, rows in blocks for row in rows)], width)
    shown: list[RenderableType] = [_lines(columns, [heading], style="bold")]
    num_lines = 1
    for number, (node, rows) in enumerate(blocks):
        if max_lines is not None and number and num_lines + len(rows) + 1 > max_lines:
            hidden = counted(len(blocks) - number, "more node")
            shown.append(TerminalText(f"… and {hidden}: without --watch all are shown", style="dim"))
            break
        shown += [_node_heading(node), _lines(columns, rows)]
        num_lines += len(rows) + 1
    return shown


def _node_heading(node: NodeView) -> TerminalText:
    heading = TerminalText().append(node.name, "bold")
    figures = []
    if kind := _only_kind(node):
        figures.append(f"{len(node.devices)} × {kind}")
    if node.cpu_milli:
        figures.append(f"{node.cpu_milli_held / 1000:g} of {node.cpu_milli / 1000:g} CPUs in use")
    if node.memory_mib:
        figures.append(f"{memory_text(node.memory_mib_held)} of {memory_text(node.memory_mib)}")
    heading.append(f"  {' · '.join(figures)}", style="dim")
    heading.no_wrap, heading.overflow = True, "ellipsis"
    return heading


def _only_kind(node: NodeView) -> str:
    """`H100, 81,559 MiB`, if all of its GPUs are alike."""
    kinds = {_kind(device) for device in node.devices if device.health != "gone"}
    return kinds.pop() if len(kinds) == 1 else ""


def _kind(device: DeviceView) -> str:
    return f"{device.model}, {device.memory_mib:,} MiB" if device.model else ""


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Widths that all nodes share; `what` takes what is left."""

    gpus: int
    share: int
    what: int
    until: int

    @classmethod
    def of(cls, rows: Sequence[_Row], width: int) -> "_Columns":
        gpus = 2 + max(cells(row.gpus) for row in rows)
        share = max(cells(row.share) for row in rows)
        until = max(cells(row.until) for row in rows)
        others = [gpus, _BAR_CELLS, ID_CELLS, *([share] if share else []), until]
        return cls(gpus=gpus, share=share, until=until, what=cells_left(width, others, [row.what for row in rows]))


def _lines(columns: _Columns, rows: Sequence[_Row], *, style: str = "") -> Table:
    table = Table.grid(padding=(0, GAP, 0, 0))
    table.add_column(width=columns.gpus, no_wrap=True, style=style)
    table.add_column(width=_BAR_CELLS, no_wrap=True, style=style)
    table.add_column(width=ID_CELLS, no_wrap=True, style=style)
    if columns.share:
        table.add_column(width=columns.share, no_wrap=True, justify="right")
    table.add_column(width=columns.what, no_wrap=True, overflow="ellipsis", style=style)
    table.add_column(width=columns.until, no_wrap=True, justify="right", style=style)
    for row in rows:
        share = [row.share] if columns.share else []
        table.add_row(TerminalText("  " + row.gpus), row.bar, row.run, *share, row.what, TerminalText(row.until))
    return table


def _rows(node: NodeView, view: QueueView) -> list[_Row]:
    kind = _only_kind(node)
    rows = []
    for group in _alike(node.devices):
        first = group[0]
        gpus = devices_text([device.device for device in group]) + ("" if kind else f" {_kind(first)}".rstrip())
        bar = _bar(first)
        if not first.shares:
            rows.append(_Row(gpus, bar, TerminalText(), "", _nobody(first), ""))
        for number, (run_id, milli) in enumerate(first.shares):
            run = view.run(run_id)
            what = _what(run, first)
            share = share_text(milli) if milli < WHOLE else ""
            label, shown_bar = (gpus, bar) if number == 0 else ("", TerminalText())
            rows.append(_Row(label, shown_bar, _id(run_id), share, what, end_text(run, view.at)))
    for run_id in node.without_gpu:
        run = view.run(run_id)
        rows.append(_Row("–", TerminalText("no GPU", style="dim"), _id(run_id), "", _what(run), end_text(run, view.at)))
    return rows


def _alike(devices: Iterable[DeviceView]) -> list[list[DeviceView]]:
    """Neighbours that differ in nothing but their number."""
    groups: list[list[DeviceView]] = []
    for device in devices:
        if groups and device.device.isdecimal() and _likeness(groups[-1][-1]) == _likeness(device):
            groups[-1].append(device)
        else:
            groups.append([device])
    return groups


def _likeness(device: DeviceView) -> tuple:
    return device.shares, device.health, device.reserved_for, _kind(device), device.device.isdecimal()


def _bar(device: DeviceView) -> TerminalText:
    """Each holder's part in its colour."""
    if device.health != "healthy" and not device.shares:
        return TerminalText(_SICK * _BAR_CELLS, style="red")
    bar = TerminalText()
    filled = 0
    for run_id, milli in device.shares:
        end = min(WHOLE, filled + milli)
        eighths = round(end * _BAR_CELLS * 8 / WHOLE) - len(bar) * 8
        bar.append("█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else ""), style=_colour(run_id))
        filled = end
    bar.append("░" * (_BAR_CELLS - len(bar)), style="red" if device.health != "healthy" else "bright_black")
    bar.truncate(_BAR_CELLS)
    return bar


def _nobody(device: DeviceView) -> TerminalText:
    if device.health == "sick":
        return TerminalText("sick: nothing is put there", style="red")
    if device.reserved_for:
        return TerminalText(f"kept for {short_id(device.reserved_for)}", style="yellow")
    return TerminalText("free", style="dim")


def _what(run: RunView | None, device: DeviceView | None = None) -> TerminalText:
    text = TerminalText(one_line(run.name) if run else "")
    if device and device.health != "healthy":
        text.append(f"  {device.health}" if device.health == "sick" else "  not in the inventory any more", style="red")
    if run and run.makes_room_for:
        text.append(f"  makes room for {short_id(run.makes_room_for)}", style="yellow")
    elif run and run.state != "running":
        text.append(f"  {run.state}", style="yellow")
    elif device and device.reserved_for:
        text.append(f"  then {short_id(device.reserved_for)}", style="dim")
    return text


def cells_left(width: int, others: Sequence[int], texts: Iterable[TerminalText]) -> int:
    """Cells for the column that may be cut: no more than it needs, so that what follows stays near."""
    left = width - sum(others) - GAP * len(others)
    return max(ID_CELLS, min(left, max(text.cell_len for text in texts)))


def _id(run_id: str) -> TerminalText:
    return TerminalText(short_id(run_id), style=_colour(run_id))


def _colour(run_id: str) -> str:
    return _COLOURS[zlib.crc32(run_id.encode()) % len(_COLOURS)]
