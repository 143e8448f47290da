"""Finds the row that a model cannot read before the model does: torch names no row, and a GPU not even the error.

Looks at the rows of one pass as it is fed, so that a training of a billion tokens does not read them twice.
"""

from typing import Literal

import numpy as np

from headrace.errors import InvalidTrainingRun
from headrace.handoff.versions import HandoffStore
from headrace.training.examples import ASSET, NO_LOSS, ExamplesInput, Pass, inputs_of_split
from headrace.training.failure_kinds import BAD_ROW


def first_bad_row(passed: Pass, num_ids: int) -> tuple[int, str] | None:
    """The first row with an id, or a label with loss, that is none of `num_ids`, and what it has; None: no such."""
    ids_BT, labels_BT = passed.input_ids_BT, passed.labels_BT  # noqa: N806 (shape letters)
    for what, values_BT, wrong_BT in (  # noqa: N806
        ("token", ids_BT, (ids_BT < 0) | (ids_BT >= num_ids)),
        ("label", labels_BT, ((labels_BT < 0) & (labels_BT != NO_LOSS)) | (labels_BT >= num_ids)),
    ):
        if wrong_BT.any():
            row, place = np.argwhere(wrong_BT)[0].tolist()
            return row, f"{what} {int(values_BT[row, place])} at position {place}"
    return None


def refuse_bad_rows(
    passed: Pass,
    numbers: np.ndarray,
    num_ids: int,
    *,
    handoffs: HandoffStore,
    inputs: tuple[ExamplesInput, ...],
    split: Literal["train", "heldout"],
    asset: str = ASSET,
) -> None:
    """Args:
        numbers: of the rows among all of the split, in the order of `inputs`.
        asset: whose partitions these are.

    Raises:
        InvalidTrainingRun: names partition, version and row, and what stands there.
    """
    found = first_bad_row(passed, num_ids)
    if found is None:
        return
    row, what = found
    where = _place(int(numbers[row]), handoffs, inputs, split, asset)
    raise InvalidTrainingRun(
        f"{where} has {what}, and the base model knows ids from 0 to "
        f"{num_ids - 1:,}: it was tokenized for another model. Materialize {asset} with this base model's tokenizer.",
        kind=BAD_ROW,
    )


def _place(
    number: int,
    handoffs: HandoffStore,
    inputs: tuple[ExamplesInput, ...],
    split: Literal["train", "heldout"],
    asset: str,
) -> str:
    before = 0
    holding, wanted = inputs_of_split(inputs, split)
    for one in holding:
        splits = handoffs.open(asset, one.partition, one.version).table(["split"]).column("split").to_numpy()
        rows = np.flatnonzero(splits == wanted)
        if number < before + len(rows):
            return f"{asset}[{one.partition}] v{one.version}, row {int(rows[number - before])} (from 0),"
        before += len(rows)
    return f"Row {number} of {asset}"
