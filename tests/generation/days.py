"""Days of many rows as `summarize_day` returns them, from sealed tables with verdicts that a test chooses."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from headrace.generation.day_summary import CampaignDay, summarize_day
from headrace.handoff.schemas import conform
from headrace.handoff.versions import HandoffStore
from headrace.keys import ContentPartition, row_id
from headrace.store.local import LocalStore

DAY = "2026-11-22"
SETS = ("a" * 64, "b" * 64)


def seal_day(
    directory: Path,
    num_rows: int,
    *,
    campaign: str = "glossary",
    num_shards: int = 2,
    output: Callable[[int], str] = lambda number: f"A word, number {number}.",
    rejected: Callable[[int], Sequence[str]] = lambda number: ["length"] if number % 10 == 0 else [],
    carried: Mapping[str, Sequence[Any]] | None = None,
    is_reviewed: bool = True,
) -> CampaignDay:
    """A campaign's day of `num_rows` rows in equal shards; the last shard is not sealed. Every fourth row is of the
    second version set.
    """
    handoffs = HandoffStore(LocalStore(directory), leased=False)
    numbers = range(num_rows)
    rejections = [list(rejected(number)) for number in numbers]
    sets = [SETS[number % 4 == 3] for number in numbers]
    rows = pa.table(
        {
            "row_id": [row_id(f"{campaign} {number}", made_by, 0) for number, made_by in enumerate(sets)],
            "prompt_id": [f"p{number}" for number in numbers],
            "position": list(numbers),
            "prompt": [f"Define the noun word{number}." for number in numbers],
            "output": [output(number) for number in numbers],
            "media": pa.nulls(num_rows, pa.string()),
            "version_set": sets,
            "seed": [0] * num_rows,
            "num_prompt_tokens": [4] * num_rows,
            "num_output_tokens": [number % 40 for number in numbers],
            "finish_reason": ["stop"] * num_rows,
            "error": pa.nulls(num_rows, pa.string()),
            **(carried or {}),
        }
    )
    judged = rows.drop_columns(["media", "seed", "num_prompt_tokens", "finish_reason", "error"])
    judged = judged.append_column("kept", pa.array([not broken for broken in rejections]))
    judged = judged.append_column("rejected_by", pa.array(rejections, pa.list_(pa.string())))
    keys = [ContentPartition(day=DAY, campaign=campaign, shard=shard).key for shard in range(num_shards + 1)]
    length = -(-num_rows // num_shards)

    def published(asset: str, table: pa.Table) -> dict[str, Any]:
        parts = {key: conform(asset, table.slice(shard * length, length)) for shard, key in enumerate(keys[:-1])}
        return {
            key: handoffs.publish(
                asset, key, part, code_version="1", run_id=f"run-of-{key}", attributes={"version_set": SETS[0]}
            )
            for key, part in parts.items()
        }

    return summarize_day(
        campaign,
        DAY,
        partition_keys=keys,
        content=published("generated_content", rows),
        reviewed=published("reviewed_content", judged) if is_reviewed else {},
        handoffs=handoffs,
        set_label=lambda made_by: f"writer={campaign}:{SETS.index(made_by) + 1} · {made_by[:6]}",
    )


def sealed_rows(directory: Path) -> pl.DataFrame:
    """All newest reviewed rows of a store, read without the report's code."""
    handoffs = HandoffStore(LocalStore(directory), leased=False)
    tables = [
        handoffs.open("reviewed_content", key).polars(["row_id", "prompt", "output", "kept", "rejected_by"])
        for key in handoffs.partitions("reviewed_content")
    ]
    return pl.concat(tables)
