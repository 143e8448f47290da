"""The loss on a real model: packing, masking, and the part of transformers that they lean on."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from headrace.training.examples import NO_LOSS, PackedExamples, Pass
from headrace.training.feeding import summed_loss
from headrace.training.schedule import learning_rate_at
from tests.training_builders import make_recipe, packed_rows


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    loaded: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, attn_implementation="sdpa")
    return loaded.eval()


@pytest.fixture(scope="module")
def examples(tiny_model: Path) -> PackedExamples:
    return PackedExamples([packed_rows(tiny_model, num_sequences=4, heldout_every=1)], "heldout")


def loss_of(model: Any, passed: Pass) -> float:
    with torch.no_grad():
        return summed_loss(model, passed, "cpu")[0].item()


def split_at_restarts(passed: Pass) -> list[Pass]:
    """Each packed example by itself, as if it had never been packed."""
    alone = []
    for row in range(len(passed.input_ids_BT)):
        starts = [*np.flatnonzero(passed.position_ids_BT[row] == 0), passed.input_ids_BT.shape[1]]
        for begin, end in itertools.pairwise(starts):
            part = Pass(*(rows[row : row + 1, begin:end] for rows in vars(passed).values()))
            if (part.labels_BT[:, 1:] != NO_LOSS).any():
                alone.append(part)
    return alone


@pytest.mark.parametrize("num_sequences", [1, 2, 3])
def test_attention_never_crosses_packed_examples(model: Any, examples: PackedExamples, num_sequences: int) -> None:
    packed = examples.take(range(num_sequences))
    alone = split_at_restarts(packed)
    assert len(alone) > num_sequences
    assert loss_of(model, packed) == pytest.approx(sum(loss_of(model, part) for part in alone), rel=1e-5)


def test_without_restarting_positions_it_would(model: Any, examples: PackedExamples) -> None:
    packed = examples.take([0])
    positions = np.arange(packed.input_ids_BT.shape[1])[None]
    assert loss_of(model, Pass(packed.input_ids_BT, packed.labels_BT, positions)) != pytest.approx(
        loss_of(model, packed), rel=1e-4
    )


def test_only_positions_with_loss_reach_the_vocabulary(model: Any, examples: PackedExamples) -> None:
    packed = examples.take([0, 1])
    with torch.no_grad():
        logits = model(
            input_ids=torch.from_numpy(packed.input_ids_BT),
            position_ids=torch.from_numpy(packed.position_ids_BT),
            use_cache=False,
        ).logits
    whole = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), torch.from_numpy(packed.labels_BT[:, 1:]).flatten(), reduction="sum"
    )
    with torch.no_grad():
        loss, num_tokens = summed_loss(model, packed, "cpu")
    assert loss.item() == pytest.approx(whole.item(), rel=1e-5)
    assert num_tokens == examples.num_loss_tokens([0, 1])


def test_a_schedule_warms_up_and_ends_at_its_share() -> None:
    recipe = make_recipe(steps=10, warmup_steps=4, learning_rate=1.0, learning_rate_end=0.1)
    rates = [learning_rate_at(recipe, step) for step in range(10)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert learning_rate_at(recipe, 10) == pytest.approx(0.1)


def test_a_constant_schedule_is_constant() -> None:
    recipe = make_recipe(schedule="constant", learning_rate=0.5)
    assert {learning_rate_at(recipe, step) for step in range(10)} == {0.5}
