"""How long a queue in order of submission would keep its runs waiting, measured while it is served in another order."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from headrace.placement.demand import Demand
from headrace.placement.fifo_waits import FifoWaits, StatedWaits
from headrace.placement.inventory import Gpu, Inventory, Node
from headrace.placement.queueing import QueuePolicy
from headrace.placement.run_times import RunTimes
from headrace.placement.snapshot import Running, Snapshot, Waiting
from headrace.placement.stage_policy import StagePolicy, StageRule
from headrace.store.small_objects import Record
from tests.placement.queueing_builders import NOW, make_fleet, make_running, make_waiting

POLICY = QueuePolicy()


def waits(snapshot: Snapshot, *, of: FifoWaits | None = None, at: float = NOW, policy: QueuePolicy = POLICY) -> dict:
    looked = (of or FifoWaits()).look(snapshot, policy, at)
    return {run.run_id: run.fifo_wait_seconds for run in looked.waiting}


def queue(*waiting: Waiting, running: tuple[Running, ...] = (), fleet: Inventory | None = None) -> Snapshot:
    return Snapshot(inventory=fleet or make_fleet(2), waiting=waiting, running=running)


def test_what_waits_is_divided_by_the_gpus():
    waiting = [make_waiting(f"r{index}", seconds=600) for index in range(10)]
    assert waits(queue(*waiting)) == {run.run_id: 10 * 600 / 2 for run in waiting}


def test_with_a_small_backlog_it_is_as_long_as_a_run_takes():
    assert waits(queue(make_waiting("a", seconds=600))) == {"a": 600}


def test_the_head_of_the_queue_is_as_old_as_what_came_since_is_work():
    """A run of 100 s comes every 50 s; both GPUs are held from the start by others, so that nothing starts."""
    measured, holders = FifoWaits(), (make_running("x", "node-a:0"), make_running("y", "node-a:1"))
    came: list[Waiting] = []
    found: dict[str, float] = {}
    for number in range(40):
        came.append(replace(make_waiting(f"r{number:02d}", seconds=100), submitted=NOW + 50 * number))
        found = waits(queue(*came, running=holders), of=measured, at=NOW + 50 * number)
    # By work the last waits 40 × 100 / 2 s; the first has waited 39 × 50 s.
    # What a newcomer would wait is noted where it has changed by a quarter.
    assert 1_600 <= found["r39"] <= 2_000
    for later in range(1, 41):
        found = waits(queue(*came, running=holders), of=measured, at=NOW + 1_950 + 50 * later)
    # Less what is forgotten while the last waits.
    fresh = replace(make_waiting("last", seconds=100), submitted=NOW + 3_950)
    assert waits(queue(*came, fresh, running=holders), of=measured, at=NOW + 3_950)["last"] == pytest.approx(
        3_950, rel=0.07
    )


def test_who_came_before_a_crowd_does_not_wait_for_it():
    measured = FifoWaits()
    first = make_waiting("first", seconds=600)
    before = waits(queue(first), of=measured)["first"]
    crowd = [replace(make_waiting(f"r{index}", seconds=600), submitted=NOW + 10) for index in range(50)]
    found = waits(queue(first, *crowd), of=measured, at=NOW + 10)
    assert found["first"] == before == 600
    assert found["r0"] == pytest.approx(51 * 600 / 2, rel=0.01)


def test_a_run_that_has_waited_too_long_stays_one_though_the_queue_grows():
    measured = FifoWaits()
    first = make_waiting("first", seconds=100)
    holders = (make_running("x", "node-a:0"), make_running("y", "node-a:1"))
    came = [replace(make_waiting(f"r{index:02d}", seconds=100), submitted=NOW + 1_000 + index) for index in range(9)]
    found = {}
    for at, waiting in ((0, [first]), (900, [first]), (1_010, [first, *came]), (4_000, [first, *came])):
        found[at] = waits(queue(*waiting, running=holders), of=measured, at=NOW + at)
    # The head of the queue is 4,000 s old; but the first had waited too long before others came.
    assert found[4_000]["first"] == found[900]["first"] < 1_000
    assert found[4_000]["r08"] > 2_500


def test_the_longest_wait_is_forgotten_a_second_in_a_hundred():
    measured, holders = FifoWaits(), (make_running("x", "node-a:0"), make_running("y", "node-a:1"))
    for at in (0, 3_000):
        waits(queue(make_waiting("first", seconds=100), running=holders), of=measured, at=NOW + at)
    waits(queue(), of=measured, at=NOW + 3_001)
    late = replace(make_waiting("late", seconds=60), submitted=NOW + 23_000)
    found = waits(queue(late), of=measured, at=NOW + 23_000)["late"]
    # And a little more while it waits.
    assert found == pytest.approx(3_000 - 20_000 / 100, rel=0.03)


def test_a_successor_tells_the_same_times():
    measured = FifoWaits()
    snapshot = queue(*(make_waiting(f"r{index}", ago=9, seconds=600) for index in range(10)))
    before = waits(snapshot, of=measured)
    stated = Record("Waits", StatedWaits).checked(json.dumps(asdict(measured.stated())))
    assert waits(snapshot, of=FifoWaits(stated), at=NOW + 300) == before


def test_who_can_use_one_model_alone_waits_for_that_model_alone():
    fleet = Inventory(
        nodes=tuple(
            Node(name=model, gpus=tuple(Gpu(device=str(index), model=model, memory_mib=40_000) for index in range(2)))
            for model in ("A100", "H100")
        )
    )

    def asks(run_id: str, *models: str) -> Waiting:
        return make_waiting(run_id, seconds=100, demand=Demand(num_gpus=1, gpu_models=frozenset(models)))

    waiting = [*(asks(f"h{index}", "H100") for index in range(20)), asks("a", "A100"), asks("any")]
    found = waits(queue(*waiting, fleet=fleet))
    assert found["h0"] == 20 * 100 / 2
    # An A100 is in the pool of all GPUs, too, for which all of them wait.
    assert found["a"] == found["any"] == 22 * 100 / 4


def test_what_waits_for_limits_alone_is_no_backlog():
    held = tuple(make_waiting(f"t{index}", seconds=9_000, stage="training") for index in range(9))
    running = (make_running("t", "node-a:0", stage="training"),)
    snapshot = queue(*held, make_waiting("a", seconds=60), running=running)
    ceiling = QueuePolicy(stages=StagePolicy(rules={"training": StageRule(ceiling=1)}))
    # Without a limit: 9 × 9,000 s and 60 s on two GPUs.
    assert waits(snapshot)["a"] == (9 * 9_000 + 60) / 2
    assert waits(snapshot, policy=ceiling)["a"] < 9_000
    blocked = replace(snapshot, blocked={run.run_id: "Waits for a slot in pool x." for run in held})
    assert waits(blocked)["a"] < 9_000


def test_runs_without_a_gpu_wait_for_each_other():
    waiting = [make_waiting(f"c{index}", seconds=100, demand=Demand(cpu_milli=32_000)) for index in range(6)]
    # 64 CPUs: two at a time.
    assert waits(queue(*waiting)) == {run.run_id: 300 for run in waiting}


def test_what_waits_for_a_slot_alone_has_a_pool_of_its_own():
    light = [make_waiting(f"l{index}", seconds=600, demand=Demand()) for index in range(9)]
    heavy = [make_waiting(f"g{index}", seconds=600) for index in range(10)]
    found = waits(queue(*light, *heavy))
    assert found["l0"] == 600
    assert found["g0"] == 10 * 600 / 2


def test_estimates_that_are_always_too_long_are_corrected():
    times = RunTimes()
    for _ in range(50):
        times.learn(1_000, 100, 1)
    (corrected,) = times.corrected(np.array([1_000.0]))
    assert corrected == pytest.approx(100)
    assert RunTimes(times.stated()).corrected(np.array([1_000.0])) == pytest.approx(corrected, rel=0.01)


def test_a_run_that_takes_longer_than_expected_counts_as_what_it_took():
    measured, snapshot = FifoWaits(), queue(make_waiting("a"), running=(make_running("r", "node-a:0", seconds=10),))
    measured.look(snapshot, POLICY, NOW)
    measured.look(queue(make_waiting("a")), POLICY, NOW + 940)
    assert measured.stated().run_times.longest == 1_000
