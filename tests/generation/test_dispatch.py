from dataclasses import replace

import pytest

from headrace.generation.dispatch import Dispatch, Places, dispatch
from headrace.rollout.assignment import assign, canary_units, salted_rank
from headrace.rollout.plan import Plan
from headrace.rollout.states import RolloutState

DAY = [f"2026-11-22|glossary-{shard:02d}" for shard in range(10)]
PLAN = Plan(salt="glossary", verdict_timeout_seconds=600)
STABLE = RolloutState(stable="stable", stable_weights="weights-1", head=1)
TRIAL = replace(STABLE, candidate="candidate", weight=0.1, step_started_at=1000.0, head=2)
(CANARY,) = canary_units(0.1, "glossary", DAY)


RANKED = sorted(DAY, key=lambda key: salted_rank("glossary", key))
HALF = RANKED[:5]
# What the canary is compared with.
CONTROL = RANKED[-1]


def run(
    state: RolloutState | None,
    *,
    sealed: tuple[str, ...] = (),
    in_flight: tuple[str, ...] = (),
    now: float = 1000,
    places: Places | None = None,
):
    made = dict.fromkeys(sealed, "candidate")
    return dispatch(
        DAY,
        state=state,
        plan=PLAN,
        sealed=made,
        in_flight=in_flight,
        now=now,
        day_started_at=1000.0,
        places=places,
    )


def one_day(day: list[str], state: RolloutState, sealed: dict[str, str] | None = None) -> Dispatch:
    return dispatch(day, state=state, plan=PLAN, sealed=sealed or {}, in_flight=(), now=1000.0, day_started_at=1000.0)


def test_without_a_candidate_everything_starts() -> None:
    ready = run(STABLE)
    assert sorted(ready.start) == DAY
    assert not ready.held


def test_with_a_candidate_the_canaries_and_their_controls_start_and_the_others_wait() -> None:
    ready = run(TRIAL)
    assert ready.start == (CANARY, CONTROL)
    assert set(ready.held) == set(DAY) - {CANARY, CONTROL}
    assert ready.hold_reason == "8 partitions wait for the verdict on candidate candidate (step 1, 10%), 600 s at most"


def test_controls_are_as_many_as_canaries_and_the_last_that_a_rising_weight_reaches() -> None:
    ready = run(replace(TRIAL, weight=0.3))
    assert ready.start == (*RANKED[:3], *RANKED[-3:])
    assert ready.held == tuple(RANKED[3:-3])


@pytest.mark.parametrize("percent", range(10, 101, 10))
def test_canaries_and_controls_are_disjoint_on_their_own_sets_and_as_many_as_there_is_room_for(percent: int) -> None:
    state = replace(TRIAL, weight=percent / 100)
    ready = run(state)
    num_canaries = percent // 10
    canaries, controls = ready.start[:num_canaries], ready.start[num_canaries:]
    assert {assign(state, "glossary", key, DAY) for key in canaries} == {"candidate"}
    assert all(assign(state, "glossary", key, DAY) == "stable" for key in (*controls, *ready.held))
    assert len(controls) == min(num_canaries, 10 - num_canaries)
    assert sorted([*ready.start, *ready.held]) == DAY


def test_a_control_stays_one_as_the_weight_rises_until_the_candidate_gets_it_after_all_others() -> None:
    controls: set[str] = set()
    for num_canaries in range(1, 11):
        now = set(run(replace(TRIAL, weight=num_canaries / 10)).start[num_canaries:])
        room = set(RANKED[num_canaries:])
        assert controls & room <= now
        assert controls <= room or now == room
        controls = now
    assert controls == set()


def test_the_only_partition_of_a_day_is_its_canary_and_nobody_waits() -> None:
    ready = one_day(DAY[:1], TRIAL)
    assert ready == Dispatch(start=(DAY[0],))
    assert one_day(DAY[:1], replace(TRIAL, weight=0.0)) == Dispatch(start=(DAY[0],))


def test_of_two_partitions_one_is_the_canary_and_the_other_its_control() -> None:
    first, last = sorted(DAY[:2], key=lambda key: salted_rank("glossary", key))
    assert one_day(DAY[:2], TRIAL) == Dispatch(start=(first, last))


def test_the_third_of_three_partitions_waits_alone() -> None:
    first, second, last = sorted(DAY[:3], key=lambda key: salted_rank("glossary", key))
    ready = one_day(DAY[:3], TRIAL)
    assert (ready.start, ready.held) == ((first, last), (second,))
    assert ready.hold_reason == "1 partition waits for the verdict on candidate candidate (step 1, 10%), 600 s at most"


def test_canaries_that_were_made_on_another_set_get_no_controls() -> None:
    """The trial began in the middle of the day: one of its three canaries is left to compare."""
    ready = one_day(DAY, replace(TRIAL, weight=0.3), sealed=dict.fromkeys(RANKED[:2], "stable"))
    assert ready.start == (RANKED[2], RANKED[-1])
    assert ready.held == tuple(RANKED[3:-1])


def test_a_partition_that_was_made_on_a_set_that_is_stable_no_more_is_no_control() -> None:
    ready = one_day(DAY, TRIAL, sealed={RANKED[-1]: "stable before"})
    assert ready.start == (CANARY, RANKED[-2])


def test_what_was_made_on_the_stable_set_before_the_trial_is_a_control() -> None:
    assert one_day(DAY, TRIAL, sealed={RANKED[-1]: "stable"}).start == (CANARY,)


