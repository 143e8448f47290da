"""The rows of a day as JSON for its report: all of them, or as many as a page may hold.

Too many bytes are saved in three steps: texts are cut, then cut shorter, then rows are left out. Of what is left, at
most every second row is a rejected one while there are others; within each kind the rows with the lowest ids are
listed, which is a fair sample, since ids are digests.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from markupsafe import Markup

from headrace.generation.day_rows import CARRIED
from headrace.generation.day_summary import CampaignDay
from headrace.keys import campaign_shard
from headrace.text.visible import shortened, visible_lines

# Characters of a text that are kept, at each step.
_CHARS_MAX = (None, 4_000, 1_000, 400, 160)
# Less than a row without any text takes: no more rows than this many bytes allow are ever looked at.
_ROW_BYTES_MIN = 80
# Beyond it JavaScript's numbers skip whole ones.
_EXACT_MAX = 2**53 - 1
# Of the number of all rows.
_NUMBER_CHARACTERS_MAX = 12
_KEPT = {True: "kept", False: "rejected", None: "not reviewed"}


@dataclass(frozen=True, kw_only=True)
class RowList:
    """`body` is a JSON object, safe within a `<script>` element. `chars_max`: of a text; None: no text is cut.

    `listed`: the listed rows' campaign, by number, and id; first the ones that matter most.
    """

    body: Markup
    num_rows: int
    num_listed: int
    num_rejected: int
    num_rejected_listed: int
    chars_max: int | None
    listed: tuple[tuple[int, str], ...]


def list_rows(campaigns: Sequence[CampaignDay], *, bytes_max: int, partition_url: str | None = None) -> RowList:
    """As many rows, with as long texts, as `bytes_max` bytes of UTF-8 can hold. `partition_url`: where a
    partition's page is, up to its key."""
    days = [_Day.of(index, campaign) for index, campaign in enumerate(campaigns)]
    named = {"campaigns": [day.head for day in days], "verdicts": list(_KEPT.values()), "partition_url": partition_url}
    head = within_script(json.dumps(named, ensure_ascii=False))
    room = bytes_max - len(head.encode()) - len(',"num_rows":,"rows":[]') - _NUMBER_CHARACTERS_MAX
    order = _order(days)
    rows, chars_max = _longest(days, order, room)
    listed = order.head(len(rows))
    # In the day's order again.
    places = listed.with_row_index("place").sort("campaign", "row")["place"]
    return RowList(
        body=Markup(f'{head[:-1]},"num_rows":{order.height},"rows":[{",".join(rows[place] for place in places)}]}}'),
        num_rows=order.height,
        num_listed=listed.height,
        num_rejected=int(order["is_rejected"].sum()),
        num_rejected_listed=int(listed["is_rejected"].sum()),
        chars_max=chars_max,
        listed=tuple(
            (campaign, days[campaign].frame["row_id"][row]) for campaign, row in listed.select("campaign", "row").rows()
        ),
    )


