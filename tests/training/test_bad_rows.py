"""A row that the model cannot read is named before the model sees it."""

from pathlib import Path

import numpy as np
import pytest

from headrace.errors import InvalidTrainingRun
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from headrace.training.bad_rows import first_bad_row, refuse_bad_rows
from headrace.training.examples import NO_LOSS, ExamplesInput, Pass, open_examples
from tests.training_builders import numbered_rows

NUM_IDS = 100


def make_pass(ids: list[list[int]], labels: list[list[int]] | None = None) -> Pass:
    array = np.array(ids)
    return Pass(array, np.array(labels) if labels else array, np.zeros_like(array))


ROWS = {
    "well": (make_pass([[0, 99], [5, 6]], [[NO_LOSS, 99], [NO_LOSS, NO_LOSS]]), None),
    "an id above the model's": (make_pass([[0, 1], [7, 100]]), (1, "token 100 at position 1")),
    "an id below zero": (make_pass([[-1, 1]]), (0, "token -1 at position 0")),
    "a label above the model's": (make_pass([[1, 2]], [[NO_LOSS, 500]]), (0, "label 500 at position 1")),
    "a label that is no loss's": (make_pass([[1, 2]], [[-7, 2]]), (0, "label -7 at position 0")),
}


@pytest.mark.parametrize("case", ROWS)
def test_the_first_bad_row_of_a_pass_is_found(case: str) -> None:
    passed, found = ROWS[case]
    assert first_bad_row(passed, NUM_IDS) == found


def test_a_bad_row_is_told_with_its_partition_its_place_there_and_what_to_do(tmp_path: Path) -> None:
    handoffs = HandoffStore(LocalStore(tmp_path / "store"))
    inputs = []
    for number, splits in enumerate([["train", "heldout"], ["heldout", "train", "train"]]):
        rows = numbered_rows(splits, first=98 * number)
        made = handoffs.publish("training_examples", f"shard-0{number}", rows, code_version="1", run_id="test")
        inputs.append(ExamplesInput(partition=made.partition, version=made.version, content_digest=made.content_digest))
    given = tuple(inputs)
    examples = open_examples(handoffs, given, "train")
    numbers = np.arange(len(examples))
    with pytest.raises(InvalidTrainingRun) as refusal:
        refuse_bad_rows(examples.take(numbers), numbers, NUM_IDS, handoffs=handoffs, inputs=given, split="train")
    assert refusal.value.culprits["kind"] == "bad row"
    assert str(refusal.value) == (
        "training_examples[shard-01] v1, row 2 (from 0), has token 100 at position 0, and the base model knows ids "
        "from 0 to 99: it was tokenized for another model. Materialize training_examples with this base model's "
        "tokenizer."
    )
