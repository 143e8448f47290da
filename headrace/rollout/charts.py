"""A rollout's two charts: the candidate's share over time, and a metric's means with their bands."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from markupsafe import Markup

from headrace.clock import iso
from headrace.rollout import states
from headrace.rollout.status import Moment, percent
from headrace.text.pages import NUM_COLORS, escaped, shortened, svg

WIDTH = 1080
_LEFT, _RIGHT, _TOP, _HEIGHT = 52, 16, 26, 190
# Marks of entries that people look for; the line itself shows changes of weight.
_MARKS = {states.ABORTED: "✕", states.PROMOTED: "▲", states.PAUSED: "‖", states.WITHDRAWN: "–"}
# A gap is at least this share of an even division, so that two entries in one second stay apart.
_GAP_SHARE_MIN = 0.35
_TICK_WIDTH = 46
_LABEL_WIDTH_MIN = 22


def weight_chart(history: Sequence[Moment], colors: Mapping[str, int], *, now: float) -> Markup:
    """The candidate's share after each entry, in its colour above the stable set's.

    Time runs to the right by the square root of each gap: steps take minutes, and the quiet after them weeks.
    """
    if not history:
        return Markup()
    times = [moment.entry.at for moment in history]
    # The last state lasts until now; a short stub shows it.
    places = _places([*times, max(now, times[-1])])
    bottom = _TOP + _HEIGHT
    bases = _runs(history, places, lambda moment: moment.stable)
    parts = [_axis(), *(_area(run, colors[run.first.stable], _HEIGHT, "base") for run in bases)]
    candidates = [
        run
        for run in _runs(history, places, lambda moment: (moment.candidate, moment.weight))
        if run.first.candidate and run.first.weight > 0
    ]
    parts += [_area(run, colors[run.first.candidate or ""], run.first.weight * _HEIGHT, "share") for run in candidates]
    parts += [_weight_label(run) for run in candidates if run.right - run.left >= _LABEL_WIDTH_MIN]
    parts += _marks(history, places)
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    parts += _ticks(times, places, bottom)
    return svg("The candidate's share of the units over time", WIDTH, bottom + 34, parts)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """One set's mean with its confidence band, in the metric's unit. The band may be unknown."""

    label: str
    mean: float
    text: str
    low: float | None = None
    high: float | None = None
    color: int = 0


def interval_chart(
    rows: Sequence[Interval],
    *,
    title: str,
    bound: float | None,
    worse: str,
    is_share: bool,
    zero: bool = False,
) -> Markup:
    """Means as dots, bands as bars, one row a set, on one scale.

    Args:
        bound: the mean at which a candidate is worse by the whole margin; the side beyond it is shaded. None: no line.
        worse: which side is worse: "higher" or "lower".
        zero: whether to draw a line at 0, for differences.
    """
    width, label_width, value_width, row_height, top = 520, 120, 128, 34, 8
    # Means without bands start at 0, or a meaningless difference would fill the chart.
    origin = 0.0 if zero or all(row.low is None for row in rows) else None
    known = [value for row in rows for value in (row.low, row.mean, row.high, bound, origin)]
    low, high = _scale([value for value in known if value is not None], is_share=is_share and not zero)
    room = width - label_width - value_width

    def across(value: float) -> float:
        return label_width + (min(max(value, low), high) - low) / (high - low) * room

    bottom = top + len(rows) * row_height
    parts = []
    if bound is not None:
        at = across(bound)
        start, end = (at, label_width + room) if worse == "higher" else (label_width, at)
        parts += [
            f'<rect class="beyond" x="{start:.1f}" y="{top}" width="{max(end - start, 0):.1f}" '
            f'height="{bottom - top}"/>',
            f'<line class="bound" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom}"/>',
        ]
    if zero:
        at = across(0.0)
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom}"/>')
    for index, row in enumerate(rows):
        middle = top + index * row_height + row_height / 2
        color = f"s{row.color % NUM_COLORS}"
        parts.append(
            f'<text class="label" x="{label_width - 12}" y="{middle + 4:.1f}" text-anchor="end">'
            f"{shortened(row.label, 14)}</text>"
        )
        if row.low is not None and row.high is not None:
            start, end = across(row.low), across(row.high)
            parts.append(
                f'<rect class="{color} band" x="{start:.1f}" y="{middle - 7:.1f}" '
                f'width="{max(end - start, 1):.1f}" height="14" rx="7"/>'
            )
        parts += [
            f'<circle class="{color}" cx="{across(row.mean):.1f}" cy="{middle:.1f}" r="6"/>',
            f'<text class="value" x="{label_width + room + 10}" y="{middle + 4:.1f}">{escaped(row.text)}</text>',
        ]
    parts.append(f'<line class="axis" x1="{label_width}" x2="{label_width + room}" y1="{bottom}" y2="{bottom}"/>')
    for value, anchor in ((low, "start"), (high, "end")):
        parts.append(
            f'<text class="tick" x="{across(value):.1f}" y="{bottom + 16}" text-anchor="{anchor}">'
            f"{f'{value * 100:.3g}%' if is_share else f'{value:.3g}'}</text>"
        )
    return svg(title, width, bottom + 22, parts)


def _places(times: Sequence[float]) -> list[float]:
    """Horizontal positions of the times, from left to right."""
    # Two writers' clocks may disagree; the order comes from the entries' numbers.
    gaps = [math.sqrt(max(after - before, 0.0)) for before, after in pairwise(times)]
    total = sum(gaps) or 1.0
    shares = [max(gap / total, _GAP_SHARE_MIN / len(gaps)) for gap in gaps]
    room = (WIDTH - _LEFT - _RIGHT) / (sum(shares) or 1.0)
    places = [float(_LEFT)]
    for share in shares:
        places.append(places[-1] + share * room)
    return places


def _axis() -> str:
    lines = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _TOP + _HEIGHT * (1 - share)
        lines.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{percent(share)}</text>'
        )
    return "".join(lines)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Consecutive entries that look the same, and their left and right end."""

    first: Moment
    left: float
    right: float


