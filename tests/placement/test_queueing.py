"""Who starts, in which order, and what is never started."""

from dataclasses import replace

from headrace.placement.demand import Demand
from headrace.placement.inventory import Inventory
from headrace.placement.queueing import QueuePolicy, plan
from headrace.placement.residency import Residency
from headrace.placement.snapshot import Snapshot
from tests.placement.queueing_builders import NOW, POLICY, make_fleet, make_running, make_waiting


def test_a_run_that_fits_starts_at_once():
    decision = plan(Snapshot(inventory=make_fleet(2), waiting=(make_waiting("a", 2),)), POLICY, NOW)
    assert decision.admissions["a"].devices_on("node-a") == ("0", "1")
    assert decision.holds == {}


def test_higher_priority_goes_first_then_the_older_or_if_the_policy_says_so_the_shorter():
    waiting = (
        make_waiting("long", ago=9, seconds=900),
        make_waiting("young", ago=1, seconds=60),
        make_waiting("old", ago=5, seconds=60),
        make_waiting("urgent", seconds=9000, priority=1),
    )
    snapshot = Snapshot(inventory=make_fleet(8), waiting=waiting)
    assert list(plan(snapshot, POLICY, NOW).admissions) == ["urgent", "long", "old", "young"]
    shortest_first = replace(POLICY, order="shortest_first")
    assert list(plan(snapshot, shortest_first, NOW).admissions) == ["urgent", "old", "young", "long"]


def test_runs_of_equal_estimates_go_in_order_of_submission():
    waiting = tuple(make_waiting(name, ago=ago) for name, ago in (("second", 5), ("first", 9), ("third", 1)))
    decision = plan(Snapshot(inventory=make_fleet(8), waiting=waiting), POLICY, NOW)
    assert list(decision.admissions) == ["first", "second", "third"]


def test_by_submission_estimates_change_nothing():
    policy = QueuePolicy(order="submission")
    waiting = (make_waiting("long", ago=9, seconds=900), make_waiting("short", ago=1, seconds=1))
    assert list(plan(Snapshot(inventory=make_fleet(8), waiting=waiting), policy, NOW).admissions) == ["long", "short"]


def test_queues_share_the_fleet_by_their_weights():
    policy = QueuePolicy(queue_weights={"interactive": 3.0})
    waiting = tuple(
        make_waiting(f"{queue}{index}", ago=index, queue=queue)
        for index in range(8)
        for queue in ("batch", "interactive")
    )
    started = plan(Snapshot(inventory=make_fleet(8), waiting=waiting), policy, NOW).admissions
    assert sum(run_id.startswith("interactive") for run_id in started) == 6
    assert sum(run_id.startswith("batch") for run_id in started) == 2


def test_a_queue_that_has_its_share_still_uses_what_nobody_else_wants():
    policy = QueuePolicy(queue_weights={"interactive": 3.0})
    waiting = tuple(make_waiting(f"batch{index}", queue="batch") for index in range(4))
    assert len(plan(Snapshot(inventory=make_fleet(4), waiting=waiting), policy, NOW).admissions) == 4


def test_small_runs_fill_what_a_gang_cannot_use():
    waiting = (make_waiting("gang", 4, priority=5), make_waiting("small"))
    running = (make_running("r", "node-a:0"),)
    decision = plan(Snapshot(inventory=make_fleet(4), waiting=waiting, running=running), POLICY, NOW)
    assert list(decision.admissions) == ["small"]
    assert decision.holds["gang"].run_id == "gang"


def test_who_waited_too_long_goes_ahead_of_every_priority():
    waiting = (make_waiting("urgent", priority=100), make_waiting("old", ago=201))
    decision = plan(Snapshot(inventory=make_fleet(1), waiting=waiting), POLICY, NOW)
    assert list(decision.admissions) == ["old"]


def test_no_more_start_than_there_are_slots():
    waiting = tuple(make_waiting(f"r{index}") for index in range(4))
    decision = plan(Snapshot(inventory=make_fleet(8), waiting=waiting, num_slots=3), POLICY, NOW)
    assert len(decision.admissions) == 3
    assert len(decision.holds) == 1


def test_a_blocked_run_is_never_placed_and_keeps_its_reason():
    snapshot = Snapshot(
        inventory=make_fleet(8), waiting=(make_waiting("a", ago=9999),), blocked={"a": "Pool gpu_writers is full."}
    )
    decision = plan(snapshot, POLICY, NOW)
    assert decision.admissions == {}
    assert decision.holds["a"].sentence == "Pool gpu_writers is full."
    assert decision.reservations == ()


def test_a_run_without_a_counted_need_starts_on_a_full_fleet():
    running = (make_running("r", "node-a:0"),)
    waiting = (make_waiting("light", demand=Demand()),)
    assert "light" in plan(Snapshot(inventory=make_fleet(1), waiting=waiting, running=running), POLICY, NOW).admissions
    assert "light" in plan(Snapshot(inventory=Inventory(), waiting=waiting), POLICY, NOW).admissions


def test_a_run_prefers_the_gpu_that_has_its_model_loaded():
    snapshot = Snapshot(
        inventory=make_fleet(2, 2),
        waiting=(make_waiting("a", loads=frozenset({"v7"})),),
        residency=Residency(
            nodes=frozenset({"node-a", "node-b"}),
            loaded={("node-b", "1"): frozenset({"v7"}), ("node-a", "0"): frozenset({"v6"})},
        ),
    )
    assert plan(snapshot, POLICY, NOW).admissions["a"].devices_on("node-b") == ("1",)


def test_a_sick_gpu_gets_nothing_new_and_makes_nothing_impossible():
    fleet = make_fleet(2, sick=(("node-a", "0"),))
    decision = plan(Snapshot(inventory=fleet, waiting=(make_waiting("both", 2), make_waiting("one"))), POLICY, NOW)
    assert decision.admissions["one"].devices_on("node-a") == ("1",)
    assert decision.impossible == {}
    assert "both" in decision.holds


def test_the_same_snapshot_gives_the_same_plan():
    waiting = tuple(make_waiting(f"r{index}", 1 + index % 4, ago=index * 40) for index in range(30))
    snapshot = Snapshot(
        inventory=make_fleet(8, 8), waiting=waiting, running=(make_running("x", "node-a:0", "node-a:1"),)
    )
    assert plan(snapshot, POLICY, NOW) == plan(snapshot, POLICY, NOW)


def test_it_looks_again_when_the_next_run_has_waited_too_long():
    snapshot = Snapshot(
        inventory=make_fleet(1),
        waiting=(make_waiting("a", ago=50), make_waiting("b", ago=20)),
        running=(make_running("r", "node-a:0"),),
    )
    assert plan(snapshot, POLICY, NOW).look_again_at == NOW + 150
    assert plan(Snapshot(inventory=make_fleet(1)), POLICY, NOW).look_again_at is None
