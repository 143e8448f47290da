"""Micro-batch commits of a role that paints or speaks: the bytes with their row's record, in one object.

So nothing can be orphaned: either a batch's pictures are there with what made them, or neither is. The plan of batches
is the texts' own; a row that has no text has a row here, too, which says that it was skipped.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from headrace.engines.media_rows import MediaResult
from headrace.generation.claim_objects import Claim
from headrace.generation.micro_batches import commit_table, read_planned
from headrace.generation.requests import Row
from headrace.handoff.media.index import MediaItem
from headrace.handoff.schemas import MEDIA_EXECUTION
from headrace.store.objects import ObjectStore, canonical_json

_COLUMNS = pa.schema(
    [
        *MEDIA_EXECUTION,
        pa.field("position", pa.int64(), nullable=False),
        pa.field("content", pa.large_binary()),
        pa.field("media_type", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("duration_seconds", pa.float64()),
        pa.field("attributes", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class MadeMedium:
    """One row's picture or recording. `seconds`, `deterministic`, `taken_from`: as in `MadeRow`."""

    row: Row
    asked: str
    seed: int
    result: MediaResult
    seconds: float
    num_retries: int
    deterministic: bool
    taken_from: str | None = None


def item_id(row_id: str, role: str) -> str:
    return f"{row_id}/{role}"


def commit_media(
    objects: ObjectStore, claim: Claim, role: str, index: int, made: Sequence[MadeMedium], *, host: str, run_id: str
) -> bool:
    """Makes a batch final. False: another commit of this batch exists, and stays."""
    rows = [
        {
            "row_id": one.row.row_id,
            "role": role,
            "asked": one.asked,
            "seed": one.seed,
            "finish_reason": one.result.finish_reason,
            "error": one.result.error,
            "micro_batch": index,
            "seconds": one.seconds,
            "attempt": claim.attempt,
            "retries": one.num_retries,
            "host": host,
            "run_id": run_id,
            "deterministic": one.deterministic,
            "taken_from": one.taken_from,
            "position": one.row.position,
            "content": one.result.content,
            **_facts(one.result),
            "attributes": canonical_json(dict(one.result.attributes)).decode(),
        }
        for one in made
    ]
    return commit_table(objects, claim.batch_key(index, role), pa.Table.from_pylist(rows, schema=_COLUMNS))


def read_media(objects: ObjectStore, claim: Claim, role: str, index: int, planned: Sequence[Row]) -> pa.Table:
    """A committed batch. Raises: HandoffCorrupt: as `read_commit`."""
    return read_planned(objects, claim, claim.batch_key(index, role), planned, _COLUMNS)


def execution_of(batches: Sequence[pa.Table]) -> pa.Table:
    """How each row of a role was made, in the order of rows, as MEDIA_EXECUTION."""
    made = pa.concat_tables([*batches, _COLUMNS.empty_table()]).sort_by("position")
    return made.select(MEDIA_EXECUTION.names).cast(MEDIA_EXECUTION)


def items_of(batches: Sequence[pa.Table], version_set: str) -> Iterator[MediaItem]:
    """What was made, in the order of rows."""
    places = sorted(
        (position, number, index)
        for number, batch in enumerate(batches)
        for index, position in enumerate(batch["position"].to_pylist())
    )
    for _, number, index in places:
        [row] = batches[number].slice(index, 1).to_pylist()
        if row["content"] is not None:
            yield _item(row, version_set)


def _item(row: Mapping[str, Any], version_set: str) -> MediaItem:
    return MediaItem(
        item_id=item_id(row["row_id"], row["role"]),
        media_type=row["media_type"],
        content=row["content"],
        num_bytes=len(row["content"]),
        width=row["width"],
        height=row["height"],
        duration_seconds=row["duration_seconds"],
        caption=row["asked"],
        row_id=row["row_id"],
        version_set=version_set,
        attributes={**json.loads(row["attributes"]), "role": row["role"], "seed": row["seed"]},
    )


def _facts(result: MediaResult) -> dict[str, Any]:
    facts = result.facts
    if facts is None:
        return dict.fromkeys(("media_type", "width", "height", "duration_seconds"))
    return {
        "media_type": facts.media_type,
        "width": facts.width,
        "height": facts.height,
        "duration_seconds": facts.duration_seconds,
    }
