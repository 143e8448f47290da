"""`headrace queue` on a terminal: GPUs with their holders and end times, then the queue with its reasons.

Each holder of a GPU has a line, and its part of the GPU's bar; equal neighbours are joined (`0–3`).
"""

import zlib
from collections.abc import Collection, Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.padding import Padding

from headrace.command_line.output import counted
from headrace.placement.demand import WHOLE
from headrace.text.drawing import TerminalText
from headrace.text.visible import one_line
from headrace_dagster.queue_views.queue_lines import daemon_note, end_text, headline, more_text, queue_cells
from headrace_dagster.queue_views.queue_view import DeviceView, NodeView, QueueView, RunView
from headrace_dagster.queue_views.queue_words import devices_text, memory_text, share_text, short_id

_GAP = "  "
_CUT_CELLS_MIN = 8
_BAR_CELLS = 8
_EIGHTHS = " ▏▎▍▌▋▊▉█"
# Neighbours on one GPU should differ; red is reserved for faults.
_COLOURS = ("cyan", "green", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta", "bright_blue")
_STATE_STYLES = {"next": "green", "held": "yellow", "impossible": "red"}
_NODE_LINES_MIN = 6
# On a short terminal: one line of facts and mostly two of reasons; headings and notes come on top.
_LINES_A_RUN = 3
_OTHER_LINES = 8
Cells = Sequence[TerminalText]


def queue_table(
    view: QueueView, *, limit: int, width: int, height: int | None = None, hint: str = ""
) -> RenderableType:
    """`width`, `height`: the terminal's. With a height, nodes get about half of it, and runs the rest."""
    parts: list[RenderableType] = [TerminalText(headline(view), style="bold")]
    if hint:
        parts.append(TerminalText(hint, style="dim"))
    fleet = _fleet(view, width, max_lines=None if height is None else max(_NODE_LINES_MIN, height // 2))
    if height is not None:
        limit = min(limit, max(1, (height - len(fleet) - _OTHER_LINES) // _LINES_A_RUN))
    parts += [TerminalText(), *fleet, TerminalText(), *_queue(view, limit, width)]
    if note := daemon_note(view):
        parts += [TerminalText(), TerminalText(note, style="red")]
    return Group(*parts)


def _in_columns(rows: Sequence[Cells], width: int, *, cut: int, right: Collection[int]) -> list[TerminalText]:
    """One line for each row, the first in bold. Column `cut` gets only what it needs, so that the next stays near."""
    widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    others = [cells for column, cells in enumerate(widths) if column != cut and cells]
    widths[cut] = max(_CUT_CELLS_MIN, min(widths[cut], width - sum(others) - len(_GAP) * len(others)))
    lines = []
    for row in rows:
        line = TerminalText(style="" if lines else "bold", no_wrap=True, overflow="ellipsis")
        for column, (cell, cells) in enumerate(zip(row, widths, strict=True)):
            cell.truncate(cells, overflow="ellipsis")
            cell.align("right" if column in right else "left", cells)
            line.append(_GAP if cells and column else "").append(cell)
        lines.append(line)
    return lines


def _fleet(view: QueueView, width: int, *, max_lines: int | None) -> list[TerminalText]:
    if not view.nodes:
        return [TerminalText("No node is known.", style="dim")]
    blocks = [_holders(node, view) for node in view.nodes]
    heading = list(map(TerminalText, ("  GPU", f"{'IN USE':<{_BAR_CELLS}}", "RUN", "", "WHAT", "UNTIL")))
    lines = _in_columns([heading, *(row for rows in blocks for row in rows)], width, cut=4, right={3, 5})
    shown = [lines.pop(0)]
    for number, (node, rows) in enumerate(zip(view.nodes, blocks, strict=True)):
        if max_lines is not None and number and len(shown) + len(rows) + 1 > max_lines:
            hidden = counted(len(blocks) - number, "more node")
            return [*shown, TerminalText(f"… and {hidden}: without --watch all are shown", style="dim")]
        shown += [_node_heading(node), *lines[: len(rows)]]
        del lines[: len(rows)]
    return shown


def _node_heading(view: NodeView) -> TerminalText:
    node, held, figures = view.node, view.held, []
    if kind := _only_kind(view):
        figures.append(f"{len(view.devices)} × {kind}")
    if node.cpu_milli:
        figures.append(f"{held.cpu_milli / 1000:g} of {node.cpu_milli / 1000:g} CPUs in use")
    if node.memory_mib:
        figures.append(f"{memory_text(held.memory_mib)} of {memory_text(node.memory_mib)}")
    heading = TerminalText(no_wrap=True, overflow="ellipsis").append(node.name, "bold")
    heading.append(f"  {' · '.join(figures)}", style="dim")
    return heading


def _only_kind(node: NodeView) -> str:
    """`H100, 81,559 MiB`, if all of its GPUs are alike."""
    kinds = {_kind(device) for device in node.devices if device.health != "gone"}
    return kinds.pop() if len(kinds) == 1 else ""


def _kind(device: DeviceView) -> str:
    return f"{device.gpu.model}, {device.gpu.memory_mib:,} MiB" if device.gpu.model else ""


def _holders(node: NodeView, view: QueueView) -> list[Cells]:
    """Each holder's cells: GPUs, bar, run, share, what and until."""
    rows: list[Cells] = []

    def add(gpus: str, bar: TerminalText, run_id: str, share: str, device: DeviceView | None) -> None:
        run = view.run(run_id)
        texts = TerminalText(f"  {gpus}"), bar, TerminalText(short_id(run_id), style=_colour(run_id))
        rows.append([*texts, TerminalText(share), _what(run, device), TerminalText(end_text(run, view.at))])

    for _, alike in groupby(enumerate(node.devices), key=lambda found: _likeness(*found)):
        devices = [device for _, device in alike]
        first = devices[0]
        gpus = devices_text([device.gpu.device for device in devices])
        gpus += "" if _only_kind(node) else f" {_kind(first)}".rstrip()
        if not first.shares:
            nothing = [TerminalText(), TerminalText(), _nobody(first), TerminalText()]
            rows.append([TerminalText(f"  {gpus}"), _bar(first), *nothing])
        for number, (run_id, milli) in enumerate(first.shares):
            label, bar = ("", TerminalText()) if number else (gpus, _bar(first))
            add(label, bar, run_id, share_text(milli) if milli < WHOLE else "", first)
    for run_id in node.without_gpu:
        add("–", TerminalText("no GPU", style="dim"), run_id, "", None)
    return rows


def _likeness(number: int, device: DeviceView) -> tuple:
    """Equal for neighbours that differ only in their number; a UUID is always unique."""
    itself = None if device.gpu.device.isdecimal() else number
    return device.shares, device.health, device.reserved_for, device.models, _kind(device), itself


def _bar(device: DeviceView) -> TerminalText:
    """Each holder's part in its colour."""
    if device.health != "healthy" and not device.shares:
        return TerminalText("✕" * _BAR_CELLS, style="red")
    bar, filled = TerminalText(), 0
    for run_id, milli in device.shares:
        filled = min(WHOLE, filled + milli)
        eighths = round(filled * _BAR_CELLS * 8 / WHOLE) - len(bar) * 8
        bar.append("█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else ""), style=_colour(run_id))
    bar.append("░" * (_BAR_CELLS - len(bar)), style="red" if device.health != "healthy" else "bright_black")
    bar.truncate(_BAR_CELLS)
    return bar


def _nobody(device: DeviceView) -> TerminalText:
    if device.health == "sick":
        return TerminalText("sick: nothing is put there", style="red")
    if device.reserved_for:
        return TerminalText(f"kept for {short_id(device.reserved_for)}", style="yellow")
    has = f", has {one_line(', '.join(device.models))} loaded" if device.models else ""
    return TerminalText(f"free{has}", style="dim")


def _what(run: RunView | None, device: DeviceView | None) -> TerminalText:
    text = TerminalText(one_line(run.name) if run else "")
    if device and device.health != "healthy":
        text.append("  sick" if device.health == "sick" else "  not in the inventory any more", style="red")
    if run and run.makes_room_for:
        text.append(f"  makes room for {short_id(run.makes_room_for)}", style="yellow")
    elif run and run.state != "running":
        text.append(f"  {run.state}", style="yellow")
    elif device and device.reserved_for:
        text.append(f"  then {short_id(device.reserved_for)}", style="dim")
    return text


def _colour(run_id: str) -> str:
    return _COLOURS[zlib.crc32(run_id.encode()) % len(_COLOURS)]


def _queue(view: QueueView, limit: int, width: int) -> list[RenderableType]:
    if not view.queued:
        return [TerminalText("Nothing is queued.", style="dim")]
    names = {
        "": "",
        "RUN": "QUEUED",
        "WHAT": "WHAT",
        "ASKS FOR": "ASKS FOR",
        "WAITED": "WAITED",
        "AT LATEST": "AT LATEST",
    }
    rows = [list(map(TerminalText, names.values()))]
    for number, run in enumerate(view.queued[:limit], 1):
        cells = queue_cells(number, run, view.at)
        styles = {"": "dim", "RUN": _STATE_STYLES.get(run.state, "")}
        rows.append([TerminalText(cells[name], style=styles.get(name, "")) for name in names])
    lines: list[RenderableType] = []
    heading, *facts = _in_columns(rows, width, cut=2, right={0, 4, 5})
    for run, line in zip(view.queued, facts, strict=False):
        reason = TerminalText(one_line(run.why), style=_STATE_STYLES.get(run.state, ""))
        reason.append(_beside(run), style="dim")
        lines += [line, Padding(reason, (0, 0, 0, rows[0][0].cell_len + len(_GAP)))]
    if len(view.queued) > limit:
        lines.append(TerminalText(more_text(view, limit), style="dim"))
    return [heading, *lines]


def _beside(run: RunView) -> str:
    """Queue, priority and kept GPUs, where they are unusual."""
    facts = []
    if run.asked and run.asked.queue not in {"", "default"}:
        facts.append(f"queue {run.asked.queue}")
    if run.asked and run.asked.priority:
        facts.append(f"priority {run.asked.priority}")
    if len(run.reserved) > 1:
        facts.append(f"{len(run.reserved)} GPUs kept for it")
    return f"  ({', '.join(facts)})" if facts else ""
