"""What the sealed training examples say of themselves before any is read: how long, how many, what was too long."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from headrace.handoff.versions import Handoff, HandoffStore
from headrace.store.objects import ObjectStore
from headrace.training.examples import ASSET
from headrace.training.preference_examples import PAIR_TOKENS

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
    losses = [pc.max(table.column("num_completion_tokens")).as_py() or 0 for table in tables if table.num_rows]
    tokenized = [one.table(["token_ids"]).column("token_ids") for one in _newest(handoffs, _TOKENIZED)]
    sizes = pa.chunked_array([chunk for column in tokenized for chunk in pc.list_value_length(column).chunks] or [[]])
    sizes = sizes.cast(pa.int64())
    return SealedExamples(
        sequence_length=length,
        num_rows=sum(table.num_rows for table in tables),
        loss_tokens=max(losses, default=0),
        num_documents=len(sizes),
        num_longer=pc.sum(pc.greater(sizes, length)).as_py() or 0,
        longest=pc.max(sizes).as_py() or 0,
    )


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
    prompts, *answers = (
        pc.list_value_length(pa.concat_tables(pairs).column(name)).cast(pa.int64()) for name in PAIR_TOKENS
    )
    longer = pc.max_element_wise(*answers)
    return SealedExamples(
        sequence_length=pc.max(pc.add(prompts, longer)).as_py() or 0,
        num_rows=len(prompts),
        loss_tokens=pc.max(longer).as_py() or 0,
    )


def _newest(handoffs: HandoffStore, asset: str) -> Iterator[Handoff]:
    for partition in handoffs.partitions(asset)[:_NUM_SHARDS_READ]:
        if found := handoffs.newest(asset, partition):
            yield found
