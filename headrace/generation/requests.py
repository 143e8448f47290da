"""A partition's prompts, their rows, and the batches in which the rows run. Pure, except for reading files.

A day's list is built whole and then divided, so "the n-th occurrence of a text" counts over the day and no two shards
share a prompt. Everything follows from the files, the campaign and the partition's key, never from the order of runs, a
crash or the clock.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.generation.campaign import Campaign
from headrace.generation.prompt_files import PromptText, read_prompt_files
from headrace.handoff.schemas import PROMPTS
from headrace.keys import ContentPartition, digest_text, prompt_id, row_id, row_seed


@dataclass(frozen=True, kw_only=True)
class Row:
    """One output to make. Its id and seed depend only on the prompt and the version set."""

    row_id: str
    prompt_id: str
    position: int
    prompt: str
    seed: int


def prompts_for(campaign: Campaign, partition: ContentPartition, home: Path) -> pa.Table:
    """The partition's prompts, as PROMPTS; `position` counts within the partition.

    Raises:
        InvalidInput: the prompt files are missing or unusable, or the partition is not one of the campaign's.
    """
    if partition.campaign != campaign.name or partition.shard >= campaign.num_shards:
        raise InvalidInput(
            f"Partition {partition.key} is not one of campaign {campaign.name!r}, which has shards 0 to "
            f"{campaign.num_shards - 1} a day."
        )
    day = _day(campaign, partition.day, home)
    mine = _mine(day, campaign, partition.shard)
    return pa.table(
        [
            pa.array([day[index][0] for index in mine], pa.string()),
            pa.array(range(len(mine)), pa.int64()),
            pa.array([day[index][1].text for index in mine], pa.string()),
            pa.array([day[index][1].term for index in mine], pa.string()),
        ],
        schema=PROMPTS,
    )


def prompt_ids_of_day(campaign: Campaign, day: str, home: Path) -> list[list[str]]:
    """For every shard of the day, the ids of the prompts that `prompts_for` gives it, in order.

    Raises:
        InvalidInput: the prompt files are missing or unusable.
    """
    whole = _day(campaign, day, home)
    return [[whole[index][0] for index in _mine(whole, campaign, shard)] for shard in range(campaign.num_shards)]


def rows_for(prompts: pa.Table, version_set_id: str) -> list[Row]:
    """One row for each prompt, ordered by position."""
    rows = []
    for prompt in sorted(prompts.to_pylist(), key=lambda prompt: prompt["position"]):
        # Variation 0: a campaign asks for one output for each prompt.
        identity = row_id(prompt["prompt_id"], version_set_id, 0)
        rows.append(
            Row(
                row_id=identity,
                prompt_id=prompt["prompt_id"],
                position=prompt["position"],
                prompt=prompt["text"],
                seed=row_seed(identity),
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


def _day(campaign: Campaign, day: str, home: Path) -> list[tuple[str, PromptText]]:
    """All shards' prompts, each with its id.

    From a pool, every day and shard draws different prompts until the pool is used up; then it starts again, with new
    ids.
    """
    prompts = read_prompt_files(campaign.prompts, day, home)
    occurrences: Counter[str] = Counter()
    found = []
    for prompt in _draw(campaign, day, prompts) if campaign.prompts.is_pool else prompts:
        found.append((prompt_id(campaign.name, day, prompt.text, occurrences[prompt.text]), prompt))
        occurrences[prompt.text] += 1
    return found


def _mine(day: Sequence[object], campaign: Campaign, shard: int) -> range:
    return range(shard, len(day), campaign.num_shards)


def _draw(campaign: Campaign, day: str, pool: list[PromptText]) -> list[PromptText]:
    """The day's slice of the pool, which a hash of its texts shuffles once."""
    assert campaign.prompts.per_shard is not None
    if not pool:
        raise InvalidInput(f"The prompt pool {campaign.prompts.files} of campaign {campaign.name!r} is empty.")
    shuffled = sorted(pool, key=lambda prompt: (digest_text("pool", campaign.name, prompt.text), prompt.term or ""))
    num_rows = campaign.prompts.per_shard * campaign.num_shards
    start = date.fromisoformat(day).toordinal() * num_rows
    return [shuffled[(start + offset) % len(shuffled)] for offset in range(num_rows)]
