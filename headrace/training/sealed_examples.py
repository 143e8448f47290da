"""What the sealed training examples say of themselves before any is read: how long, how many, what was too long."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from headrace.handoff.versions import Handoff, HandoffStore
from headrace.store.objects import ObjectStore
from headrace.training.examples import ASSET
from headrace.training.picture_examples import PictureShape, shape_of
from headrace.training.preference_examples import PAIR_TOKENS
from headrace.training.recipe import PICTURES

# Ids of the documents that the examples were made of (headrace.prep.token_store).
_TOKENIZED = "tokenized_documents"
# A corpus has thousands of shards, and the first ones are like the others.
_NUM_SHARDS_READ = 16


@dataclass(frozen=True, kw_only=True)
class SealedExamples:
    """Of the first shards' newest versions. `loss_tokens`: the most of one row. `longest`: of an example, in tokens."""

    sequence_length: int
    num_rows: int
    loss_tokens: int
    num_documents: int = 0
    num_longer: int = 0
    longest: int = 0


def sealed_examples(objects: ObjectStore) -> SealedExamples | None:
    """None: there are no packed examples yet.

    Raises:
        HandoffCorrupt: a version is damaged.
    """
    handoffs = HandoffStore(objects)
    packed = [one for one in _newest(handoffs, ASSET) if "input_ids" in one.schema.names]
    if not packed:
        return None
    length = packed[0].schema.field("input_ids").type.list_size
    tables = [one.table(["split", "num_completion_tokens"]) for one in packed]
    losses = [table.column("num_completion_tokens").to_numpy().max() for table in tables if table.num_rows]
    sizes = [_sizes(one.table(["token_ids"])) for one in _newest(handoffs, _TOKENIZED)]
    sizes = np.concatenate([np.empty(0, dtype=np.int64), *sizes])
    return SealedExamples(
        sequence_length=length,
        num_rows=sum(table.num_rows for table in tables),
        loss_tokens=int(max(losses, default=0)),
        num_documents=len(sizes),
        num_longer=int((sizes > length).sum()),
        longest=int(sizes.max(initial=0)),
    )


def sealed_pictures(objects: ObjectStore) -> PictureShape | None:
    """Sizes of the captioned pictures; None: there are none yet."""
    return next((shape_of(one.schema) for one in _newest(HandoffStore(objects), PICTURES)), None)


def _sizes(rows: pa.Table, column: str = "token_ids") -> np.ndarray:
    """Tokens of each row, of which no token is read."""
    chunks = rows.column(column).chunks
    return np.concatenate([np.empty(0, dtype=np.int64), *(np.diff(chunk.offsets.to_numpy()) for chunk in chunks)])


def sealed_pairs(objects: ObjectStore, asset: str, partition: str | None = None) -> SealedExamples | None:
    """The same of preference pairs, whose rows are prompts with either answer; None: there are none yet.

    Args: partition: of `asset`; None: the first ones.

    Raises:
        HandoffCorrupt: a version is damaged.
    """
    handoffs = HandoffStore(objects)
    found = [handoffs.newest(asset, partition)] if partition else _newest(handoffs, asset)
    pairs = [one.table(list(PAIR_TOKENS)) for one in found if one and PAIR_TOKENS[0] in one.schema.names]
    if not pairs:
        return None
    rows = pa.concat_tables(pairs)
    prompts, *answers = (_sizes(rows, name) for name in PAIR_TOKENS)
    longer = np.maximum(*answers)
    return SealedExamples(
        sequence_length=int((prompts + longer).max(initial=0)),
        num_rows=len(prompts),
        loss_tokens=int(longer.max(initial=0)),
    )


def _newest(handoffs: HandoffStore, asset: str) -> Iterator[Handoff]:
    for partition in handoffs.partitions(asset)[:_NUM_SHARDS_READ]:
        if found := handoffs.newest(asset, partition):
            yield found
