"""What a gate can tell, simulated with the gate itself: enough rows decide, and too few are said not to."""

from dataclasses import replace

import pytest

from headrace.errors import InvalidInput
from headrace.rollout.gates import GateSettings
from headrace.rollout.outlook import Horizon, Nights, horizon_for, outlook
from headrace.rollout.plan import Plan, Step

NIGHTS = Nights(num_partitions=10, num_rows=1000)


def plan(*weights: float, **gate: object) -> Plan:
    steps = tuple(Step(weight=weight) for weight in weights or (0.1, 0.5))
    return Plan(steps=steps, gate=GateSettings(**{"pass_rate_margin": 0.1, **gate}))  # pyright: ignore[reportArgumentType]


def with_horizon(of: Plan, horizon: Horizon) -> Plan:
    gate = replace(of.gate, horizon_rows=horizon.rows, horizon_seconds=horizon.seconds)
    return replace(of, gate=gate, evidence_days=max(of.evidence_days, horizon.nights))


def test_with_many_rows_and_a_wide_margin_both_verdicts_come_in_one_night() -> None:
    found = outlook(plan(), NIGHTS, 0.9)
    assert found.equal_promoted >= 0.95
    assert found.worse_sent_back >= 0.95
    assert found.nights == 1


def test_with_a_narrow_margin_an_equal_candidate_goes_back_undecided_and_a_worse_one_is_still_not_promoted() -> None:
    found = outlook(plan(pass_rate_margin=0.02), NIGHTS, 0.7)
    assert found.equal_undecided >= 0.3
    assert found.equal_promoted + found.equal_undecided + found.equal_harmful == pytest.approx(1)
    # The gate's own promise: a candidate worse by the margin is promoted in five of a hundred at most.
    assert found.worse_sent_back >= 0.92


@pytest.mark.parametrize("rate", [0.7, 0.95])
@pytest.mark.parametrize("margin", [0.02, 0.05])
def test_the_proposed_horizon_promotes_nine_of_ten_equal_candidates(margin: float, rate: float) -> None:
    narrow = plan(pass_rate_margin=margin)
    horizon = horizon_for(narrow, NIGHTS, rate)
    longer = with_horizon(narrow, horizon)
    assert outlook(longer, NIGHTS, rate).equal_promoted >= 0.85


def test_the_proposed_horizon_is_no_wild_guess() -> None:
    narrow = plan(pass_rate_margin=0.02)
    horizon = horizon_for(narrow, NIGHTS, 0.7)
    short = with_horizon(narrow, replace(horizon, rows=horizon.rows // 5))
    assert outlook(short, NIGHTS, 0.7).equal_promoted < 0.7


def test_the_same_seed_gives_the_same_shares() -> None:
    assert outlook(plan(), NIGHTS, 0.8, seed=3) == outlook(plan(), NIGHTS, 0.8, seed=3)


def test_a_night_too_small_for_min_rows_takes_several_and_a_soak_takes_its_days() -> None:
    few = Nights(num_partitions=10, num_rows=20)
    assert outlook(plan(min_rows=20, pass_rate_margin=0.5), few, 0.9).nights > 3
    steps = (Step(weight=0.1, soak_seconds=2 * 86_400), Step(weight=0.5))
    assert outlook(replace(plan(), steps=steps), NIGHTS, 0.9).nights == 3


def test_a_trial_ends_when_its_time_is_over_or_its_oldest_rows_no_longer_count() -> None:
    tiny = Nights(num_partitions=2, num_rows=2)
    short = outlook(plan(horizon_seconds=86_400.0), tiny, 0.9)
    assert (short.equal_promoted, short.equal_undecided, short.nights) == (0, 1, 2)
    assert outlook(replace(plan(), evidence_days=2), tiny, 0.9).equal_undecided == 1


def test_a_cap_keeps_a_candidate_from_the_rows_that_it_needs() -> None:
    steps = (Step(weight=0.1, cap=1), Step(weight=0.5, cap=2))
    narrow = plan(pass_rate_margin=0.05)
    assert outlook(replace(narrow, steps=steps), NIGHTS, 0.9).equal_promoted < 0.3
    assert outlook(narrow, NIGHTS, 0.9).equal_promoted > 0.8


def test_a_certain_floor_is_harm_and_no_lack_of_proof() -> None:
    found = outlook(plan(pass_rate_floor=0.5), NIGHTS, 0.2)
    assert found.equal_harmful > 0.9


def test_a_gate_that_does_not_judge_the_pass_rate_has_no_outlook() -> None:
    with pytest.raises(InvalidInput, match="pass_rate_margin is null"):
        outlook(plan(pass_rate_margin=None, margins={"mirrored_pass_rate": 0.1}), NIGHTS, 0.9)
