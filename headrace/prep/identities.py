"""Whether one document id stands for one document, over all files and shards together.

A label belongs to a document's id. Where a corpus gives ids of its own and two files count from 1, a label of one
document would decide over another: spam would be kept for a good text's label, and every count would still add up.
Copies of one document may share an id: they are the same to every label.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

COLUMNS = ("document_id", "term", "category", "text", "source_file", "source_line")
_NUM_SAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class RepeatedIds:
    """Ids that stand for more than one document; `samples` say of a few where two of theirs are."""

    num_documents: int
    num_ids: int
    samples: tuple[str, ...]


def find_repeated_ids(shards: Sequence[pa.Table]) -> RepeatedIds:
    """Over RAW_DOCUMENTS of any number of shards; 16 bytes a document are held."""
    frames = [pl.DataFrame(shard.select(COLUMNS)) for shard in shards]
    hashed = [frame.select(pl.col("document_id").hash().alias("id"), _content().alias("content")) for frame in frames]
    if not hashed:
        return RepeatedIds(num_documents=0, num_ids=0, samples=())
    pairs = pl.concat(hashed)
    repeated = pairs.unique().group_by("id").len().filter(pl.col("len") > 1).get_column("id")
    samples = [_sample(frames, one) for one in repeated.sort().head(_NUM_SAMPLES)]
    return RepeatedIds(num_documents=pairs.height, num_ids=repeated.len(), samples=tuple(samples))


def _content() -> pl.Expr:
    """A hash of what makes two documents the same: as `raw_document` makes ids where a corpus has none."""
    return pl.struct("term", "category", "text").hash()


def _sample(frames: Iterable[pl.DataFrame], hashed_id: int) -> str:
    theirs = pl.concat([frame.filter(pl.col("document_id").hash() == hashed_id) for frame in frames])
    first, second, *_ = theirs.unique(["term", "category", "text"], keep="first", maintain_order=True).to_dicts()
    places = " and ".join(f"{one['source_file']} line {one['source_line']}" for one in (first, second))
    return f"{first['document_id']!r} is {places}"
