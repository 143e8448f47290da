"""One partition in a few lines of markdown, for its asset's page: figures, the last days, five rows, its report.

Short enough for Dagster's UI to show in place, whatever the rows hold.
"""

import base64
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any
from urllib.parse import quote

import polars as pl
import pyarrow as pa

from headrace.errors import HeadraceError
from headrace.generation.review import Review
from headrace.handoff.schemas import MEDIA
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import ContentPartition
from headrace.text import markdown

DAYS_SHOWN = 14
# As Dagster writes keys: parts joined by slashes.
REPORT_KEY = "campaign_report"
_ROWS_SHOWN = 5
# Of five rows, those that were rejected come first, and leave room for others.
_REJECTED_SHOWN = 2
# Characters of a text, until all five rows fit; a character is up to seven once it is escaped.
_CELL_CHARS = (90, 72, 60, 50, 40, 32, 24, 16, 8)
_NOUNS = {"image": "picture", "audio": "recording"}
_BAR_WIDTH, _HEIGHT = 8, 28


def content_summary(
    partition: ContentPartition,
    content: Handoff,
    handoffs: HandoffStore,
    set_label: str,
    *,
    report_key: str = REPORT_KEY,
) -> str:
    """Of sealed GENERATED_CONTENT: how many rows each of the last days had. `report_key`: of the report's asset."""
    figures = f"**{_count(content.num_rows)}** of {markdown.inline(set_label, 60)}"
    earlier = _earlier(partition, handoffs, "generated_content", lambda handoff: float(handoff.num_rows))
    # A preview alone must not read every byte.
    head = content.with_verification("off").head(_ROWS_SHOWN).select(["prompt", "output"]).to_pylist()
    rows = [[row["prompt"], row["output"]] for row in head]
    bars = [*earlier, float(content.num_rows)]
    highest = max(filter(None, bars), default=1.0)
    return _page(_link(partition, report_key), figures, "rows", bars, highest, ["prompt", "output"], rows)


def review_summary(
    partition: ContentPartition, review: Review, handoffs: HandoffStore, *, report_key: str = REPORT_KEY
) -> str:
    """Of a review that is about to be sealed: which share each of the last days kept. `report_key`: as above."""
    num_rows = review.table.num_rows
    share = review.num_kept / num_rows if num_rows else None
    figures = f"**{'–' if share is None else f'{share:.0%}'} of {_count(num_rows)} kept**"
    broken = [f"{rule.replace('_', ' ')} {count:,}" for rule, count in review.num_rejected_by.items() if count]
    if broken:
        figures += f", rejected by {', '.join(broken)}"
    figures += _parts(review.table)
    bars = [*_earlier(partition, handoffs, "reviewed_content", _kept_share), share]
    rows = [
        [row["prompt"], row["output"], "kept" if row["kept"] else ", ".join(row["rejected_by"]).replace("_", " ")]
        for row in _chosen(review)
    ]
    link = _link(partition, report_key)
    return _page(link, figures, "share kept", bars, 1.0, ["prompt", "output", "review"], rows)


def _parts(table: pa.Table) -> str:
    """What the rows have beside their texts, by role; kept or not."""
    if MEDIA.name not in table.column_names:
        return ""
    nums: Counter[tuple[str, str]] = Counter()
    seconds: Counter[str] = Counter()
    for row in table[MEDIA.name].to_pylist():
        for one in row:
            nums[one["role"], one["media_type"].partition("/")[0]] += 1
            seconds[one["role"]] += one["duration_seconds"] or 0
    said = [
        f"{num:,} {_NOUNS.get(kind, 'item')}{'' if num == 1 else 's'} by {role}"
        + (f" ({seconds[role]:,.0f} s)" if seconds[role] else "")
        for (role, kind), num in nums.items()
    ]
    return f"; {', '.join(said) or 'no pictures or recordings'}"


def _chosen(review: Review) -> list[dict[str, Any]]:
    table = review.table.select(["prompt", "output", "kept", "rejected_by"])
    verdicts = table["kept"].to_pylist()
    rejected = [place for place, is_kept in enumerate(verdicts) if not is_kept]
    others = [place for place, is_kept in enumerate(verdicts) if is_kept][:_ROWS_SHOWN]
    num_rejected = max(_REJECTED_SHOWN, _ROWS_SHOWN - len(others))
    places = [*rejected[:num_rejected], *others][:_ROWS_SHOWN]
    return [row for place in places for row in table.slice(place, 1).to_pylist()]


def _earlier(
    partition: ContentPartition, handoffs: HandoffStore, asset: str, figure: Callable[[Handoff], float | None]
) -> list[float | None]:
    """The same shard's figure on each of the days before, the oldest first; None: nothing is sealed, or readable."""
    # A picture is worth neither a lease nor a digest over bytes.
    seen = replace(handoffs, leased=False, verification="off")
    day = date.fromisoformat(partition.day)
    found: list[float | None] = []
    for back in range(DAYS_SHOWN - 1, 0, -1):
        before = replace(partition, day=(day - timedelta(days=back)).isoformat())
        try:
            newest = seen.newest(asset, before.key)
            found.append(figure(newest) if newest else None)
        except HeadraceError:
            found.append(None)
    return found


def _kept_share(reviewed: Handoff) -> float | None:
    return reviewed.lazy(["kept"]).select(pl.col("kept").mean()).collect().item()


def _link(partition: ContentPartition, report_key: str) -> str:
    """To the report's page, on the server of the page that shows it."""
    return f"[report of {partition.day}](/assets/{quote(report_key)}?view=partitions&partition={quote(partition.day)})"


def _page(
    link: str,
    figures: str,
    what: str,
    bars: Sequence[float | None],
    highest: float,
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> str:
    # At the beginning of a line, where a narrow page does not cut it off.
    head = f"{figures}\n\n{link}\n\n{_sparkline(bars, highest, f'{what}, the last {DAYS_SHOWN} days')}\n\n"
    room = markdown.CHARS_MAX - len(head)
    if not rows:
        return head.rstrip()
    for cell_chars in _CELL_CHARS:
        table = markdown.table(headers, rows, cell_chars_max=cell_chars)
        if len(table) <= room:
            return head + table
    return head + markdown.fitting_table(headers, rows, cell_chars_max=_CELL_CHARS[-1], chars_max=room)


def _sparkline(bars: Sequence[float | None], highest: float, title: str) -> str:
    """A bar for each day, the last one in another colour. A day without rows is a gap; the least bar is a line."""

    def drawn(first: int, values: Sequence[float | None]) -> str:
        return "".join(
            f"M{_BAR_WIDTH * place + _BAR_WIDTH // 2} {_HEIGHT}v-{max(1, round(_HEIGHT * value / (highest or 1.0)))}"
            for place, value in enumerate(values, start=first)
            if value is not None
        )

    paths = "".join(
        f'<path stroke="{color}" d="{path}"/>'
        for color, path in (("#8b93a1", drawn(0, bars[:-1])), ("#2f6fde", drawn(len(bars) - 1, bars[-1:])))
        if path
    )
    width = _BAR_WIDTH * len(bars)
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{_HEIGHT}" stroke-width="6">{paths}</svg>'
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def _count(number: int) -> str:
    return f"{number:,} row{'' if number == 1 else 's'}"
