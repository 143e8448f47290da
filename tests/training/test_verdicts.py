"""What follows from a curve: the best step, the early stop, loss spikes, who is stalled, how long it will take."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidTrainingRun
from headrace.training.progress import beats_of, read_beats
from headrace.training.recipe_parts import EarlyStop, Guards, LossSpike, StalledRank
from headrace.training.speed import Pace
from headrace.training.stalled import StalledRanks
from headrace.training.verdicts import HeldoutLosses, LossSpikes, check_finite, is_evaluated
from tests.training_builders import make_recipe, make_run_config


def evaluated(losses: list[float | None]) -> list[dict[str, Any]]:
    return [
        {"step": step, "loss": 1.0, "applied": True} | ({} if loss is None else {"heldout_loss": loss})
        for step, loss in enumerate(losses, 1)
    ]


def test_the_best_step_is_the_earliest_with_the_lowest_held_out_loss() -> None:
    losses = HeldoutLosses(None, evaluated([None, 3.0, None, 2.0, 2.5, 2.0]))
    assert (losses.best_step, losses.best_loss, losses.newest_is_best) == (4, 2.0, False)
    assert losses.why_stop() is None, "the recipe has no early_stop"


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_held_out_loss_that_is_no_number_ends_the_training(loss: float) -> None:
    with pytest.raises(InvalidTrainingRun, match=r"diverged: the held-out loss behind step 2 is (nan|inf)"):
        check_finite(make_recipe(evaluate_every=1), evaluated([2.0, loss])[-1])
    check_finite(make_recipe(evaluate_every=1), evaluated([2.0])[-1])


@pytest.mark.parametrize(
    ("losses", "stops"),
    [
        ([3.0, 2.0, 2.1], False),
        ([3.0, 2.0, 2.1, 2.05], True),
        ([3.0, 2.0, 2.1, 1.5, 1.6], False),
        ([3.0, 2.95, 2.92], True),  # better, but not by min_delta of the best that counted
        ([3.0, 2.95, 2.85], False),
        ([3.0, None, None], False),
    ],
)
def test_patience_counts_evaluations_without_a_better_one(losses: list[float | None], stops: bool) -> None:
    found = HeldoutLosses(EarlyStop(patience=2, min_delta=0.1), evaluated(losses))
    assert (found.why_stop() is not None) == stops


def test_why_a_training_stops_early_is_a_sentence() -> None:
    found = HeldoutLosses(EarlyStop(patience=1), evaluated([2.0, 3.0]))
    assert found.why_stop() == (
        "none of the last 1 evaluations had a held-out loss below 2.0000 (patience 1, min_delta 0); the best was "
        "2.0000 behind step 1"
    )


@given(
    losses=st.lists(st.one_of(st.none(), st.floats(0, 9)), max_size=30),
    cut=st.integers(0, 30),
    patience=st.integers(1, 4),
    spike=st.floats(0, 50),
)
def test_what_a_resumed_training_decides_is_what_an_undisturbed_one_does(
    losses: list[float | None], cut: int, patience: int, spike: float
) -> None:
    rows = evaluated(losses)
    straight = HeldoutLosses(EarlyStop(patience=patience), rows)
    resumed = HeldoutLosses(EarlyStop(patience=patience), rows[:cut])
    for row in rows[cut:]:
        resumed.add(row)
    assert vars(straight) == vars(resumed)
    guard = LossSpike(window=3)
    one, other = LossSpikes(guard, rows), LossSpikes(guard, rows[:cut])
    for row in rows[cut:]:
        other.add(row)
    assert one.exceeded(spike) == other.exceeded(spike)


def test_a_spike_is_above_a_multiple_of_the_median_of_the_last_applied_steps() -> None:
    guard = LossSpike(factor=2.0, window=3)
    rows = [{"step": step, "loss": loss, "applied": applied} for step, (loss, applied) in enumerate(
        [(9.0, True), (1.0, True), (100.0, False), (2.0, True), (3.0, True)], 1
    )]  # fmt: skip
    assert LossSpikes(guard, rows[:2]).exceeded(1e9) is None, "too few steps to compare with"
    assert LossSpikes(guard, rows).exceeded(4.0) is None
    assert LossSpikes(guard, rows).exceeded(4.1) == 4.0


def test_losses_below_zero_have_no_spikes() -> None:
    rows = [{"step": step, "loss": -1.0, "applied": True} for step in range(3)]
    assert LossSpikes(LossSpike(window=3), rows).exceeded(5.0) is None


def test_evaluations_come_every_few_steps_and_at_the_end() -> None:
    recipe = make_recipe(steps=10, evaluate_every=4)
    assert [step for step in range(1, 11) if is_evaluated(recipe, step)] == [4, 8, 10]
    assert not any(is_evaluated(make_recipe(), step) for step in range(1, 11))


def stalled_ranks(tmp_path: Path, **guard: Any) -> StalledRanks:
    recipe = make_recipe(guards=Guards(stalled_rank=StalledRank(seconds=60, **guard)))
    return StalledRanks(make_run_config(tmp_path, recipe=recipe))


@pytest.mark.parametrize("action", ["stop", "warn"])
def test_the_rank_that_the_others_wait_for_is_named_once(tmp_path: Path, action: str) -> None:
    stalled = stalled_ranks(tmp_path, action=action)
    behind = {0: (6, 1), 1: (6, 0)}
    assert stalled.look({0: (6, 0), 1: (6, 0)}, 0.0) is None
    assert stalled.look(behind, 1.0) is None
    assert stalled.look(behind, 60.0) is None
    found = stalled.look(behind, 62.0)
    assert found
    assert (found.rank, found.ends) == (1, action == "stop")
    assert found.what == (
        "waits for rank 1, which has been in the forward half of pass 1 of step 7 for 1 min 02 s (guards.stalled_rank "
        "of recipe tiny.test)"
    )
    assert stalled.look(behind, 500.0) is None


def test_a_rank_that_moves_is_slow_and_not_stalled(tmp_path: Path) -> None:
    stalled = stalled_ranks(tmp_path)
    for step in range(100):
        assert stalled.look({0: (step, 1), 1: (step, 0)}, step * 50.0) is None


def test_ranks_that_stopped_at_one_point_have_no_last_one(tmp_path: Path) -> None:
    stalled = stalled_ranks(tmp_path)
    for now in (0.0, 1000.0):
        assert stalled.look({0: (6, 1), 1: (6, 1)}, now) is None


def test_before_every_rank_has_begun_nobody_is_stalled(tmp_path: Path) -> None:
    stalled = stalled_ranks(tmp_path)
    for now in (0.0, 1000.0):
        assert stalled.look({0: (0, 1)}, now) is None


def test_what_a_rank_has_reached_is_read_from_outside(tmp_path: Path) -> None:
    recipe = make_recipe(guards=Guards(stalled_rank=StalledRank()))
    config = make_run_config(tmp_path, recipe=recipe)
    beat = beats_of(config, 1)
    assert read_beats(tmp_path, 2) == {}
    for step, point in ((0, 0), (123456, 7), (123457, 0)):
        beat(step, point)
        assert read_beats(tmp_path, 2) == {1: (step, point)}


def test_without_a_guard_no_rank_tells_where_it_is(tmp_path: Path) -> None:
    beats_of(make_run_config(tmp_path), 0)(1, 1)
    assert list(tmp_path.glob("beat-*")) == []


def test_a_floor_of_the_utilization_is_told_where_the_peak_is_known() -> None:
    row = {"step": 4, "tokens_per_second": 1000.0}
    told = Pace(steps=10, flops=6_000_000, peak=1e11, world_size=2).told(row)
    assert told["mfu"] == pytest.approx(1000 * 6e6 / 2e11)
    assert told["left_seconds"] >= 0
    for flops, peak in ((None, 1e11), (6_000_000, None)):
        assert "mfu" not in Pace(steps=10, flops=flops, peak=peak, world_size=2).told(row)
