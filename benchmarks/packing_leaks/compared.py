"""One architecture's packed loss, under the feeding that a training would choose, beside that of its examples alone."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.packing_leaks.architectures import VOCABULARY, CannotBeBuilt, tiny_model
from headrace.errors import InvalidTrainingRun
from headrace.handoff.schemas import training_examples_schema
from headrace.training.examples import NO_LOSS, PackedExamples, Pass
from headrace.training.feeding import choose_feeding, summed_loss

# Relative difference of a packed loss in fp32, ten times what rounding makes of it.
SILENT_LEAK = 3e-6
_EXAMPLE_TOKENS = (19, 23, 14)
_ROW_TOKENS = 64
_PROMPT_TOKENS = 5


@dataclass(frozen=True, kw_only=True)
class Found:
    """`relative_difference`: of the loss under `feeding`; NaN where there is none."""

    architecture: str
    feeding: str
    relative_difference: float = math.nan
    reason: str = ""

    @property
    def leaks_silently(self) -> bool:
        return self.relative_difference > SILENT_LEAK


def packed_examples() -> PackedExamples:
    """Two rows of three examples and some padding, drawn from the vocabulary's whole."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(2):
        parts = [rng.integers(3, VOCABULARY, length).tolist() for length in _EXAMPLE_TOKENS]
        padding = _ROW_TOKENS - sum(_EXAMPLE_TOKENS)
        labels = [label for part in parts for label in [NO_LOSS] * _PROMPT_TOKENS + part[_PROMPT_TOKENS:]]
        rows.append(
            {
                "split": "train",
                "input_ids": [token for part in parts for token in part] + [0] * padding,
                "labels": labels + [NO_LOSS] * padding,
                "position_ids": [place for part in parts for place in range(len(part))] + list(range(padding)),
                "num_examples": len(parts),
                "num_completion_tokens": sum(label != NO_LOSS for label in labels),
            }
        )
    return PackedExamples([pa.Table.from_pylist(rows, schema=training_examples_schema(_ROW_TOKENS))], "train")


def loss_alone(model: Any, passed: Pass) -> float:
    """Nats, summed over every example by itself: no packing, no positions, no padding, none of our code."""
    import torch

    total = 0.0
    for ids, labels in zip(passed.input_ids_BT, passed.labels_BT, strict=True):
        for begin, end in pairwise(np.cumsum([0, *_EXAMPLE_TOKENS])):
            with torch.no_grad():
                logits = model(input_ids=torch.from_numpy(ids[None, begin:end])).logits[0, :-1].double()
            targets = torch.from_numpy(labels[begin + 1 : end])
            total += float(torch.nn.functional.cross_entropy(logits, targets, ignore_index=NO_LOSS, reduction="sum"))
    return total


def look_at(architecture: str, examples: PackedExamples) -> Found:
    import torch

    try:
        model = tiny_model(architecture)
    except CannotBeBuilt as reason:
        return Found(architecture=architecture, feeding="not built", reason=str(reason))
    try:
        feeding = choose_feeding(model, examples, "cpu")
    except InvalidTrainingRun as refusal:
        return Found(architecture=architecture, feeding="refused", reason=str(refusal))
    passed = examples.take([0, 1])
    alone = loss_alone(model, passed)
    with torch.no_grad():
        loss, _ = summed_loss(model, passed, "cpu", feeding)
    return Found(architecture=architecture, feeding=feeding, relative_difference=abs(float(loss) - alone) / alone)


def look_at_all(names: Sequence[str]) -> Iterator[Found]:
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.set_num_threads(1)
    examples = packed_examples()
    for name in names:
        yield look_at(name, examples)
