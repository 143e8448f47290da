"""Floors and ceilings of stages by time of day."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from headrace.errors import InvalidInput
from headrace.placement.queueing import Preempting, QueuePolicy, plan
from headrace.placement.snapshot import Snapshot
from headrace.placement.stage_policy import StagePolicy, StageRule, StageWindow
from tests.placement.queueing_builders import NOW, make_fleet, make_running, make_waiting

NIGHTLY = StagePolicy(
    rules={
        "training": StageRule(ceiling=2, windows=(StageWindow(hours="22:00-06:00", ceiling=-1),)),
        "generation": StageRule(floor=1),
    },
    time_zone="Europe/Berlin",
)


def berlin(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp()


def policy(rules: dict[str, StageRule], **fields) -> QueuePolicy:
    return QueuePolicy(stages=StagePolicy(rules=rules), gang_patience=0.5, patience=0.5, **fields)


@pytest.mark.parametrize(
    ("at", "ceiling", "until"),
    [
        ("2026-03-10 12:00", 2, "2026-03-10 22:00"),
        ("2026-03-10 22:00", 7, "2026-03-11 06:00"),
        ("2026-03-11 05:59", 7, "2026-03-11 06:00"),
        ("2026-03-11 06:00", 2, "2026-03-11 22:00"),
        ("2026-03-28 23:00", 7, "2026-03-29 06:00"),  # clocks go forward that night
        ("2026-10-24 23:00", 7, "2026-10-25 06:00"),  # and back
    ],
)
def test_a_window_holds_from_its_start_to_just_before_its_end_in_its_time_zone(at: str, ceiling: int, until: str):
    limit = NIGHTLY.limits(berlin(at), 8)["training"]
    assert limit.ceiling == ceiling
    assert limit.until == berlin(until)


def test_nightly_training_may_take_all_but_one_and_generation_keeps_its_floor():
    waiting = tuple(make_waiting(f"t{index}", stage="training") for index in range(9))
    settings = QueuePolicy(stages=NIGHTLY)
    snapshot = Snapshot(inventory=make_fleet(8), waiting=waiting)
    assert len(plan(snapshot, settings, berlin("2026-03-10 12:00")).admissions) == 2
    assert len(plan(snapshot, settings, berlin("2026-03-10 23:00")).admissions) == 7


def test_it_looks_again_when_a_window_begins():
    running = tuple(make_running(f"r{index}", f"node-a:{index}", stage="training") for index in range(2))
    noon = berlin("2026-03-10 12:00")
    snapshot = Snapshot(inventory=make_fleet(8), waiting=(make_waiting("t", stage="training"),), running=running)
    fresh = Snapshot(
        inventory=snapshot.inventory,
        waiting=tuple(
            make_waiting(run.run_id, stage="training", ago=NOW - noon, fifo_wait_seconds=86_400.0)
            for run in snapshot.waiting
        ),
        running=running,
    )
    patient = QueuePolicy(stages=NIGHTLY)
    assert plan(fresh, patient, noon).look_again_at == berlin("2026-03-10 22:00")


def test_a_floor_is_kept_while_its_stage_has_nothing_to_do():
    waiting = tuple(make_waiting(f"t{index}", stage="training") for index in range(4))
    decision = plan(Snapshot(inventory=make_fleet(4), waiting=waiting), policy({"generation": StageRule(floor=3)}), NOW)
    assert len(decision.admissions) == 1


def test_a_floor_that_its_stage_holds_already_keeps_no_more():
    running = (make_running("g", "node-a:0", stage="generation"),)
    waiting = tuple(make_waiting(f"t{index}", stage="training") for index in range(4))
    snapshot = Snapshot(inventory=make_fleet(4), waiting=waiting, running=running)
    assert len(plan(snapshot, policy({"generation": StageRule(floor=1)}), NOW).admissions) == 3


def test_a_floor_is_lent_to_runs_that_may_be_stopped_and_taken_back():
    rules = {"generation": StageRule(floor=1)}
    settings = policy(rules, preemption=Preempting(min_run_seconds=30))
    waiting = (make_waiting("soft", stage="prep", preemptible=True),)
    assert list(plan(Snapshot(inventory=make_fleet(1), waiting=waiting), settings, NOW).admissions) == ["soft"]
    assert plan(Snapshot(inventory=make_fleet(1), waiting=waiting), policy(rules), NOW).admissions == {}
    back = Snapshot(
        inventory=make_fleet(1),
        waiting=(make_waiting("g", stage="generation"),),
        running=(make_running("soft", "node-a:0", stage="prep", preemptible=True),),
    )
    assert [stop.run_id for stop in plan(back, settings, NOW).preemptions] == ["soft"]


def test_a_stage_drains_for_its_oldest_run_at_its_ceiling():
    running = (make_running("t0", "node-a:0", stage="training"),)
    waiting = (
        make_waiting("gang", 2, ago=500, stage="training"),
        make_waiting("small", stage="training"),
        make_waiting("other"),
    )
    snapshot = Snapshot(inventory=make_fleet(8), waiting=waiting, running=running)
    decision = plan(snapshot, policy({"training": StageRule(ceiling=2)}), NOW)
    assert list(decision.admissions) == ["other"]
    assert decision.reservations == ()


def test_who_waited_too_long_for_gpus_beside_a_floor_is_not_overtaken():
    running = (make_running("r", "node-a:0"),)
    waiting = (make_waiting("gang", 3, ago=500), make_waiting("small"), make_waiting("g", stage="generation"))
    snapshot = Snapshot(inventory=make_fleet(4), waiting=waiting, running=running)
    decision = plan(snapshot, policy({"generation": StageRule(floor=1)}), NOW)
    assert list(decision.admissions) == ["g"]


def test_a_promised_place_elsewhere_does_not_open_a_floor():
    running = (make_running("r", *(f"node-a:{index}" for index in range(3))),)
    waiting = (make_waiting("gang", 4, ago=500, stage="training"), make_waiting("t", stage="training"))
    snapshot = Snapshot(inventory=make_fleet(4, 2), waiting=waiting, running=running)
    decision = plan(snapshot, policy({"generation": StageRule(floor=2)}), NOW)
    assert decision.reservations[0].run_id == "gang"
    assert decision.admissions == {}


def test_what_a_stage_may_never_hold_is_impossible():
    rules = {"training": StageRule(ceiling=1, windows=(StageWindow(hours="22:00-06:00", ceiling=4),))}
    waiting = (make_waiting("five", 5, stage="training"), make_waiting("four", 4, stage="training"))
    decision = plan(Snapshot(inventory=make_fleet(8), waiting=waiting), policy(rules), NOW)
    assert decision.impossible == {
        "five": "Asks for 5 GPUs on one node; stage training may never hold more than 4 GPUs."
    }


def test_what_floors_keep_at_every_hour_is_impossible_for_others():
    decision = plan(
        Snapshot(inventory=make_fleet(4), waiting=(make_waiting("all", 4),)), policy({"g": StageRule(floor=1)}), NOW
    )
    assert decision.impossible == {
        "all": "Asks for 4 GPUs on one node; of 4 GPUs, 1 are kept for other stages at every hour."
    }


@pytest.mark.parametrize("hours", ["22-06", "24:00-06:00", "06:00-06:00", "night"])
def test_hours_that_are_none_are_refused(hours: str):
    with pytest.raises(InvalidInput, match="two different times of day") as refusal:
        StageWindow(hours=hours)
    assert repr(hours) in str(refusal.value)
