"""Who is stopped for whom: whole runs, the least work lost, never in a circle."""

from dataclasses import replace

from headrace.placement.demand import Demand
from headrace.placement.placements import GpuShare, Placement
from headrace.placement.queueing import Preempting, QueuePolicy, plan
from headrace.placement.snapshot import Plan, Running, Snapshot, Waiting
from tests.placement.queueing_builders import NOW, make_fleet, make_running, make_waiting

POLICY = QueuePolicy(
    gang_patience=0.5,
    patience=1.0,
    preemption=Preempting(min_run_seconds=30.0, preemptions_max=3),
)


def decide(waiting: Waiting, *running: Running, gpus: tuple[int, ...] = (2,), policy: QueuePolicy = POLICY) -> Plan:
    return plan(Snapshot(inventory=make_fleet(*gpus), waiting=(waiting,), running=running), policy, NOW)


def stopped(decision: Plan) -> list[str]:
    return [stop.run_id for stop in decision.preemptions]


def test_without_preemption_nobody_is_stopped():
    bulk = make_running("bulk", "node-a:0", "node-a:1", preemptible=True)
    assert stopped(decide(make_waiting("urgent", priority=9), bulk, policy=QueuePolicy())) == []


def test_a_run_that_does_not_allow_it_is_never_stopped():
    firm = make_running("firm", "node-a:0", "node-a:1")
    assert stopped(decide(make_waiting("urgent", priority=9), firm)) == []


def test_a_higher_priority_stops_a_lower_one_and_its_place_is_kept():
    bulk = [make_running(f"bulk{index}", f"node-a:{index}", preemptible=True) for index in range(2)]
    waiting = (make_waiting("urgent", 2, priority=1), make_waiting("other", preemptible=True))
    snapshot = Snapshot(inventory=make_fleet(2), waiting=waiting, running=tuple(bulk))
    decision = plan(snapshot, POLICY, NOW)
    assert sorted(stopped(decision)) == ["bulk0", "bulk1"]
    assert decision.admissions == {}
    # One of the two has gone, the other still winds down: its GPU waits for the run that it was stopped for.
    between = replace(snapshot, running=(replace(bulk[1], ending=True),))
    decision = plan(between, POLICY, NOW + 1)
    assert decision.admissions == {}
    assert decision.holds["urgent"].waits_for == ("bulk1",)
    assert list(plan(replace(snapshot, running=()), POLICY, NOW + 2).admissions) == ["urgent"]


def test_equal_priority_stops_nobody_before_it_has_waited_too_long():
    bulk = make_running("bulk", "node-a:0", "node-a:1", ago=60, preemptible=True)
    assert stopped(decide(make_waiting("gang", 2, ago=99), bulk)) == []
    assert stopped(decide(make_waiting("gang", 2, ago=100), bulk)) == ["bulk"]


def test_a_run_is_not_stopped_for_one_that_came_after_it_started():
    bulk = make_running("bulk", "node-a:0", "node-a:1", ago=150, preemptible=True)
    assert stopped(decide(make_waiting("gang", 2, ago=120), bulk)) == []


def test_nobody_is_stopped_before_its_minimum_run_time():
    bulk = make_running("bulk", "node-a:0", "node-a:1", ago=29, preemptible=True)
    decision = decide(make_waiting("urgent", priority=1), bulk)
    assert stopped(decision) == []
    assert decision.look_again_at == NOW + 1


def test_nobody_is_stopped_where_it_would_not_help():
    bulk, firm = make_running("bulk", "node-a:0", preemptible=True), make_running("firm", "node-a:1")
    assert stopped(decide(make_waiting("urgent", 2, priority=1), bulk, firm)) == []


