"""Checks over all files and shards that each document id stands for one document.

A label belongs to a document's id. If a corpus has its own ids and two files count from 1, one document's label would
decide over another: spam would be kept because of a good text's label, and all counts would still add up. Copies of one
document may share an id, since labels treat them alike.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

COLUMNS = ("document_id", "term", "category", "text", "source_file", "source_line")
_NUM_SAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class RepeatedIds:
    """Ids that stand for several documents; `samples` name the places of two of them, for a few ids."""

    num_documents: int
    num_ids: int
    samples: tuple[str, ...]


def find_repeated_ids(shards: Sequence[pa.Table]) -> RepeatedIds:
    """Takes RAW_DOCUMENTS of any number of shards; holds 16 bytes for each document."""
    frames = [pl.DataFrame(shard.select(COLUMNS)) for shard in shards]
    hashed = [frame.select(pl.col("document_id").hash().alias("id"), _content().alias("content")) for frame in frames]
    if not hashed:
        return RepeatedIds(num_documents=0, num_ids=0, samples=())
    pairs = pl.concat(hashed)
    repeated = pairs.unique().group_by("id").len().filter(pl.col("len") > 1).get_column("id")
    samples = [_sample(frames, one) for one in repeated.sort().head(_NUM_SAMPLES)]
    return RepeatedIds(num_documents=pairs.height, num_ids=repeated.len(), samples=tuple(samples))


def _content() -> pl.Expr:
    """A hash of what makes documents equal, from the same fields as `raw_document`'s own ids."""
    return pl.struct("term", "category", "text").hash()


def _sample(frames: Iterable[pl.DataFrame], hashed_id: int) -> str:
    theirs = pl.concat([frame.filter(pl.col("document_id").hash() == hashed_id) for frame in frames])
    first, second, *_ = theirs.unique(["term", "category", "text"], keep="first", maintain_order=True).to_dicts()
    places = " and ".join(f"{one['source_file']} line {one['source_line']}" for one in (first, second))
    return f"{first['document_id']!r} is {places}"
