"""Renders a day's report: one self-contained HTML page, and a few lines of markdown for the Dagster UI."""

import base64
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from headrace.generation.charts import Bar, Series, bars, columns
from headrace.generation.day_summary import CampaignDay
from headrace.store.whole_files import renamed_when_whole
from headrace.text import markdown
from headrace.text.pages import page_environment

_CELL_CHARS = 80


def render_report(day: str, campaigns: Sequence[CampaignDay]) -> str:
    """The page of one day, over all campaigns. Text from models and prompts is escaped."""
    environment = page_environment("headrace.generation")
    environment.filters["share"] = _share
    sections = [(campaign, _charts(campaign)) for campaign in campaigns]
    return environment.get_template("report.html.j2").render(day=day, sections=sections)


def write_report(html: str, file: Path) -> Path:
    """Writes it whole or not at all, so a browser never loads half a page.

    Raises:
        InvalidInput: `file` is there, and is no file. StoreUnavailable: it cannot be written.
    """
    with renamed_when_whole(file, overwrite=True) as partial:
        partial.write_text(html, encoding="utf-8")
    return file


def report_markdown(campaigns: Sequence[CampaignDay]) -> str:
    """The day as a table by version set, with a picture of pass rates; short enough for the UI to show inline."""
    sets = [(campaign.campaign, one) for campaign in campaigns for one in campaign.sets]
    rows = [
        [
            name,
            one.label,
            str(one.figures.num_rows),
            _share(one.figures.pass_rate),
            f"{one.figures.tokens_per_second:.0f}",
        ]
        for name, one in sets
    ]
    headers = ["campaign", "version set", "rows", "kept", "tokens/s"]
    table = markdown.fitting_table(headers, rows, right=headers[2:], cell_chars_max=_CELL_CHARS)
    # The rows come first, since the picture only repeats the table.
    with_picture = f"{table}\n\n{_picture([(one.figures.pass_rate or 0.0, one.color) for _, one in sets])}"
    return with_picture if len(with_picture) <= markdown.CHARS_MAX else table


def _charts(campaign: CampaignDay) -> dict[str, Markup]:
    pass_rates = [
        Bar(
            label=one.label,
            value=one.figures.pass_rate or 0.0,
            text=f"{_share(one.figures.pass_rate)} of {one.figures.num_reviewed}",
            color=one.color,
        )
        for one in campaign.sets
    ]
    shares = [
        Bar(
            label=one.label,
            value=one.figures.num_rows,
            text=f"{_share(one.figures.num_rows / campaign.total.num_rows)}",
            color=one.color,
        )
        for one in campaign.sets
    ]
    rules = [
        Bar(label=rule.replace("_", " "), value=count, text=str(count), color=5)
        for rule, count in campaign.num_rejected_by.items()
    ]
    lengths = [Series(label=one.label, values=one.num_by_length, color=one.color) for one in campaign.sets]
    sealed = [(shard, shard.figures) for shard in campaign.shards if shard.figures]
    speeds = [
        Bar(
            label=shard.shard,
            value=figures.tokens_per_second,
            text=f"{figures.tokens_per_second:.0f}",
            color=shard.color,
        )
        for shard, figures in sealed
    ]
    return {
        "pass_rates": bars(pass_rates, title="Share of reviewed rows that are kept, by version set", value_max=1.0),
        "shares": bars(shares, title="Rows by version set", value_max=campaign.total.num_rows or None),
        "rules": bars(rules, title="Rejected rows by rule"),
        "lengths": columns(campaign.length_bins, lengths, title="Output length by version set", unit="rows"),
        "speeds": bars(speeds, title="Tokens per second by shard"),
    }


def _picture(rates: Sequence[tuple[float, int]]) -> str:
    """Pass rates as bars, about 60 bytes each; the UI renders pictures from data: URLs, but no inline SVG."""
    colors = ("#2f6fde", "#e08a1e", "#1f9d8a", "#8a5cc2", "#c2477f", "#8b93a1")
    drawn = "".join(
        f'<rect y="{9 * index}" width="{120 * rate:.0f}" height="7" fill="{colors[color % len(colors)]}"/>'
        for index, (rate, color) in enumerate(rates[:4])
    )
    height = 9 * min(4, len(rates))
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="120" height="{height}">{drawn}</svg>'
    return f"![share kept](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"
