"""Renders a day's report: one self-contained HTML page, and a few lines of markdown for the Dagster UI."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from headrace.generation.charts import Bar, Series, bars, columns
from headrace.generation.day_media import num_of
from headrace.generation.day_summary import CampaignDay, Figures, ShardSummary
from headrace.generation.inline_media import InlineMedia, inline_media
from headrace.generation.row_list import RowList, list_rows, within_script
from headrace.store.whole_files import renamed_when_whole
from headrace.text import markdown
from headrace.text.pages import page_environment
from headrace.text.visible import shortened
from headrace.version_sets.media_settings import MemberKind

# A page that mail and chat programs carry, and that a browser opens at once.
BYTES_MAX = 5_000_000
# Of these, for the campaigns' figures; the rows have the rest.
_SECTIONS_SHARE = 0.4
_SHARDS_SHOWN = 200
_SPEEDS_SHOWN = 16
_NAMES_SHOWN = 40
_CELL_CHARS = 80
# Of a page with pictures or recordings: for the texts of rows. Pictures and recordings have what is left.
_TEXTS_SHARE = 0.4
# Of each campaign's samples, which are seen without a script, too.
_SAMPLE_MEDIA_BYTES = 150_000
# What is damaged is said shortly enough that it needs no measuring.
_DAMAGED_SHOWN, _DAMAGED_CHARS = 4, 700
_DAMAGED_BYTES = 2 * (_DAMAGED_SHOWN + 1) * _DAMAGED_CHARS
_KINDS: dict[MemberKind, str] = {"image": "picture", "speech": "recording"}


def render_report(
    day: str,
    campaigns: Sequence[CampaignDay],
    *,
    ui_url: str | None = None,
    content_key: str = "generated_content",
    bytes_max: int = BYTES_MAX,
) -> str:
    """The page of one day, over all campaigns: figures, then rows. Text from models and prompts is escaped.

    At most `bytes_max` bytes, and no less than its frame of about 40,000: if the day has more, rows are shortened, then
    left out, and the page says so. Pictures and recordings of listed rows are within the page, as far as they fit.

    Args:
        ui_url: the address of Dagster's UI, for links from partitions to it; None: no links.
        content_key: the key of the content's asset there, its parts joined by slashes.
    """
    partition_url = ui_url and f"{ui_url}/assets/{quote(content_key)}?view=partitions&partition="
    environment = page_environment("headrace.generation")
    environment.filters["share"] = _share
    environment.filters["shortened"] = shortened
    made = [campaign for campaign in campaigns if campaign.num_sealed]
    template = environment.get_template("campaign.html.j2")
    sections: list[str] = []
    damaged: dict[str, str] = {}
    room = bytes_max * _SECTIONS_SHARE
    for number, campaign in enumerate(made):
        samples = inline_media(
            [campaign.media], [(0, one.row_id) for one in campaign.samples], bytes_max=min(room, _SAMPLE_MEDIA_BYTES)
        )
        parts = {row_id: shown for (_, row_id), shown in samples.shown.items()}
        damaged |= {place: told for place, (told, _) in samples.damaged.items()}
        section = template.render(
            number=number, ui_url=ui_url, partition_url=partition_url, parts=parts, **_section(campaign)
        )
        room -= len(section.encode())
        if room < 0:
            break
        sections.append(section)
    script = environment.get_template("rows.js").render()
    page: dict[str, Any] = {
        "day": day,
        "ui_url": ui_url,
        "headline": _headline(made),
        "sections": [Markup(section) for section in sections],
        "elsewhere": _elsewhere(made[len(sections) :], [one for one in campaigns if not one.num_sealed]),
        "script": Markup(script),
        "script_sha256": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    has_media = any(campaign.media for campaign in made)
    page |= {"has_media": has_media, "media": Markup(""), "damaged": _damaged(made, damaged)}
    report = environment.get_template("report.html.j2")
    frame = report.render(
        rows=list_rows(made, partition_url=partition_url, bytes_max=0), listed="", is_cut=True, **page
    )
    left = bytes_max - len(frame.encode()) - 1_000
    rows = list_rows(made, partition_url=partition_url, bytes_max=int(left * (_TEXTS_SHARE if has_media else 1)))
    listed, is_cut = _listed(rows), rows.chars_max is not None
    if has_media:
        left -= len(rows.body.encode()) + 200 + _DAMAGED_BYTES
        shown = inline_media([campaign.media for campaign in made], rows.listed, bytes_max=left)
        page["media"] = _media_body(len(made), shown)
        listed += _left_out(shown)
        told = {
            place: f"{_count(num_parts, 'part')} of listed rows could not be read: {told}"
            for place, (told, num_parts) in shown.damaged.items()
        }
        page["damaged"] = _damaged(made, damaged | told)
    return report.render(rows=rows, listed=listed, is_cut=is_cut, **page)


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
            f"{one.figures.tokens_per_second:,.0f}",
        ]
        for name, one in sets
    ]
    headers = ["campaign", "version set", "rows", "kept", "tokens/s"]
    table = markdown.fitting_table(headers, rows, right=headers[2:], cell_chars_max=_CELL_CHARS)
    # The rows come first, since the picture only repeats the table.
    with_picture = f"{table}\n\n{_picture([(one.figures.pass_rate or 0.0, one.color) for _, one in sets])}"
    return with_picture if len(with_picture) <= markdown.CHARS_MAX else table


def _headline(made: Sequence[CampaignDay]) -> str:
    if not made:
        return "Nothing is sealed yet."
    num_rows, num_reviewed, num_kept = (
        sum(getattr(campaign.total, name) for campaign in made) for name in ("num_rows", "num_reviewed", "num_kept")
    )
    whole = Figures(num_rows=num_rows, num_reviewed=num_reviewed, num_kept=num_kept)
    kept = f", {_share(whole.pass_rate)} of {num_reviewed:,} reviewed ones kept" if num_reviewed else ""
    return f"{_count(len(made), 'campaign')}, {_count(num_rows, 'row')}{kept}."


def _elsewhere(left_out: Sequence[CampaignDay], unmade: Sequence[CampaignDay]) -> list[str]:
    """What the page has no section for, a sentence each."""
    lines = []
    if left_out:
        num_rows = sum(campaign.total.num_rows for campaign in left_out)
        named = _named([campaign.campaign for campaign in left_out])
        lines.append(f"Their figures did not fit on this page ({_count(num_rows, 'row')}): {named}.")
    if unmade:
        lines.append(f"Nothing is sealed yet of: {_named([campaign.campaign for campaign in unmade])}.")
    return lines


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN:,} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def _listed(rows: RowList) -> str:
    """Which rows the list has, and how much of them."""
    cut = f", their texts up to {rows.chars_max:,} characters" if rows.chars_max else ""
    if rows.num_listed == rows.num_rows:
        return f"All {_count(rows.num_rows, 'row')} of the day are listed{cut}."
    if rows.num_rejected_listed == rows.num_rejected:
        sample = f"all {rows.num_rejected:,} that were rejected, and a fair sample of the others"
    else:
        sample = f"a fair sample of those that were rejected ({rows.num_rejected_listed:,}) and of the others"
    return f"{rows.num_listed:,} of {_count(rows.num_rows, 'row')} are listed{cut}: {sample}."


def _left_out(shown: InlineMedia) -> str:
    counts = [_count(number, _KINDS[kind]) for kind, number in shown.num_left_out.items()]
    return f" {' and '.join(counts)} of listed rows did not fit on this page." if counts else ""


def _damaged(made: Sequence[CampaignDay], found: Mapping[str, str]) -> list[str]:
    """What is wrong with stored pictures and recordings that the page should show, a sentence each."""
    lines = [*(problem for campaign in made for problem in campaign.media_problems), *found.values()]
    more = len(lines) - _DAMAGED_SHOWN
    shown = [shortened(line, _DAMAGED_CHARS) for line in lines[:_DAMAGED_SHOWN]]
    return [*shown, f"And {more:,} more damaged objects: `headrace handoff verify` lists them."] if more > 0 else shown


def _media_body(num_campaigns: int, media: InlineMedia) -> Markup:
    """Of each campaign, row id → its parts, as JSON safe within a `<script>` element."""
    named: list[dict[str, Any]] = [{} for _ in range(num_campaigns)]
    for (number, row_id), parts in media.shown.items():
        named[number][row_id] = [[one.role, one.kind, one.url, one.is_small, one.figures] for one in parts]
    return Markup(within_script(json.dumps(named, ensure_ascii=False, separators=(",", ":"))))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _section(campaign: CampaignDay) -> dict[str, Any]:
    shards, rest = campaign.shards[:_SHARDS_SHOWN], campaign.shards[_SHARDS_SHOWN:]
    num_sealed = sum(shard.figures is not None for shard in rest)
    left_out = f"And {_count(len(rest), 'partition')} more, {num_sealed:,} of them sealed." if rest else ""
    media = [(num_of(campaign.media, kind), f"{word}s") for kind, word in _KINDS.items()]
    return {
        "num_media": media if campaign.media else (),
        "campaign": campaign,
        "charts": _charts(campaign),
        "shards": shards,
        "left_out": left_out,
    }


def _charts(campaign: CampaignDay) -> dict[str, Any]:
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
    speeds, num_speeds_left_out = _speeds(campaign.shards)
    return {
        "pass_rates": bars(pass_rates, title="Share of reviewed rows that are kept, by version set", value_max=1.0),
        "shares": bars(shares, title="Rows by version set", value_max=campaign.total.num_rows or None),
        "rules": bars(rules, title="Rejected rows by rule"),
        "lengths": columns(campaign.length_bins, lengths, title="Output length by version set", unit="rows"),
        "speeds": bars(speeds, title="Tokens per second by shard"),
        "num_speeds_left_out": num_speeds_left_out,
    }


def _speeds(shards: Sequence[ShardSummary]) -> tuple[list[Bar], int]:
    """The slowest shards in the day's order, and how many more there are."""
    sealed = [(place, shard, shard.figures) for place, shard in enumerate(shards) if shard.figures]
    slowest = sorted(sealed, key=lambda one: one[2].tokens_per_second)[:_SPEEDS_SHOWN]
    shown = [
        Bar(
            label=shard.shard,
            value=figures.tokens_per_second,
            text=f"{figures.tokens_per_second:,.0f}",
            color=shard.color,
        )
        for _, shard, figures in sorted(slowest, key=lambda one: one[0])
    ]
    return shown, len(sealed) - len(shown)


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
