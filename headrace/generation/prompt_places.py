"""Where each prompt stood in the prompt files: a table beside the prompts, so that a row leads back to a line.

A column of the prompts themselves would change their content digest whenever a line moves, and every row would be made
again. So the places are a table of their own, sealed under the digest of the prompts that they are of, and no row
depends on it. A file is known by a digest of its bytes, taken before it is read: if it changes meanwhile, it counts as
changed since.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl
import pyarrow as pa
import xxhash

from headrace.generation.sealed_tables import PROMPT_PLACES
from headrace.handoff.content_digest import digest_of
from headrace.handoff.schemas import PROMPT_PLACES as _SCHEMA
from headrace.handoff.versions import Handoff, HandoffStore

Unit = Literal["line", "row"]
# Part of the places' content: raise it if the same files would give others.
_CODE_VERSION = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """`number`: the prompt's first line as an editor counts, from 1 on; its row in Parquet, which has no lines."""

    file: Path
    number: int
    unit: Unit


@dataclass(frozen=True, kw_only=True)
class TracedPlace:
    """Where a sealed prompt stood when it was listed. `path`: the file now, which is as it was, or not."""

    file: str
    number: int
    unit: Unit
    path: Path
    now: Literal["unchanged", "changed", "gone"]


def file_digest(file: Path) -> str:
    """xxh3-128 of a file as it lies there, compressed or not."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, xxhash.xxh3_128).hexdigest()


def places_table(places: Sequence[Place], digests: Mapping[Path, str], home: Path) -> pa.Table:
    """A partition's places as PROMPT_PLACES, in the order of its prompts.

    Args:
        digests: of the files, from before they were read.
        home: files below it are named relative to it, so that a moved project finds them again.
    """
    names = {file: _name(file, home) for file in {place.file for place in places}}
    columns = [
        pa.array(range(len(places)), pa.int64()),
        pa.array([names[place.file] for place in places], pa.string()).dictionary_encode(),
        pa.array([digests.get(place.file, "") for place in places], pa.string()).dictionary_encode(),
        pa.array([place.number for place in places], pa.int64()),
        pa.array([place.unit for place in places], pa.string()).dictionary_encode(),
    ]
    return pa.table(columns, schema=_SCHEMA)


def seal_places(handoffs: HandoffStore, partition: str, prompts: pa.Table, places: pa.Table, *, run_id: str) -> Handoff:
    """Seals the places of a table of prompts, which may be sealed already, or soon."""
    return handoffs.publish(
        PROMPT_PLACES,
        partition,
        places,
        code_version=_CODE_VERSION,
        run_id=run_id,
        attributes={"prompts": digest_of(prompts)},
    )


def place_of(handoffs: HandoffStore, prompts: Handoff, position: int, home: Path) -> TracedPlace | None:
    """The place of one of the sealed prompts; None: nobody recorded it, or the record was collected."""
    places = handoffs.find(PROMPT_PLACES, prompts.partition, prompts=prompts.content_digest)
    if places is None:
        return None
    found = places.lazy().filter(pl.col("position") == position).collect()
    if not found.height:
        return None
    row = found.row(0, named=True)
    path = home / row["file"]
    return TracedPlace(
        file=row["file"], number=row["number"], unit=row["unit"], path=path, now=_now(path, row["xxh3_128"])
    )


def _now(path: Path, digest: str) -> Literal["unchanged", "changed", "gone"]:
    try:
        return "unchanged" if file_digest(path) == digest else "changed"
    except OSError:
        return "gone"


def _name(file: Path, home: Path) -> str:
    return str(file.relative_to(home) if file.is_relative_to(home) else file.absolute())
