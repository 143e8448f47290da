"""A partition's prompts, their rows, and the batches in which the rows run. Pure, except for reading files.

A day's list is built whole and then divided, so "the n-th occurrence of a text" counts over the day and no two shards
share a prompt. Everything follows from the files, the campaign and the partition's key, never from the order of runs, a
crash or the clock.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.generation.campaign import Campaign
from headrace.generation.carried_columns import CarriedColumns
from headrace.generation.prompt_files import PromptText, prompt_files, read_prompt_files
from headrace.generation.prompt_places import file_digest, places_table
from headrace.handoff.schemas import NUM_VARIATIONS, PROMPTS
from headrace.keys import ContentPartition, digest_text, prompt_id, row_id, row_seed


@dataclass(frozen=True, kw_only=True)
class Row:
    """One output to make. Its id depends only on the prompt and the version set, and its seed on the prompt and what of
    the set its text comes from."""

    row_id: str
    prompt_id: str
    position: int
    prompt: str
    seed: int
    variation: int = 0


def prompts_for(campaign: Campaign, partition: ContentPartition, home: Path) -> pa.Table:
    """The partition's prompts, as PROMPTS with the carried columns; `position` counts within the partition.

    Raises:
        InvalidInput: the prompt files are missing or unusable, or the partition is not one of the campaign's.
    """
    shard = _checked_shard(campaign, partition)
    return prompts_of_day(campaign, partition.day, home).of_shard(shard)


def prompts_with_places(campaign: Campaign, partition: ContentPartition, home: Path) -> tuple[pa.Table, pa.Table]:
    """`prompts_for`, and as PROMPT_PLACES where each of them stands.

    Raises: as `prompts_for`.
    """
    shard = _checked_shard(campaign, partition)
    digests = {file: file_digest(file) for file in prompt_files(campaign.prompts, partition.day, home)}
    day = prompts_of_day(campaign, partition.day, home)
    places = [prompt.place for _, prompt in day.prompts_of(shard) if prompt.place]
    return day.of_shard(shard), places_table(places, digests, home)


def rows_for(prompts: pa.Table, version_set_id: str, *, seeds_of: str = "") -> list[Row]:
    """One row for each variation of each prompt, ordered by position: a prompt's variations are neighbours.

    Args: seeds_of: the id of the set that leads to the texts (`steps.Step.led_to_by`); empty: the whole set.
    """
    read = [name for name in ("prompt_id", "position", "text", NUM_VARIATIONS.name) if name in prompts.column_names]
    rows = []
    for prompt in sorted(prompts.select(read).to_pylist(), key=lambda prompt: prompt["position"]):
        num_variations = prompt.get(NUM_VARIATIONS.name, 1)
        for variation in range(num_variations):
            identity = row_id(prompt["prompt_id"], version_set_id, variation)
            rows.append(
                Row(
                    row_id=identity,
                    prompt_id=prompt["prompt_id"],
                    position=prompt["position"] * num_variations + variation,
                    prompt=prompt["text"],
                    seed=row_seed(row_id(prompt["prompt_id"], seeds_of or version_set_id, variation)),
                    variation=variation,
                )
            )
    return rows


def plan_micro_batches(rows: Sequence[Row], micro_batch_rows: int) -> list[tuple[Row, ...]]:
    """Batches of at most `micro_batch_rows` rows of similar length, and of nearly equal size.

    Rows of similar length waste least padding; equal sizes waste least of a batch's fixed cost. Length is in
    characters: tokens would need the tokenizer, which a partition that only needs its seal never loads.
    """
    if not rows:
        return []
    ordered = sorted(rows, key=lambda row: (len(row.prompt), row.row_id))
    num_batches = math.ceil(len(ordered) / micro_batch_rows)
    size, larger = divmod(len(ordered), num_batches)
    starts = [index * size + min(index, larger) for index in range(num_batches + 1)]
    return [tuple(ordered[start:end]) for start, end in pairwise(starts)]


@dataclass(frozen=True, kw_only=True)
class PromptsOfDay:
    """All shards' prompts, each with its id, and the columns that they carry; iterates over the shards' tables."""

    campaign: Campaign
    prompts: list[tuple[str, PromptText]]
    carried: list[pa.Field]

    @property
    def num_rows(self) -> int:
        """The rows that the day will make, over all shards."""
        return len(self.prompts) * self.campaign.prompts.variations

    def prompts_of(self, shard: int) -> list[tuple[str, PromptText]]:
        """The shard's prompts, each with its id."""
        return self.prompts[shard :: self.campaign.num_shards]

    def of_shard(self, shard: int) -> pa.Table:
        """What `prompts_for` gives the shard; it is empty if there are fewer prompts than shards."""
        return prompts_table(self.prompts_of(shard), self.campaign.prompts.variations, self.carried)

    def __iter__(self) -> Iterator[pa.Table]:
        return map(self.of_shard, range(self.campaign.num_shards))


