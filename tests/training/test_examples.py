from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from headrace.errors import InvalidTrainingRun
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from headrace.training.examples import ExamplesInput, PackedExamples, open_examples
from tests.training_builders import numbered_rows


def test_sequences_are_numbered_over_tables_and_splits() -> None:
    tables = [numbered_rows(["train", "heldout", "train"]), numbered_rows(["heldout", "train"], first=10)]
    train, heldout = PackedExamples(tables, "train"), PackedExamples(tables, "heldout")
    assert [int(train.take([n]).input_ids_BT[0, 0]) for n in range(len(train))] == [0, 2, 11]
    assert [int(heldout.take([n]).input_ids_BT[0, 0]) for n in range(len(heldout))] == [1, 10]


def test_a_table_in_several_batches_is_read_like_one() -> None:
    whole = numbered_rows(["train", "heldout"] * 5)
    parts = pa.Table.from_batches(whole.to_batches(max_chunksize=3))
    one, many = PackedExamples([whole], "train"), PackedExamples([parts], "train")
    np.testing.assert_array_equal(one.take(range(5)).input_ids_BT, many.take(range(5)).input_ids_BT)


def test_a_slice_of_a_table_is_read_from_its_own_first_row() -> None:
    rows = numbered_rows(["train"] * 5).slice(2)
    assert PackedExamples([rows], "train").take([0]).input_ids_BT[0, 0] == 2


def test_the_first_token_of_a_sequence_carries_no_loss() -> None:
    rows = numbered_rows(["train"]).to_pylist()
    rows[0]["labels"] = [5, 6, -100, 7]
    examples = PackedExamples([pa.Table.from_pylist(rows, schema=numbered_rows(["train"]).schema)], "train")
    assert examples.num_loss_tokens([0]) == 2
    assert examples.num_loss_tokens([0, 0]) == 4


def test_padding_is_no_token() -> None:
    schema = numbered_rows(["train"]).schema
    [row] = numbered_rows(["train"]).to_pylist()
    rows = [
        row | {"position_ids": [0, 1, 2, 3], "num_examples": 1},
        row | {"position_ids": [0, 1, 0, 1], "num_examples": 2},
        row | {"position_ids": [0, 1, 0, 1], "num_examples": 1},
        row | {"position_ids": [0, 0, 1, 0], "num_examples": 2},
    ]
    examples = PackedExamples([pa.Table.from_pylist(rows, schema=schema)], "train")
    assert [examples.num_tokens([number]) for number in range(4)] == [4, 4, 2, 3]
    assert examples.num_tokens(np.array([0, 2, 2])) == 8


def test_the_pinned_version_is_read_although_a_newer_one_exists(tmp_path: Path) -> None:
    handoffs = HandoffStore(LocalStore(tmp_path))
    for first in (0, 100):
        handoffs.publish(
            "training_examples", "shard-00", numbered_rows(["train"], first=first), code_version="1", run_id="r"
        )
    pinned = ExamplesInput(partition="shard-00", version=1, content_digest="")
    assert open_examples(handoffs, [pinned], "train").take([0]).input_ids_BT[0, 0] == 0


def test_mixed_sequence_lengths_are_refused() -> None:
    tables = [numbered_rows(["train"], sequence_length=4), numbered_rows(["train"], sequence_length=8)]
    with pytest.raises(InvalidTrainingRun, match="sequences of 4 and of 8 tokens"):
        PackedExamples(tables, "train")


def test_a_split_without_a_sequence_is_refused(tmp_path: Path) -> None:
    handoffs = HandoffStore(LocalStore(tmp_path))
    handoffs.publish("training_examples", "shard-00", numbered_rows(["train"]), code_version="1", run_id="r")
    with pytest.raises(InvalidTrainingRun, match="no sequence of split 'heldout'"):
        open_examples(handoffs, [ExamplesInput(partition="shard-00", version=1, content_digest="")], "heldout")


def test_plain_texts_are_told_from_examples_with_prompts() -> None:
    from headrace.prep.examples import packed
    from headrace.prep.fitting import fitted_text, learnt_text
    from headrace.prep.token_spans import TokenizedExample

    ids = np.arange(3, 30, dtype=np.int32)
    pieces = fitted_text(learnt_text(ids), 1, 12, "split").examples
    prompted = TokenizedExample(ids=ids[:10], spans=((5, 10),))
    turns = TokenizedExample(ids=ids[:12], spans=((3, 5), (8, 12)))
    for examples, is_plain in (
        ([learnt_text(ids[:7]), learnt_text(ids[:5])], True),
        ([learnt_text(ids[:12])], True),
        (pieces[1:2], True),
        ([prompted], False),
        ([turns], False),
    ):
        assert PackedExamples([packed("train", list(examples), 12, pad_id=0)], "train").is_plain() is is_plain
