"""Micro-batch commits of a role that paints or speaks: the bytes with their row's record, in one object.

So nothing can be orphaned: either a batch's pictures are there with what made them, or neither is. The plan of batches
is the texts' own; a row that has no text has a row here, too, which says that it was skipped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from headrace.engines.media_rows import MediaResult
from headrace.generation.claim_objects import Claim
from headrace.generation.micro_batches import commit_table, committed_body, planned_rows
from headrace.generation.requests import Row
from headrace.handoff.schemas import MEDIA_EXECUTION
from headrace.store.objects import ObjectStore, canonical_json

COLUMNS = pa.schema(
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
    return commit_table(objects, claim.batch_key(index, role), pa.Table.from_pylist(rows, schema=COLUMNS))


@dataclass(frozen=True, kw_only=True)
class MediaBatch:
    """A committed batch. `table`: its rows, with the items' bytes, which lie in `body`."""

    key: str
    table: pa.Table
    body: pa.Buffer


def read_media(objects: ObjectStore, claim: Claim, role: str, index: int, planned: Sequence[Row]) -> MediaBatch:
    """Raises: HandoffCorrupt: as `read_commit`."""
    key = claim.batch_key(index, role)
    body = committed_body(objects, claim, key)
    return MediaBatch(key=key, table=planned_rows(objects, claim, key, body, planned, COLUMNS), body=body)


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