def _runs(history: Sequence[Moment], places: Sequence[float], look: Callable[[Moment], object]) -> list[_Run]:
    runs: list[_Run] = []
    for moment, (left, right) in zip(history, pairwise(places), strict=True):
        if runs and look(runs[-1].first) == look(moment):
            runs[-1] = replace(runs[-1], right=right)
        else:
            runs.append(_Run(first=moment, left=left, right=right))
    return runs


def _area(run: _Run, color: int, height: float, kind: str) -> str:
    return (
        f'<rect class="s{color} {kind}" x="{run.left:.1f}" y="{_TOP + _HEIGHT - height:.1f}" '
        f'width="{run.right - run.left:.1f}" height="{height:.1f}"><title>{escaped(_said(run.first))}</title></rect>'
    )


def _weight_label(run: _Run) -> str:
    """Above its step, or inside a step that reaches the top."""
    top = _TOP + _HEIGHT * (1 - run.first.weight)
    kind, y = ("on", top + 16) if run.first.weight > 0.9 else ("label", top - 6)
    middle = (run.left + run.right) / 2
    return f'<text class="{kind}" x="{middle:.1f}" y="{y:.1f}" text-anchor="middle">{percent(run.first.weight)}</text>'


def _marks(history: Sequence[Moment], places: Sequence[float]) -> list[str]:
    """Marks above the entries that end something."""
    return [
        f'<line class="mark" x1="{left:.1f}" x2="{left:.1f}" y1="{_TOP - 6}" y2="{_TOP + _HEIGHT}"/>'
        f'<text class="mark {moment.entry.event}" x="{left:.1f}" y="{_TOP - 10}" text-anchor="middle">'
        f"{_MARKS[moment.entry.event]}<title>{escaped(_said(moment))}</title></text>"
        for moment, left in zip(history, places, strict=False)
        if moment.entry.event in _MARKS
    ]


def _ticks(times: Sequence[float], places: Sequence[float], bottom: float) -> list[str]:
    """Days and minutes below the chart, as many as fit."""
    parts, free_from = [], 0.0
    for time, place in zip(times, places, strict=False):
        if place < free_from or place > WIDTH - _TICK_WIDTH:
            continue
        written = iso(time)
        parts.append(
            f'<line class="axis" x1="{place:.1f}" x2="{place:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
            f'<text class="tick" x="{place:.1f}" y="{bottom + 16}">{written[5:10]}</text>'
            f'<text class="tick" x="{place:.1f}" y="{bottom + 29}">{written[11:16]}</text>'
        )
        free_from = place + _TICK_WIDTH
    return parts


def _said(moment: Moment) -> str:
    weight = f" at {percent(moment.weight)}" if moment.candidate else ""
    return f"entry {moment.entry.number}, {iso(moment.entry.at)}: {moment.entry.event}{weight}"


def _scale(values: Sequence[float], *, is_share: bool) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    rim = (high - low) * 0.12 or abs(high) * 0.1 or 0.1
    low, high = (low - rim if low < 0 else max(low - rim, 0.0)), high + rim
    return (max(low, 0.0), min(high, 1.0)) if is_share and low < 1 and high > 0 else (low, high)
