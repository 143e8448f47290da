"""A campaign's day in figures: by version set, shard and rule, and in samples. Reads sealed tables, writes nothing.

A day that is not finished is summarized as far as it is sealed. Content without a review counts as rows, but neither as
kept nor as rejected.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

from headrace.errors import HandoffCorrupt
from headrace.generation.day_media import DayMedia, day_media
from headrace.generation.day_rows import day_tables, joined
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import ContentPartition, digest_text

_SAMPLES_PER_SET = 4
_REJECTED_SAMPLES = 6
_LENGTH_BINS = 8


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Counts over some rows. `seconds` is engine time; rows of one batch share its time evenly."""

    num_rows: int = 0
    num_reviewed: int = 0
    num_kept: int = 0
    num_errors: int = 0
    num_tokens: int = 0
    seconds: float = 0.0

    @property
    def num_rejected(self) -> int:
        return self.num_reviewed - self.num_kept

    @property
    def pass_rate(self) -> float | None:
        return self.num_kept / self.num_reviewed if self.num_reviewed else None

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds if self.seconds else 0.0

    @property
    def tokens_mean(self) -> float:
        return self.num_tokens / self.num_rows if self.num_rows else 0.0


@dataclass(frozen=True, kw_only=True)
class SetSummary:
    """One version set's part of the day. `color` is the same wherever the set appears."""

    version_set: str
    label: str
    color: int
    figures: Figures
    # Outputs by length, in the bins of `CampaignDay.length_bins`.
    num_by_length: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ReplacedSet:
    """A version set's reviewed rows in replaced versions: the output of a rolled-back candidate."""

    version_set: str
    label: str
    figures: Figures


@dataclass(frozen=True, kw_only=True)
class ShardSummary:
    """One partition of the day; `version_set` and `figures` are None until it is sealed."""

    shard: str
    partition: str
    set_label: str | None = None
    color: int = 0
    version: int | None = None
    run_id: str | None = None
    figures: Figures | None = None


@dataclass(frozen=True, kw_only=True)
class Sample:
    row_id: str
    prompt: str
    output: str
    set_label: str
    color: int
    kept: bool
    rejected_by: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CampaignDay:
    """All figures of one campaign's day."""

    campaign: str
    day: str
    total: Figures
    sets: tuple[SetSummary, ...]
    replaced: tuple[ReplacedSet, ...]
    shards: tuple[ShardSummary, ...]
    num_rejected_by: dict[str, int]
    length_bins: tuple[str, ...]
    samples: tuple[Sample, ...]
    # All rows, in the order of their partitions, with the columns of `day_rows`.
    rows: pl.DataFrame = field(repr=False, compare=False)
    media: DayMedia = field(repr=False, compare=False, default_factory=dict)
    # What is wrong with pictures or recordings that are not in `media`, a sentence each.
    media_problems: tuple[str, ...] = ()

    @property
    def num_sealed(self) -> int:
        return sum(shard.figures is not None for shard in self.shards)


def summarize_day(
    campaign: str,
    day: str,
    *,
    partition_keys: list[str],
    content: Mapping[str, Handoff],
    reviewed: Mapping[str, Handoff],
    handoffs: HandoffStore,
    set_label: Callable[[str], str],
) -> CampaignDay:
    """Summarizes the sealed part of `partition_keys`, all of one campaign's day.

    Args:
        content: sealed `generated_content` by partition key; `reviewed`: the same for `reviewed_content`.
        handoffs: the store of execution tables and older versions.
        set_label: a version set's name for people.
    """
    sealed = [key for key in partition_keys if key in content]
    tables = day_tables(sealed, content, reviewed, handoffs)
    rows = joined(list(tables.values()))
    # In order of first use by the shards, so that a new shard does not change colours.
    order = list(dict.fromkeys(rows["version_set"].to_list()))
    colors = {version_set: index for index, version_set in enumerate(order)}
    edges = _length_edges(rows)
    problems: list[HandoffCorrupt] = []
    return CampaignDay(
        campaign=campaign,
        day=day,
        total=_figures(rows),
        sets=tuple(
            SetSummary(
                version_set=version_set,
                label=set_label(version_set),
                color=colors[version_set],
                figures=_figures(part := rows.filter(pl.col("version_set") == version_set)),
                num_by_length=_histogram(part, edges),
            )
            for version_set in order
        ),
        replaced=tuple(_replaced(sealed, content, handoffs, set_label)),
        shards=tuple(_shard(key, content, tables, colors, set_label) for key in partition_keys),
        num_rejected_by=_rejections(rows),
        length_bins=tuple(f"{low}–{low + edges[1] - edges[0] - 1}" for low in edges[:-1]),
        samples=tuple(_samples(rows, order, colors, set_label)),
        rows=rows,
        media=day_media([content[key] for key in sealed], handoffs, reviewed, damaged=problems.append),
        media_problems=tuple(map(str, problems)),
    )


