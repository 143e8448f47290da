"""Packs clean documents into training sequences: what the model reads, and which tokens carry loss.

An example is a chat (system, user, assistant) in the model's own template. The completion and its end token carry loss;
the prompt and the template's text after the end do not. Positions restart at 0 with each example of a sequence and with
its padding, so that a trainer that masks by position keeps examples apart.

A document that does not fit into one sequence is dropped and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from headrace.chat.tokenizer import ChatTokenizer
from headrace.handoff.schemas import training_examples_schema
from headrace.prep.chats import TokenizedExample, tokenized
from headrace.prep.corpus import Corpus
from headrace.prep.drops import OVERLONG, refuse_if_too_much_dropped
from headrace.prep.packing import pack
from headrace.prep.split import Split

NO_LOSS = -100

_BATCH_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    num_examples: int
    num_sequences: int
    num_tokens: int
    num_completion_tokens: int


@dataclass(frozen=True, kw_only=True)
class Examples:
    """One shard's packed sequences; those of train come first."""

    sequences: pa.Table
    num_documents: int
    drops: dict[str, int]
    counts: dict[Split, SplitCounts]

    @property
    def padding_share(self) -> float:
        num_slots = self.sequences.num_rows * self.sequences.schema.field("input_ids").type.list_size
        return 1 - sum(count.num_tokens for count in self.counts.values()) / num_slots if num_slots else 0.0


def build_examples(corpus: Corpus, documents: pa.Table, tokenizer: ChatTokenizer) -> Examples:
    """Packs one shard of CLEAN_DOCUMENTS.

    Raises:
        TooMuchDropped: more is too long than the corpus allows.
        InvalidInput: the model's chat template refuses a system turn, or changes the completion.
    """
    drops = {OVERLONG: 0}
    by_split: dict[Split, list[TokenizedExample]] = {"train": [], "heldout": []}
    for batch in documents.select(["term", "category", "text", "split"]).to_batches(max_chunksize=_BATCH_ROWS):
        rows = batch.to_pylist()
        for row, example in zip(rows, tokenized(corpus, rows, tokenizer), strict=True):
            if len(example.ids) > corpus.sequence_length:
                drops[OVERLONG] += 1
            else:
                by_split[row["split"]].append(example)
    refuse_if_too_much_dropped(corpus, drops, documents.num_rows)
    tables = [
        packed(split, examples, corpus.sequence_length, pad_id=tokenizer.pad_id) for split, examples in by_split.items()
    ]
    return Examples(
        sequences=pa.concat_tables(tables).combine_chunks(),
        num_documents=documents.num_rows,
        drops=drops,
        counts={
            split: SplitCounts(
                num_examples=len(examples),
                num_sequences=table.num_rows,
                num_tokens=sum(len(example.ids) for example in examples),
                num_completion_tokens=sum(example.label_end - example.label_start for example in examples),
            )
            for (split, examples), table in zip(by_split.items(), tables, strict=True)
        },
    )


def packed(split: Split, examples: Sequence[TokenizedExample], sequence_length: int, *, pad_id: int) -> pa.Table:
    """Sequences of `sequence_length` tokens T, as TRAINING_EXAMPLES."""
    sequences = pack([len(example.ids) for example in examples], sequence_length)
    shape_NT = (len(sequences), sequence_length)  # noqa: N806 (shape letters)
    input_ids = np.full(shape_NT, pad_id, dtype=np.int32)
    labels = np.full(shape_NT, NO_LOSS, dtype=np.int32)
    position_ids = np.zeros(shape_NT, dtype=np.int32)
    positions = np.arange(sequence_length, dtype=np.int32)
    for number, members in enumerate(sequences):
        used = 0
        for example in (examples[member] for member in members):
            length, label_start, label_end = len(example.ids), example.label_start, example.label_end
            input_ids[number, used : used + length] = example.ids
            labels[number, used + label_start : used + label_end] = example.ids[label_start:label_end]
            position_ids[number, used : used + length] = positions[:length]
            used += length
        # Padding is its own example: it attends to itself and nothing attends to it.
        position_ids[number, used:] = positions[: sequence_length - used]
    columns = {
        "split": pa.array([split] * len(sequences), pa.string()),
        **{
            name: pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), sequence_length)
            for name, values in (("input_ids", input_ids), ("labels", labels), ("position_ids", position_ids))
        },
        "num_examples": pa.array([len(members) for members in sequences], pa.int32()),
        "num_completion_tokens": pa.array((labels != NO_LOSS).sum(axis=1, dtype=np.int32)),
    }
    return pa.Table.from_arrays(list(columns.values()), schema=training_examples_schema(sequence_length))
