"""The day report's charts: bars and columns."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from headrace.text.pages import NUM_COLORS, escaped, shortened, svg

WIDTH = 520
_ROW_HEIGHT = 28
# A version set with its role, model and id, such as `writer=smollm2-135m:1 · 635215`, in the widest usual font.
_LABEL_WIDTH, _LABEL_CHARS = 250, 32
_VALUE_WIDTH = 84


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar: `value` gives its length, `text` is written beside it, `color` is an index of the page's colours."""

    label: str
    value: float
    text: str
    color: int = 0


def bars(rows: Sequence[Bar], *, title: str, value_max: float | None = None) -> Markup:
    """Horizontal bars, one for each row. `value_max` fills the width; None: the longest bar does."""
    longest = value_max or max((row.value for row in rows), default=0.0) or 1.0
    room = WIDTH - _LABEL_WIDTH - _VALUE_WIDTH
    parts = []
    for index, row in enumerate(rows):
        top = index * _ROW_HEIGHT
        length = max(0.0, min(1.0, row.value / longest)) * room
        parts.append(
            f'<text class="label" x="{_LABEL_WIDTH - 10}" y="{top + 20}" text-anchor="end">'
            f"{shortened(row.label, _LABEL_CHARS)}</text>"
            f'<rect class="track" x="{_LABEL_WIDTH}" y="{top + 6}" width="{room}" height="18" rx="3"/>'
            f'<rect class="s{row.color % NUM_COLORS}" x="{_LABEL_WIDTH}" y="{top + 6}" '
            f'width="{length:.1f}" height="18" rx="3"/>'
            f'<text class="value" x="{_LABEL_WIDTH + room + 8}" y="{top + 20}">{escaped(row.text)}</text>'
        )
    return svg(title, WIDTH, len(rows) * _ROW_HEIGHT, parts)


@dataclass(frozen=True, kw_only=True)
class Series:
    """One colour's heights, one for each group."""

    label: str
    values: Sequence[float]
    color: int = 0


def columns(groups: Sequence[str], series: Sequence[Series], *, title: str, unit: str) -> Markup:
    """Columns side by side in groups, with the largest value on the axis."""
    height, bottom, left = 170, 34, 64
    highest = max((value for one in series for value in one.values), default=0.0) or 1.0
    group_width = (WIDTH - left) / max(1, len(groups))
    column_width = min(34.0, group_width * 0.8 / max(1, len(series)))
    parts = [
        f'<line class="axis" x1="{left}" x2="{WIDTH}" y1="{height}" y2="{height}"/>',
        f'<line class="grid" x1="{left}" x2="{WIDTH}" y1="14" y2="14"/>',
        f'<text class="tick" x="{left - 6}" y="18" text-anchor="end">{_number(highest)}</text>',
        f'<text class="tick" x="{left - 6}" y="{height}" text-anchor="end">0</text>',
        f'<text class="tick" x="{left}" y="9">{escaped(unit)}</text>',
    ]
    for index, group in enumerate(groups):
        middle = left + (index + 0.5) * group_width
        start = middle - column_width * len(series) / 2
        for place, one in enumerate(series):
            size = one.values[index] / highest * (height - 14)
            parts.append(
                f'<rect class="s{one.color % NUM_COLORS}" x="{start + place * column_width:.1f}" '
                f'y="{height - size:.1f}" width="{max(1.0, column_width - 2):.1f}" height="{size:.1f}" rx="2">'
                f"<title>{escaped(f'{one.label}, {group}: {_number(one.values[index])} {unit}')}</title></rect>"
            )
        parts.append(
            f'<text class="tick" x="{middle:.1f}" y="{height + 16}" text-anchor="middle">{shortened(group)}</text>'
        )
    return svg(title, WIDTH, height + bottom, parts)


def _number(value: float) -> str:
    """A count whole, whatever its size; anything else with three digits."""
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"