def _figures(rows: pl.DataFrame) -> Figures:
    return Figures(
        num_rows=rows.height,
        num_reviewed=rows["kept"].count(),
        num_kept=int(rows["kept"].sum() or 0),
        num_errors=rows.filter(pl.col("finish_reason") == "error").height,
        num_tokens=int(rows["num_output_tokens"].sum() or 0),
        seconds=float(rows["seconds"].sum() or 0.0),
    )


def _shard(
    key: str,
    content: Mapping[str, Handoff],
    tables: Mapping[str, pl.DataFrame],
    colors: Mapping[str, int],
    set_label: Callable[[str], str],
) -> ShardSummary:
    shard = ContentPartition.parse(key).campaign_shard
    if key not in tables:
        return ShardSummary(shard=shard, partition=key)
    version_set = content[key].attributes.get("version_set", "")
    return ShardSummary(
        shard=shard,
        partition=key,
        set_label=set_label(version_set) if version_set else None,
        color=colors.get(version_set, 0),
        version=content[key].version,
        run_id=content[key].manifest.run_id,
        figures=_figures(tables[key]),
    )


def _replaced(
    sealed: list[str], content: Mapping[str, Handoff], handoffs: HandoffStore, set_label: Callable[[str], str]
) -> list[ReplacedSet]:
    """Counts a row once, however often it was reviewed: its id includes its version set."""
    older = [
        handoffs.open("reviewed_content", key, number)
        .polars(["row_id", "version_set", "kept"])
        .filter(pl.col("version_set") != content[key].attributes.get("version_set", ""))
        for key in sealed
        for number in handoffs.versions("reviewed_content", key)[:-1]
    ]
    if not older:
        return []
    rows = pl.concat(older).unique("row_id", keep="last", maintain_order=True)
    return [
        ReplacedSet(
            version_set=str(version_set),
            label=set_label(str(version_set)),
            figures=Figures(num_rows=part.height, num_reviewed=part.height, num_kept=int(part["kept"].sum())),
        )
        for (version_set,), part in rows.group_by("version_set", maintain_order=True)
    ]


def _rejections(rows: pl.DataFrame) -> dict[str, int]:
    broken = rows["rejected_by"].drop_nulls().explode(empty_as_null=False).drop_nulls()
    counts = broken.value_counts(sort=True)
    return {str(name): int(count) for name, count in counts.iter_rows()}


def _length_edges(rows: pl.DataFrame) -> list[int]:
    longest = int(rows["num_output_tokens"].max() or 0)  # pyright: ignore[reportArgumentType]
    width = max(1, -(-(longest + 1) // _LENGTH_BINS))
    return [index * width for index in range(_LENGTH_BINS + 1)]


def _histogram(rows: pl.DataFrame, edges: list[int]) -> tuple[int, ...]:
    width = edges[1] - edges[0]
    counts = [0] * _LENGTH_BINS
    for length in rows["num_output_tokens"].drop_nulls().to_list():
        counts[min(length // width, _LENGTH_BINS - 1)] += 1
    return tuple(counts)


def _samples(
    rows: pl.DataFrame, order: list[str], colors: Mapping[str, int], set_label: Callable[[str], str]
) -> list[Sample]:
    """Some kept rows of each set, then some rejected ones. Chosen by row id: a fair sample, equal at each rendering."""
    drawn = rows.sort("row_id")
    kept = [drawn.filter(pl.col("kept") & (pl.col("version_set") == one)).head(_SAMPLES_PER_SET) for one in order]
    rejected = drawn.filter(~pl.col("kept")).head(_REJECTED_SAMPLES)
    return [
        Sample(
            row_id=row["row_id"],
            prompt=row["prompt"],
            output=row["output"],
            set_label=set_label(row["version_set"]),
            color=colors[row["version_set"]],
            kept=row["kept"],
            rejected_by=tuple(row["rejected_by"]),
        )
        for part in [*kept, rejected]
        for row in part.iter_rows(named=True)
    ]


def shown_digest(sealed: Iterable[Handoff]) -> str:
    """Identifies a report's content by the versions that it was made from."""
    return digest_text("report", *sorted(each.content_digest for each in sealed))