def test_the_least_gpu_seconds_are_lost():
    running = [
        make_running("old", "node-a:0", ago=5000, preemptible=True),
        make_running("young", "node-a:1", ago=60, preemptible=True),
        make_running("middle", "node-a:2", ago=500, preemptible=True),
        make_running("gang", "node-b:0", "node-b:1", "node-b:2", ago=100, preemptible=True),
    ]
    assert stopped(decide(make_waiting("one", priority=1), *running, gpus=(3, 3))) == ["young"]
    # Two of node-a would lose 560 GPU-seconds, the gang of node-b loses 300, though it is stopped whole.
    assert stopped(decide(make_waiting("two", 2, priority=1), *running, gpus=(3, 3))) == ["gang"]


def test_a_run_that_was_stopped_often_enough_is_left_alone_and_fills_no_promised_place():
    tired = make_running("tired", "node-a:0", "node-a:1", preemptible=True, num_preemptions=3)
    assert stopped(decide(make_waiting("urgent", priority=1), tired)) == []
    waiting = (make_waiting("gang", 2, ago=150), make_waiting("tired", preemptible=True, num_preemptions=3))
    snapshot = Snapshot(inventory=make_fleet(2), waiting=waiting, running=(make_running("r", "node-a:0"),))
    assert plan(snapshot, POLICY, NOW).admissions == {}


def test_a_stopped_run_does_not_stop_the_one_that_it_was_stopped_for():
    # It was stopped 300 s ago, and waits too long already; the other started 5 s later.
    winner = make_running("winner", "node-a:0", "node-a:1", ago=295, preemptible=True)
    loser = make_waiting("loser", 2, ago=9000, preemptible=True, preempted_at=NOW - 300, num_preemptions=1)
    later = replace(winner, run_id="later", started=NOW - 190)
    assert stopped(decide(loser, winner)) == []
    assert stopped(decide(loser, later)) == ["later"]


def test_a_part_of_a_gpu_is_freed_by_stopping_only_who_holds_it():
    halves = [
        Running(
            run_id=f"half{device}",
            demand=Demand(num_gpus=1, gpu_milli=600),
            placement=Placement(gpus=(GpuShare(node="node-a", device=str(device), milli=600),)),
            started=NOW - 60 - device,
            expected_seconds=600,
            preemptible=True,
        )
        for device in range(2)
    ]
    wanted = make_waiting("part", demand=Demand(num_gpus=1, gpu_milli=500), priority=1)
    assert stopped(decide(wanted, *halves)) == ["half0"]


def test_small_runs_are_stopped_for_a_gang_that_came_after_they_started_and_those_first_that_were_never_late():
    small = [
        replace(make_running(f"late{index}", f"node-a:{index}", ago=150, preemptible=True), waited_seconds=999.0)
        for index in range(2)
    ]
    early = [
        replace(make_running(f"early{index}", f"node-a:{2 + index}", ago=900, preemptible=True), waited_seconds=1.0)
        for index in range(2)
    ]
    running = [replace(run, fifo_wait_seconds=200.0) for run in (*small, *early)]
    assert sorted(stopped(decide(make_waiting("gang", 2, ago=120), *running, gpus=(4,)))) == ["early0", "early1"]
    assert len(stopped(decide(make_waiting("gang", 3, ago=120), *running, gpus=(4,)))) == 3


def test_who_waited_too_long_itself_is_not_stopped_for_one_that_is_no_gang():
    victim = make_running("r", "node-a:0", "node-a:1", ago=150, preemptible=True, waited_seconds=999.0)
    victim = replace(victim, fifo_wait_seconds=200.0)
    assert stopped(decide(make_waiting("one", 1, ago=300), victim)) == []
    assert stopped(decide(make_waiting("one", 1, ago=300), replace(victim, waited_seconds=1.0))) == ["r"]


def test_a_run_of_one_gpu_that_may_be_stopped_is_promised_a_place_only_after_twice_as_long():
    running = (make_running("r", "node-a:0", ago=500, seconds=9000),)
    for ago, promised in ((399, ["gang"]), (400, ["soft"])):
        waiting = (make_waiting("soft", ago=ago, preemptible=True), make_waiting("gang", 1, ago=250))
        decision = plan(Snapshot(inventory=make_fleet(1), waiting=waiting, running=running), POLICY, NOW)
        assert [reservation.run_id for reservation in decision.reservations] == promised