def prompts_of_day(campaign: Campaign, day: str, home: Path) -> PromptsOfDay:
    """The day's list.

    From a pool, every day and shard draws different prompts until the pool is used up; later days start again, with new
    ids.

    Raises:
        InvalidInput: the prompt files are missing or unusable, or the campaign takes events.
    """
    refuse_events(campaign, "has no list of a day")
    carried = CarriedColumns(campaign.prompts.carry)
    prompts = read_prompt_files(campaign.prompts, day, home, carried)
    occurrences: Counter[str] = Counter()
    found = []
    for prompt in _draw(campaign, day, prompts) if campaign.prompts.is_pool else prompts:
        found.append((prompt_id(campaign.name, day, prompt.text, occurrences[prompt.text]), prompt))
        occurrences[prompt.text] += 1
    return PromptsOfDay(campaign=campaign, prompts=found, carried=carried.fields())


def _checked_shard(campaign: Campaign, partition: ContentPartition) -> int:
    refuse_events(campaign, "has its prompts in sealed windows, one a partition")
    if partition.campaign != campaign.name or partition.shard is None or partition.shard >= campaign.num_shards:
        raise InvalidInput(
            f"Partition {partition.key} is not one of campaign {campaign.name!r}, which has shards 0 to "
            f"{campaign.num_shards - 1} a day."
        )
    return partition.shard


def refuse_events(campaign: Campaign, so: str) -> None:
    """For what reads prompt files. Raises: InvalidInput: the campaign's prompts come as events."""
    if campaign.takes_events:
        raise InvalidInput(
            f"Campaign {campaign.name!r} takes events and no prompt files, so it {so}: `headrace inbox status` shows "
            "what is sealed, made and waiting."
        )


def prompts_table(
    prompts: Sequence[tuple[str, PromptText]],
    variations: int,
    carried: Sequence[pa.Field],
    *,
    before: Mapping[pa.Field, Sequence[object]] | None = None,
) -> pa.Table:
    """A partition's prompts, each with its id, as PROMPTS with what they carry.

    Args:
        carried: the columns of the prompts' `carried` values, in their order.
        before: further columns that they carry, before those.
    """
    columns = [
        pa.array([identity for identity, _ in prompts], pa.string()),
        pa.array(range(len(prompts)), pa.int64()),
        pa.array([prompt.text for _, prompt in prompts], pa.string()),
        pa.array([prompt.term for _, prompt in prompts], pa.string()),
    ]
    schema = PROMPTS
    if variations > 1:
        # Sealed with the prompts, so that a claim, its retries and its mirrors make as many rows as its first try.
        columns.append(pa.array([variations] * len(prompts), NUM_VARIATIONS.type))
        schema = schema.append(NUM_VARIATIONS)
    by_field = dict(before or {})
    by_field |= {field: [prompt.carried[index] for _, prompt in prompts] for index, field in enumerate(carried)}
    for field, values in by_field.items():
        columns.append(pa.array(values, field.type))
        schema = schema.append(field)
    return pa.table(columns, schema=schema)


def _draw(campaign: Campaign, day: str, pool: list[PromptText]) -> list[PromptText]:
    """The whole pool, or the day's slice of it, which a hash of its texts shuffles once.

    Raises:
        InvalidInput: the pool holds no prompt, or fewer than one day draws.
    """
    files, per_shard, num_shards = campaign.prompts.files, campaign.prompts.per_shard, campaign.num_shards
    if not pool:
        raise InvalidInput(f"The prompt pool {files} of campaign {campaign.name!r} is empty.")
    if per_shard is None:
        return pool
    if len(pool) < per_shard * num_shards:
        raise InvalidInput(
            f"Campaign {campaign.name!r} draws {per_shard * num_shards:,} prompts a day (per_shard {per_shard:,}, "
            f"num_shards {num_shards:,}), and its pool {files} holds {len(pool):,}: some would be made twice. Lower "
            "per_shard, leave it out for the whole pool, or use variations for several rows of each prompt."
        )
    shuffled = sorted(pool, key=lambda prompt: (digest_text("pool", campaign.name, prompt.text), prompt.term or ""))
    num_rows = per_shard * num_shards
    start = date.fromisoformat(day).toordinal() * num_rows
    return [shuffled[(start + offset) % len(shuffled)] for offset in range(num_rows)]
