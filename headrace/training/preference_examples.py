"""Preference pairs as arrays, directly from sealed handoffs: those of data prep, or of reviewed rows.

A pair is three runs of tokens: the prompt, the chosen answer and the rejected one. Shapes: B pairs of a pass, which are
2B rows, a pair's chosen answer before its rejected one; T tokens of the longest.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from headrace.errors import InvalidTrainingRun
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.training.examples import NO_LOSS, ExamplesInput, Pass, inputs_of_split
from headrace.training.recipe import ROW_PAIRS, TEXTS

# An attribute of pairs of reviewed rows: the digest of the tokenizer that made them.
TOKENIZER = "tokenizer"
Split = Literal["train", "heldout"]
PAIR_TOKENS = ("prompt_ids", "chosen_ids", "rejected_ids")


class PreferencePairs:
    """One split of the pairs, numbered 0, 1, … in the order of the inputs. Token ids are views of mapped pages."""

    def __init__(self, tables: Sequence[pa.Table], split: Split | None) -> None:
        """Args: split: None: all rows."""
        self._values: list[tuple[np.ndarray, ...]] = []
        self._offsets: list[tuple[np.ndarray, ...]] = []
        chunks: list[np.ndarray] = []
        rows: list[np.ndarray] = []
        for batch in (batch for table in tables for batch in table.to_batches() if batch.num_rows):
            of_split = batch.column("split").to_numpy(zero_copy_only=False)
            chosen = np.flatnonzero(of_split == split) if split else np.arange(batch.num_rows)
            columns = [batch.column(name) for name in PAIR_TOKENS]
            chunks.append(np.full(len(chosen), len(self._values)))
            rows.append(chosen)
            self._values.append(tuple(column.values.to_numpy() for column in columns))
            self._offsets.append(tuple(column.offsets.to_numpy() for column in columns))
        self._chunk_of = np.concatenate([np.empty(0, dtype=np.int64), *chunks])
        self._row_of = np.concatenate([np.empty(0, dtype=np.int64), *rows])

    def __len__(self) -> int:
        return len(self._row_of)

    def take(self, numbers: Sequence[int] | np.ndarray) -> Pass:
        """2B rows with padding behind them; labels are the answers' tokens alone."""
        parts = [self._parts(number) for number in numbers]
        rows = [(prompt, answer) for prompt, chosen, rejected in parts for answer in (chosen, rejected)]
        length = max((len(prompt) + len(answer) for prompt, answer in rows), default=0)
        input_ids = np.zeros((len(rows), length), dtype=np.int64)
        labels = np.full_like(input_ids, NO_LOSS)
        for row, (prompt, answer) in enumerate(rows):
            end = len(prompt) + len(answer)
            input_ids[row, :end] = np.concatenate([prompt, answer])
            labels[row, len(prompt) : end] = answer
        # Nothing predicts a row's first token.
        labels[:, :1] = NO_LOSS
        positions = np.broadcast_to(np.arange(length), input_ids.shape).copy()
        return Pass(input_ids, labels, positions)

    def num_tokens(self, numbers: Sequence[int] | np.ndarray) -> int:
        """Tokens that a model reads of these pairs: each prompt twice."""
        return sum(2 * len(prompt) + len(chosen) + len(rejected) for prompt, chosen, rejected in self._all(numbers))

    def num_loss_tokens(self, numbers: Sequence[int] | np.ndarray) -> int:
        """Tokens of both answers."""
        return sum(len(chosen) + len(rejected) for _, chosen, rejected in self._all(numbers))

    def longest(self) -> int:
        """Tokens of the longest prompt with either of its answers; 0 without a pair."""
        parts = self._all(range(len(self)))
        return max((len(prompt) + max(len(chosen), len(rejected)) for prompt, chosen, rejected in parts), default=0)

    def prompt_ids(self, number: int) -> np.ndarray:
        return self._parts(number)[0]

    def _all(self, numbers: Sequence[int] | np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return [self._parts(number) for number in numbers]

    def _parts(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        chunk, row = self._chunk_of[number], self._row_of[number]
        prompt, chosen, rejected = (
            values[offsets[row] : offsets[row + 1]]
            for values, offsets in zip(self._values[chunk], self._offsets[chunk], strict=True)
        )
        return prompt, chosen, rejected


def open_pairs(handoffs: HandoffStore, asset: str, inputs: Sequence[ExamplesInput], split: Split) -> PreferencePairs:
    """Reads exactly the pinned versions of `asset`.

    Raises:
        HandoffMissing, HandoffCorrupt: a pinned version is gone or damaged.
        InvalidTrainingRun: a version holds no pairs, or the split has none.
    """
    holding, rows = inputs_of_split(inputs, split)
    opened = [_opened(handoffs, asset, item) for item in holding]
    pairs = PreferencePairs([one.table(["split", *PAIR_TOKENS]) for one in opened], rows)
    if not len(pairs):
        cure = (
            "check heldout_share and the quality rules of the corpus file"
            if asset == TEXTS
            else "see num_pairs_train and num_pairs_heldout of preference_pairs, and take more rows (campaigns, since, "
            "the campaign's variations) or another heldout_share"
        )
        named = ", ".join(f"{asset}[{item.partition}]" for item in inputs[:3])
        raise InvalidTrainingRun(f"{named} hold no preference pair of split {split!r}, wanted at least one; {cure}.")
    return pairs


def check_pairs(handoffs: HandoffStore, asset: str, inputs: Sequence[ExamplesInput], base: Path) -> int:
    """Tokens of the longest row.

    Args:
        base: the directory of the model that is to learn.

    Raises:
        InvalidTrainingRun: there is no pair to learn, or none to measure; or another tokenizer made the pairs.
    """
    # Here, for `headrace check` reads lengths alone.
    from headrace.chat.tokenizer import ChatTokenizer

    lengths = [open_pairs(handoffs, asset, inputs, split).longest() for split in ("train", "heldout")]
    for item in inputs:
        handoff = handoffs.open(asset, item.partition, item.version)
        if (made := handoff.attributes.get(TOKENIZER)) and made != (own := ChatTokenizer(base).digest):
            raise InvalidTrainingRun(
                f"{handoff.label} was made with the tokenizer {made[:12]}, and the base model has {own[:12]}: its ids "
                f"mean other words there. Materialize {asset}[{item.partition}] again."
            )
    return max(lengths)


def _opened(handoffs: HandoffStore, asset: str, item: ExamplesInput) -> Handoff:
    handoff = handoffs.open(asset, item.partition, item.version)
    if "chosen_ids" not in handoff.schema.names:
        raise InvalidTrainingRun(
            f"{handoff.label} holds packed examples, wanted preference pairs for objective: preference. Set example: "
            f"pair in the corpus file, or name campaigns in the recipe's preference.rows, of which {ROW_PAIRS} is made."
        )
    return handoff
