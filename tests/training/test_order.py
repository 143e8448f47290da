import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headrace.training.order import SampleOrder, shuffled


def make_order(**changes: int) -> SampleOrder:
    return SampleOrder(**{"seed": 0, "num_sequences": 10, "batch": 4, "world_size": 2, "micro_batch": 1} | changes)


@given(
    seed=st.integers(0, 2**31),
    num_sequences=st.integers(1, 50),
    world_size=st.sampled_from([1, 2, 4]),
    micro_batch=st.sampled_from([1, 2]),
    steps=st.integers(1, 8),
)
def test_every_sequence_is_seen_once_an_epoch(
    seed: int, num_sequences: int, world_size: int, micro_batch: int, steps: int
) -> None:
    order = make_order(seed=seed, num_sequences=num_sequences, batch=8, world_size=world_size, micro_batch=micro_batch)
    seen = np.concatenate([order.batch(step) for step in range(steps)])
    counts = np.bincount(seen, minlength=num_sequences)
    assert counts.max() - counts.min() <= 1


@given(step=st.integers(0, 100), world_size=st.sampled_from([1, 2, 4, 8]))
def test_a_batch_is_the_same_over_any_number_of_ranks(step: int, world_size: int) -> None:
    whole = make_order(batch=8, world_size=1, num_sequences=33)
    split = make_order(batch=8, world_size=world_size, num_sequences=33)
    dealt = [number for rank in range(world_size) for rows in split.micro_batches(step, rank) for number in rows]
    assert dealt == list(whole.batch(step))


def test_any_step_can_be_asked_for_without_those_before() -> None:
    resumed, straight = make_order(), make_order()
    batches = [straight.batch(step).tolist() for step in range(30)]
    assert resumed.batch(17).tolist() == batches[17]
    assert resumed.batch(3).tolist() == batches[3]


def test_the_shuffle_is_the_same_for_ever() -> None:
    # Written down once: a change of numpy, or of ours, would change what every recipe trains.
    assert shuffled(8, 0, 0).tolist() == EXPECTED
    assert shuffled(8, 1, 0).tolist() != EXPECTED
    assert shuffled(8, 0, 1).tolist() != EXPECTED


EXPECTED = [4, 0, 1, 7, 6, 2, 5, 3]
