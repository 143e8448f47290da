"""Packs clean documents into training sequences: what the model reads, and which tokens carry loss.

An example is a chat in the model's own template, of which the assistant's words and their end token carry loss, or a
plain text. Positions restart at 0 with each example of a sequence and with its padding, so that a trainer that masks by
position keeps examples apart. Preference pairs are not packed: a row is a pair.

What becomes of a document that does not fit into one sequence the corpus says; each is counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from headrace.chat.tokenizer import ChatTokenizer
from headrace.handoff.schemas import training_examples_schema
from headrace.prep.corpus import Corpus
from headrace.prep.drops import OVERLONG, refuse_if_nothing_is_left, refuse_if_too_much_dropped
from headrace.prep.example_kinds import fitted_document, row_columns
from headrace.prep.fitting import Fitted
from headrace.prep.packing import pack
from headrace.prep.pairs import pairs_table
from headrace.prep.split import Split
from headrace.prep.token_spans import TokenizedExample
from headrace.prep.token_store import DocumentTokens

NO_LOSS = -100

_BATCH_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """Of one side. `num_completion_tokens` carry loss; of pairs, those of both answers.

    `num_documents` have examples; of these `num_truncated` are cut, `num_split` made into several. `num_overlong` are
    dropped.
    """

    num_documents: int
    num_examples: int
    num_sequences: int
    num_tokens: int
    num_completion_tokens: int
    num_truncated: int
    num_split: int
    num_overlong: int


@dataclass(frozen=True, kw_only=True)
class Examples:
    """One shard's packed sequences, or pairs; those of train come first."""

    sequences: pa.Table
    num_documents: int
    drops: dict[str, int]
    counts: dict[Split, SplitCounts]
    num_tokenized: int
    """Documents that were not known; `tokens` has all, as TOKENIZED_DOCUMENTS."""
    tokens: pa.Table

    @property
    def padding_share(self) -> float:
        """Of packed sequences; pairs have no padding."""
        if "input_ids" not in self.sequences.column_names:
            return 0.0
        num_slots = self.sequences.num_rows * self.sequences.schema.field("input_ids").type.list_size
        return 1 - sum(count.num_tokens for count in self.counts.values()) / num_slots if num_slots else 0.0


def made_by(corpus: Corpus, tokenizer: ChatTokenizer) -> dict[str, str]:
    """What decides the examples of a shard, but its documents."""
    # Pieces without context are made again, and no other corpus's examples.
    pieces = {"pieces": "with context"} if corpus.example.overlong == "split" else {}
    return {"corpus": corpus.digest, "tokenizer": tokenizer.digest, **pieces}


def build_examples(
    corpus: Corpus, documents: pa.Table, tokenizer: ChatTokenizer, known: pa.Table | None = None
) -> Examples:
    """Makes the examples of one shard of CLEAN_DOCUMENTS.

    Args:
        known: documents that were tokenized before, as TOKENIZED_DOCUMENTS; of the same `tokens_digest`.

    Raises:
        TooMuchDropped: more is too long than the corpus allows, or everything.
        InvalidInput: the model's chat template refuses a document, or changes what it should copy.
    """
    tokens = DocumentTokens(known)
    by_split: dict[Split, list[Fitted]] = {"train": [], "heldout": []}
    for batch in documents.select([*row_columns(corpus), "split"]).to_batches(max_chunksize=_BATCH_ROWS):
        rows = batch.to_pylist()
        for row, example in zip(rows, tokens.of(corpus, rows, tokenizer), strict=True):
            by_split[row["split"]].append(fitted_document(corpus, row, example, tokenizer))
    drops = {OVERLONG: sum(one.outcome == "dropped" for side in by_split.values() for one in side)}
    refuse_if_too_much_dropped(corpus, drops, documents.num_rows)
    refuse_if_nothing_is_left(corpus, drops, documents.num_rows)
    tables: list[pa.Table] = []
    counts: dict[Split, SplitCounts] = {}
    for split, side in by_split.items():
        examples = [example for fitted in side for example in fitted.examples]
        tables.append(_table(corpus, split, examples, tokenizer))
        counts[split] = SplitCounts(
            num_documents=sum(bool(fitted.examples) for fitted in side),
            num_examples=len(examples),
            num_sequences=tables[-1].num_rows,
            num_tokens=sum(example.num_tokens for example in examples),
            num_completion_tokens=sum(example.num_loss_tokens for example in examples),
            num_truncated=sum(fitted.outcome == "truncated" for fitted in side),
            num_split=sum(fitted.outcome == "split" for fitted in side),
            num_overlong=sum(fitted.outcome == "dropped" for fitted in side),
        )
    return Examples(
        sequences=pa.concat_tables(tables).combine_chunks(),
        num_documents=documents.num_rows,
        drops=drops,
        counts=counts,
        num_tokenized=tokens.num_tokenized,
        tokens=tokens.table(),
    )


def _table(corpus: Corpus, split: Split, examples: Sequence[TokenizedExample], tokenizer: ChatTokenizer) -> pa.Table:
    if corpus.example.kind == "pair":
        return pairs_table(split, examples)
    return packed(split, examples, corpus.sequence_length, pad_id=tokenizer.pad_id)


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
            length = len(example.ids)
            input_ids[number, used : used + length] = example.ids
            for start, end in example.spans:
                labels[number, used + start : used + end] = example.ids[start:end]
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
