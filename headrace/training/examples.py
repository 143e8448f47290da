"""Packed training examples as arrays, directly from sealed handoffs.

T is the sequence length, B the number of sequences in a pass. Arrays are views of the memory-mapped pages; only a
pass's rows are copied, so ranks on one machine share one copy of the corpus.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from headrace.errors import InvalidTrainingRun
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.training.recipe import TEXTS

ASSET = TEXTS
# The label of a position without loss: transformers' and torch's convention.
NO_LOSS = -100
# What stands before a plain text's first learnt token: its beginning, and of a later piece the token before it.
_UNLEARNT_MAX = 3


@dataclass(frozen=True, kw_only=True)
class ExamplesInput:
    """One sealed version of one partition: a run reads it even if newer ones are published.

    `is_heldout`: all of it is held out, whatever data prep decided (`heldout_shards` of a recipe).
    """

    partition: str
    version: int
    content_digest: str
    is_heldout: bool = False


def inputs_of_split(
    inputs: Sequence[ExamplesInput], split: Literal["train", "heldout"]
) -> tuple[list[ExamplesInput], Literal["train", "heldout"] | None]:
    """Which inputs hold a split, and which of their rows: those that data prep gave this split, or all (None)."""
    own = [item for item in inputs if item.is_heldout]
    if split == "heldout" and own:
        return own, None
    return [item for item in inputs if not item.is_heldout], split


@dataclass(frozen=True)
class Pass:
    """The rows of one forward pass. Positions restart at 0 at each example: attention never crosses them."""

    input_ids_BT: np.ndarray  # noqa: N815 (shape letters)
    labels_BT: np.ndarray  # noqa: N815
    position_ids_BT: np.ndarray  # noqa: N815


class PackedExamples:
    """One split of `training_examples`, numbered 0, 1, … in the order of the inputs."""

    def __init__(self, tables: Iterable[pa.Table], split: Literal["train", "heldout"] | None) -> None:
        """Args: split: None: all rows."""
        self._chunks: list[Pass] = []
        chunk_numbers: list[np.ndarray] = []
        rows: list[np.ndarray] = []
        num_examples: list[np.ndarray] = []
        self.sequence_length = 0
        for batch in (batch for table in tables for batch in table.to_batches() if batch.num_rows):
            splits = batch.column("split").to_numpy(zero_copy_only=False)
            chosen = np.arange(batch.num_rows) if split is None else np.flatnonzero(splits == split)
            if not len(chosen):
                continue
            chunk = Pass(*(_tokens(batch.column(name)) for name in ("input_ids", "labels", "position_ids")))
            self.sequence_length = self.sequence_length or chunk.input_ids_BT.shape[1]
            if chunk.input_ids_BT.shape[1] != self.sequence_length:
                raise InvalidTrainingRun(
                    f"training_examples hold sequences of {self.sequence_length} and of {chunk.input_ids_BT.shape[1]} "
                    "tokens; materialize all corpus shards with one sequence_length."
                )
            chunk_numbers.append(np.full(len(chosen), len(self._chunks)))
            rows.append(chosen)
            num_examples.append(batch.column("num_examples").to_numpy(zero_copy_only=False)[chosen])
            self._chunks.append(chunk)
        self._chunk_of = np.concatenate(chunk_numbers) if rows else np.empty(0, dtype=np.int64)
        self._row_of = np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)
        self._num_examples = np.concatenate(num_examples) if rows else np.empty(0, dtype=np.int32)

    def __len__(self) -> int:
        return len(self._row_of)

    def take(self, numbers: Sequence[int] | np.ndarray) -> Pass:
        places = [(self._chunks[self._chunk_of[number]], self._row_of[number]) for number in numbers]
        return Pass(
            np.stack([chunk.input_ids_BT[row] for chunk, row in places]).astype(np.int64),
            np.stack([chunk.labels_BT[row] for chunk, row in places]).astype(np.int64),
            np.stack([chunk.position_ids_BT[row] for chunk, row in places]).astype(np.int64),
        )

    def num_tokens(self, numbers: Sequence[int] | np.ndarray) -> int:
        """Tokens of the examples in these sequences, without the padding after the last one."""
        return sum(self._num_tokens(number) for number in numbers)

    def _num_tokens(self, number: int) -> int:
        positions_T = self._chunks[self._chunk_of[number]].position_ids_BT[self._row_of[number]]  # noqa: N806
        starts = np.flatnonzero(positions_T == 0)
        num_examples = self._num_examples[number]
        # Padding looks like one more example.
        return int(starts[num_examples]) if len(starts) > num_examples else len(positions_T)

    def num_loss_tokens(self, numbers: Sequence[int] | np.ndarray) -> int:
        """Positions that carry loss. A sequence's first token never does, since nothing predicts it."""
        return sum(
            int((self._chunks[self._chunk_of[number]].labels_BT[self._row_of[number], 1:] != NO_LOSS).sum())
            for number in numbers
        )

    def is_plain(self) -> bool:
        """Whether the first row's first example is a plain text: learnt to its end, with no prompt before it."""
        first = self.take([0])
        length = int((np.append(first.position_ids_BT[0, 1:], 0) == 0).argmax()) + 1
        is_learnt_T = first.labels_BT[0, :length] != NO_LOSS  # noqa: N806 (shape letters)
        begins = int(is_learnt_T.argmax())
        return begins <= _UNLEARNT_MAX and bool(is_learnt_T[begins:].all())

    def two_of_a_row(self, tokens_max: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The first row's first two examples with loss, cut to `tokens_max` tokens; None: no row has two."""
        for number, row in zip(self._chunk_of, self._row_of, strict=True):
            chunk = self._chunks[number]
            examples_T = (chunk.position_ids_BT[row] == 0).cumsum()  # noqa: N806 (shape letters)
            with_loss = np.unique(examples_T[chunk.labels_BT[row] != NO_LOSS])
            if len(with_loss) > 1:
                ids_T = chunk.input_ids_BT[row]  # noqa: N806
                first, second = (ids_T[examples_T == example][:tokens_max] for example in with_loss[:2])
                return first.astype(np.int64), second.astype(np.int64)
        return None


def open_examples(
    handoffs: HandoffStore, inputs: Sequence[ExamplesInput], split: Literal["train", "heldout"]
) -> PackedExamples:
    """Reads exactly the pinned versions.

    Raises:
        HandoffMissing, HandoffCorrupt: a pinned version is gone or damaged.
        InvalidTrainingRun: the split has no sequence, sequence lengths differ, or a version holds preference pairs.
    """
    columns = ["split", "input_ids", "labels", "position_ids", "num_examples"]
    holding, rows = inputs_of_split(inputs, split)
    examples = PackedExamples((_opened(handoffs, item).table(columns) for item in holding), rows)
    if not len(examples):
        raise InvalidTrainingRun(
            f"The {len(inputs)} given partitions of training_examples hold no sequence of split {split!r}; "
            "check heldout_share and the quality rules of the corpus file."
        )
    return examples


def check_is_packed(schema: pa.Schema, item: ExamplesInput) -> None:
    """Raises: InvalidTrainingRun: the version holds preference pairs."""
    if "input_ids" not in schema.names:
        raise InvalidTrainingRun(
            f"{ASSET}[{item.partition}] v{item.version} holds preference pairs, wanted packed examples. Set objective: "
            "preference in the recipe, or example to completion, conversation or plain in the corpus file."
        )


def num_train_rows(handoffs: HandoffStore, asset: str, inputs: Sequence[ExamplesInput]) -> int:
    """How many rows of `asset` an epoch has, of whatever form they are."""
    holding, _ = inputs_of_split(inputs, "train")
    splits = (handoffs.open(asset, item.partition, item.version).table(["split"]).column("split") for item in holding)
    return sum(int((column.to_numpy() == "train").sum()) for column in splits)


def _opened(handoffs: HandoffStore, item: ExamplesInput) -> Handoff:
    handoff = handoffs.open(ASSET, item.partition, item.version)
    check_is_packed(handoff.schema, item)
    return handoff


def _tokens(column: pa.Array) -> np.ndarray:
    assert isinstance(column.type, pa.FixedSizeListType)
    return column.flatten().to_numpy(zero_copy_only=True).reshape(-1, column.type.list_size)