def test_while_the_canary_runs_the_others_still_wait() -> None:
    assert run(TRIAL, in_flight=(CANARY, CONTROL)).start == ()
    assert run(TRIAL, sealed=(CANARY,), in_flight=(CONTROL,)).start == ()


def test_a_further_step_starts_its_new_canaries_and_controls() -> None:
    ready = run(replace(TRIAL, weight=0.4, step=1), sealed=(CANARY,), in_flight=(CONTROL,))
    assert ready.start == (*RANKED[1:4], *RANKED[-4:-1])
    assert ready.held == tuple(RANKED[4:6])


def test_half_of_a_day_is_compared_with_the_other_half() -> None:
    ready = run(replace(TRIAL, weight=0.5))
    assert ready == Dispatch(start=tuple(RANKED))


def test_after_the_verdict_the_rest_starts() -> None:
    ready = run(replace(STABLE, stable="candidate", head=3), sealed=(CANARY,))
    assert set(ready.start) == set(DAY) - {CANARY}


def test_after_the_time_out_the_rest_starts_canaries_first() -> None:
    assert run(TRIAL, now=1599).start == (CANARY, CONTROL)
    ready = run(TRIAL, now=1600)
    assert ready.start[0] == CANARY
    assert sorted(ready.start) == DAY


def test_a_step_that_began_before_the_day_waits_from_the_days_beginning() -> None:
    state = replace(TRIAL, step_started_at=0.0)
    assert run(state, now=1500).start == (CANARY, CONTROL)


def test_what_is_sealed_or_in_flight_never_starts_again() -> None:
    ready = run(STABLE, sealed=tuple(DAY[:4]), in_flight=tuple(DAY[4:9]))
    assert ready.start == (DAY[9],)


def test_nothing_starts_before_anything_is_rolled_out() -> None:
    ready = run(None)
    assert ready.start == ()
    assert ready.hold_reason == "nothing is rolled out yet"


def test_a_day_that_is_done_asks_for_nothing() -> None:
    assert run(TRIAL, sealed=tuple(DAY)) == Dispatch()


def test_a_share_of_everything_holds_nothing() -> None:
    ready = run(replace(TRIAL, weight=1.0))
    assert sorted(ready.start) == DAY
    assert ready.hold_reason is None


def test_a_step_that_began_after_its_canaries_were_made_on_another_set_holds_nobody() -> None:
    ready = dispatch(
        DAY, state=TRIAL, plan=PLAN, sealed={CANARY: "stable"}, in_flight=(), now=1000.0, day_started_at=1000.0
    )
    assert set(ready.start) == set(DAY) - {CANARY}


def test_a_cap_lets_so_many_canaries_start_and_the_others_wait() -> None:
    ready = run(replace(TRIAL, weight=0.5, cap=2), places=Places(num_left=2))
    assert ready.start == (*HALF[:2], *RANKED[-2:])
    assert len(ready.held) == 6


def test_a_canary_beyond_the_cap_is_no_control_while_its_claim_could_take_a_place() -> None:
    state = replace(TRIAL, weight=0.9, cap=2)
    ready = run(state, places=Places(num_left=2))
    assert ready.start == (*RANKED[:2], RANKED[-1])
    claimed = (*RANKED[:2], RANKED[-1])
    ready = run(state, in_flight=claimed, places=Places(taken=frozenset(RANKED[:2])))
    assert ready.start == (RANKED[-2],)
    assert ready.held == tuple(RANKED[2:-2])


def test_a_capped_share_of_everything_gets_its_controls_when_the_places_are_taken() -> None:
    state = replace(TRIAL, weight=1.0, cap=2)
    assert run(state, places=Places(num_left=2)).start == tuple(RANKED[:2])
    ready = run(state, in_flight=tuple(RANKED[:2]), places=Places(taken=frozenset(RANKED[:2])))
    assert ready.start == tuple(RANKED[-2:])
    assert ready.held == tuple(RANKED[2:-2])


def test_partitions_that_have_a_place_are_canaries_whatever_is_left_of_the_cap() -> None:
    ready = run(replace(TRIAL, weight=0.5, cap=2), places=Places(taken=frozenset(HALF[3:5])))
    assert set(ready.start) == {*HALF[3:5], *RANKED[-2:]}


def test_a_day_whose_cap_was_used_up_on_earlier_days_holds_nobody() -> None:
    """No row of this day would say anything about the candidate."""
    ready = run(replace(TRIAL, weight=0.5, cap=2), places=Places())
    assert sorted(ready.start) == DAY


def test_after_the_time_out_canaries_beyond_the_cap_start_with_the_others() -> None:
    ready = run(replace(TRIAL, weight=0.5, cap=2), places=Places(num_left=2), now=1600)
    assert set(ready.start[:2]) == set(HALF[:2])
    assert sorted(ready.start) == DAY


def test_a_paused_candidate_keeps_its_canaries_and_the_others_are_told() -> None:
    ready = run(replace(TRIAL, paused=True))
    assert ready.start == (CANARY, CONTROL)
    assert ready.hold_reason is not None
    assert "(step 1, 10%, paused)" in ready.hold_reason


def test_a_candidate_whose_weight_fell_to_nothing_holds_nobody() -> None:
    assert sorted(run(replace(TRIAL, weight=0.0)).start) == DAY