@dataclass(frozen=True)
class _Day:
    """One campaign's rows, with what they name by number."""

    index: int
    frame: pl.DataFrame
    carried: list[str]
    sets: dict[str, int]
    rules: dict[str, int]
    # Of a partition's key; a row has the rest.
    prefix: str
    head: dict[str, Any]

    @classmethod
    def of(cls, index: int, campaign: CampaignDay) -> "_Day":
        frame = campaign.rows
        carried = [name for name in frame.columns if name.startswith(CARRIED)]
        prefix = campaign_shard(campaign.campaign, 0).removesuffix("00")
        return cls(
            index=index,
            frame=frame,
            carried=carried,
            sets={one.version_set: place for place, one in enumerate(campaign.sets)},
            rules={rule: place for place, rule in enumerate(campaign.num_rejected_by)},
            prefix=f"{campaign.day}|{prefix}",
            head={
                "name": campaign.campaign,
                "carried": [visible_lines(name.removeprefix(CARRIED)) for name in carried],
                "sets": [[one.label, one.version_set, one.color] for one in campaign.sets],
                "rules": list(campaign.num_rejected_by),
                "prefix": prefix,
                "key": f"{campaign.day}|{prefix}",
            },
        )

    def encoded(self, row: dict[str, Any], chars_max: int | None) -> str:
        fields = [
            self.index,
            row["partition"].removeprefix(self.prefix),
            self.sets[row["version_set"]],
            list(_KEPT).index(row["kept"]),
            [self.rules[rule] for rule in row["rejected_by"] or ()],
            row["row_id"],
            _shown(row["prompt"], chars_max),
            _shown(row["output"], chars_max),
            row["variation"],
            *(_shown(row[name], chars_max) for name in self.carried),
        ]
        return within_script(json.dumps(fields, ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def _order(days: Sequence[_Day]) -> pl.DataFrame:
    """All rows as `campaign` and `row`, by number, the ones to list first at the top; `is_rejected` of each."""
    rows = pl.concat(
        [
            pl.DataFrame(
                schema={"campaign": pl.Int64, "row": pl.UInt32, "row_id": pl.String, "is_rejected": pl.Boolean}
            ),
            *(
                day.frame.select(
                    pl.lit(day.index, pl.Int64).alias("campaign"),
                    pl.int_range(pl.len(), dtype=pl.UInt32).alias("row"),
                    "row_id",
                    (~pl.col("kept")).fill_null(value=False).alias("is_rejected"),
                )
                for day in days
            ),
        ]
    )
    # Each kind's first before each kind's second: rejected rows take every second place while there are others.
    ranked = rows.sort("row_id", "campaign").with_columns(pl.int_range(pl.len()).over("is_rejected").alias("rank"))
    return ranked.sort("rank", "is_rejected", descending=[False, True]).drop("row_id", "rank")


def _longest(days: Sequence[_Day], order: pl.DataFrame, room: int) -> tuple[list[str], int | None]:
    """All rows with texts as long as possible, or as many as possible of the shortest texts; and how long those are."""
    *longer, shortest = _CHARS_MAX
    for chars_max in longer:
        if _bytes_at_least(days, chars_max) <= room:
            rows = list(_fitting(days, order, chars_max, room))
            if len(rows) == order.height:
                return rows, chars_max
    looked_at = order.head(max(0, room // _ROW_BYTES_MIN))
    return list(_fitting(days, looked_at, shortest, room)), shortest


def _bytes_at_least(days: Sequence[_Day], chars_max: int | None) -> int:
    """Of all rows: what is known without making them."""
    texts = [
        int(column.str.len_chars().clip(upper_bound=chars_max).sum())
        for day in days
        for column in day.frame.select("prompt", "output")
    ]
    return sum(texts) + _ROW_BYTES_MIN * sum(day.frame.height for day in days)


def _fitting(days: Sequence[_Day], order: pl.DataFrame, chars_max: int | None, room: int) -> Iterator[str]:
    """The first rows of `order`, encoded, while they fit into `room` bytes."""
    chosen = [day.frame[order.filter(pl.col("campaign") == day.index)["row"]].iter_rows(named=True) for day in days]
    for campaign in order["campaign"]:
        text = days[campaign].encoded(next(chosen[campaign]), chars_max)
        room -= len(text.encode()) + len(",")
        if room < 0:
            return
        yield text


def _shown(value: Any, chars_max: int | None) -> str | int | float | None:
    """A number stays one if JavaScript has the same; everything else is a text."""
    if value is None or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) <= _EXACT_MAX:
        return value
    # Cut before and after: an escape is longer than its character.
    text = str(value) if chars_max is None else shortened(str(value), chars_max)
    shown = visible_lines(text)
    return shown if chars_max is None else shortened(shown, chars_max)


def within_script(text: str) -> str:
    """The same JSON, in which no `</script>` and no `<!--` is left."""
    return text.replace("<", "\\u003c")
