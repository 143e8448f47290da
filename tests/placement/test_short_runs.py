"""Short runs: which they are, whom they pass, and whom they do not."""

from dataclasses import replace

import numpy as np

from headrace.placement.arrivals import Work
from headrace.placement.demand import Demand
from headrace.placement.fifo_waits import FifoWaits
from headrace.placement.inventory import Gpu, Inventory, Node
from headrace.placement.queueing import Preempting, QueuePolicy, plan
from headrace.placement.short_runs import short_below
from headrace.placement.snapshot import Reservation, Running, Snapshot, Waiting
from tests.placement.queueing_builders import NOW, POLICY, make_fleet, make_running, make_waiting

SHORTEST = replace(POLICY, order="shortest_first")
STOPPING = replace(SHORTEST, preemption=Preempting(min_run_seconds=0.0))


def came(*runs: tuple[float, float]) -> Work:
    """Runs of one GPU: how long each was expected to take, and took."""
    expected, took = np.array(runs, dtype=float).reshape(-1, 2).T
    rest = np.zeros(len(runs))
    return Work(at=rest, pool=rest, amount=rest + 1, total=took, waiting=rest, expected=expected)


def test_the_shortest_are_short_as_long_as_they_are_a_small_part_of_the_work():
    minutes = [(60.0, 60.0)] * 10
    assert short_below(came((36_000.0, 36_000.0), *minutes), share=0.02) == 36_000
    assert short_below(came((36_000.0, 36_000.0), *minutes, (600.0, 600.0)), share=0.02) == 600


def test_where_all_runs_are_alike_or_none_came_none_is_short():
    assert short_below(came(*[(60.0, 60.0)] * 100)) == 60
    assert short_below(came()) == 0


def test_runs_that_take_far_longer_than_they_say_are_not_short():
    honest = [(900.0, 900.0)] * 50
    assert short_below(came((60.0, 60.0), *honest), share=0.02) == 900
    assert short_below(came((60.0, 36_000.0), *honest), share=0.02) == 60


def told(*waiting: Waiting, order: str = "shortest_first", fleet: Inventory | None = None) -> set[str]:
    """Which are short, of runs that are looked at together; each is told when it comes."""
    policy = QueuePolicy(order="shortest_first" if order == "shortest_first" else "submission")
    looked = FifoWaits().look(Snapshot(inventory=fleet or make_fleet(2), waiting=waiting), policy, NOW)
    return {run.run_id for run in looked.waiting if run.is_short}


def test_who_is_short_is_measured_unless_the_order_is_that_of_submission():
    runs = (make_waiting("tiny", seconds=10), *(make_waiting(f"r{index}", seconds=900) for index in range(9)))
    assert told(*runs) == {"tiny"}
    assert told(*runs, order="submission") == set()


def test_runs_that_may_use_all_gpus_are_short_by_what_the_smallest_pool_of_them_can_bear():
    fleet = Inventory(
        nodes=tuple(
            Node(name=model, gpus=tuple(Gpu(device=str(index), model=model, memory_mib=40_000) for index in range(num)))
            for model, num in (("A100", 9), ("H100", 1))
        )
    )
    runs = [make_waiting("tiny", seconds=60), *(make_waiting(f"r{index}", seconds=900) for index in range(9))]
    of_one_model = make_waiting("h", seconds=900, demand=Demand(num_gpus=1, gpu_models=frozenset({"H100"})))
    assert told(*runs, fleet=fleet) == {"tiny"}
    assert told(*runs, of_one_model, fleet=fleet) == set()


LATE = make_waiting("late", ago=500)
SHORT = make_waiting("short", ago=1, seconds=10, is_short=True)


def decide(*waiting: Waiting, running: tuple[Running, ...] = (), num_gpus: int = 1, promised: str | None = None):
    snapshot = Snapshot(inventory=make_fleet(num_gpus), waiting=waiting, running=running)
    places = [Reservation(run_id=promised, devices=frozenset({("node-a", "0")}), latest=None)] if promised else []
    return plan(snapshot, STOPPING, NOW, places)


def test_a_short_run_passes_one_that_has_waited_too_long():
    assert list(decide(LATE, SHORT).admissions) == ["short"]
    assert list(decide(LATE, replace(SHORT, is_short=False)).admissions) == ["late"]


def test_a_short_run_passes_neither_a_promised_one_nor_a_higher_priority():
    assert list(decide(LATE, SHORT, promised="late").admissions) == ["late"]
    urgent = make_waiting("urgent", 2, ago=1, priority=5)
    assert list(decide(LATE, SHORT, urgent).admissions) == ["late"]


def test_short_runs_go_shortest_first_and_the_others_take_what_they_leave():
    shorter = replace(SHORT, run_id="shorter", expected_seconds=5.0)
    assert list(decide(LATE, SHORT, shorter, num_gpus=2).admissions) == ["shorter", "short"]
    assert list(decide(LATE, SHORT, shorter, num_gpus=3).admissions) == ["shorter", "short", "late"]
    assert list(decide(LATE, replace(SHORT, demand=Demand(num_gpus=2))).admissions) == ["late"]


def test_a_short_run_that_passed_is_stopped_for_a_gang_alone_and_before_others():
    short = make_running("short", "node-a:0", ago=50, preemptible=True, is_short=True, fifo_wait_seconds=200.0)
    late = make_waiting("late", ago=300, preemptible=True)
    assert decide(late, running=(short,)).preemptions == ()
    assert [stop.run_id for stop in decide(late, running=(replace(short, is_short=False),)).preemptions] == ["short"]
    other = make_running("other", "node-a:1", ago=40, preemptible=True, waited_seconds=999.0, fifo_wait_seconds=200.0)
    third = replace(make_running("third", "node-a:2", ago=9_000), demand=Demand(num_gpus=1))
    gang = make_waiting("gang", 2, ago=500)
    found = decide(gang, running=(short, other, third), num_gpus=4)
    assert [stop.run_id for stop in found.preemptions] == ["short"]


def test_of_those_that_had_waited_too_long_the_ones_that_waited_least_are_stopped_for_a_gang():
    running = tuple(
        make_running(
            f"waited{waited:.0f}",
            f"node-a:{device}",
            ago=ago,
            preemptible=True,
            waited_seconds=waited,
            fifo_wait_seconds=200.0,
        )
        for device, (waited, ago) in enumerate(((900.0, 10.0), (300.0, 800.0), (600.0, 5.0)))
    )
    found = decide(make_waiting("gang", 2, ago=500), running=running, num_gpus=3)
    assert sorted(stop.run_id for stop in found.preemptions) == ["waited300", "waited600"]


def test_a_stopped_run_keeps_its_place_among_those_that_have_waited_too_long():
    stopped = make_waiting("stopped", ago=900, ran_seconds=100.0, preempted_at=NOW - 5, num_preemptions=1)
    assert list(decide(LATE, stopped).admissions) == ["stopped"]
