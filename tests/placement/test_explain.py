"""What people are told: why a run waits, for whom, and until when."""

from dataclasses import replace

import pytest

from headrace.placement.demand import Demand
from headrace.placement.explain import clock, runs_text
from headrace.placement.inventory import Inventory
from headrace.placement.queueing import QueuePolicy, plan
from headrace.placement.snapshot import Snapshot
from headrace.placement.stage_policy import StagePolicy, StageRule, StageWindow
from tests.placement.queueing_builders import (
    HOUR,
    NOW,
    POLICY,
    make_cpu_running,
    make_fleet,
    make_running,
    make_waiting,
)


def sentences(snapshot: Snapshot, policy: QueuePolicy = POLICY, now: float = NOW) -> dict[str, str]:
    return {run_id: hold.sentence for run_id, hold in plan(snapshot, policy, now).holds.items()}


def test_a_reserved_run_says_what_it_needs_what_is_free_and_whom_it_waits_for():
    running = (
        make_running("1c07a2b4-5d", "node-b:0", seconds=1800),
        make_running("88e2ff00-12", "node-b:1", "node-b:2", seconds=3600),
        make_running("a", *(f"node-a:{index}" for index in range(8)), seconds=90_000),
    )
    waiting = (make_waiting("gang", 8, ago=150),)
    assert sentences(Snapshot(inventory=make_fleet(8, 8), waiting=waiting, running=running)) == {
        "gang": "Needs 8 GPUs on one node; the largest free block is 5 (node-b). Reserved 8 GPUs of node-b: starts "
        "when runs 1c07a2b4 and 88e2ff00 have ended, by 23:12 at the latest by their estimates."
    }


def test_a_run_behind_others_says_who_is_ahead_and_when_it_goes_by_age():
    running = (make_running("r", "node-a:0"),)
    waiting = (make_waiting("first", ago=60, seconds=1), make_waiting("second", ago=40))
    told = sentences(Snapshot(inventory=make_fleet(1), waiting=waiting, running=running))
    assert told["first"] == (
        "Needs 1 GPU; no such GPU is free. It can start when run r has ended. "
        "From 22:15 on, or later if the backlog grows, it goes by age, ahead of priority and share."
    )
    assert told["second"] == (
        "Needs 1 GPU; no such GPU is free. Ahead of it: run first. "
        "From 22:16 on, or later if the backlog grows, it goes by age, ahead of priority and share."
    )


def test_far_back_in_the_queue_the_count_is_rough():
    waiting = tuple(make_waiting(f"run-{index:04d}", ago=100 - index / 100, seconds=5) for index in range(120))
    running = (make_running("r", "node-a:0"),)
    told = sentences(Snapshot(inventory=make_fleet(1), waiting=waiting, running=running))
    assert "More than 100 runs are ahead of it." in told["run-0119"]
    assert "More than 10 runs are ahead of it." in told["run-0015"]
    assert "Ahead of it: runs run-0000, run-0001, run-0002 and 2 more." in told["run-0005"]


def test_a_queue_over_its_share_says_so():
    policy = QueuePolicy(queue_weights={"interactive": 3.0})
    running = tuple(make_running(f"b{index}", f"node-a:{index}", queue="batch") for index in range(6))
    waiting = (
        make_waiting("i", 8, queue="interactive"),
        make_waiting("b", 4, queue="batch"),
    )
    told = sentences(Snapshot(inventory=make_fleet(8), waiting=waiting, running=running), policy)
    assert "Queue 'batch' has its share (6 of 8 GPUs, weight 1 of 4) and 'interactive' is waiting." in told["b"]


def test_a_stage_at_its_ceiling_says_until_when():
    rules = {"training": StageRule(ceiling=2, windows=(StageWindow(hours="23:00-06:00", ceiling=8),))}
    running = (make_running("t", "node-a:0", "node-a:1", stage="training"),)
    waiting = (make_waiting("a", stage="training"), make_waiting("b", 4, stage="training"))
    told = sentences(
        Snapshot(inventory=make_fleet(8), waiting=waiting, running=running),
        QueuePolicy(stages=StagePolicy(rules=rules)),
    )
    assert told["a"] == "Stage training may hold 2 GPUs until 23:00 and holds 2."
    assert told["b"] == "Stage training may hold 2 GPUs until 23:00 and holds 2; this run needs 4 GPUs."


def test_a_floor_says_for_whom_it_is_kept():
    policy = QueuePolicy(stages=StagePolicy(rules={"generation": StageRule(floor=2)}))
    told = sentences(Snapshot(inventory=make_fleet(2), waiting=(make_waiting("a", stage="prep"),)), policy)
    # Two kept of two at every hour would be impossible; at night the floor is lower.
    assert told == {}
    night = StageRule(floor=2, windows=(StageWindow(hours="02:00-03:00", floor=0),))
    policy = QueuePolicy(stages=StagePolicy(rules={"generation": night}))
    told = sentences(Snapshot(inventory=make_fleet(2), waiting=(make_waiting("a", stage="prep"),)), policy)
    assert told["a"] == "Needs 1 GPU; of 2 GPUs free, kept: 2 for stage generation."


def test_no_slot_is_left():
    snapshot = Snapshot(
        inventory=make_fleet(4), waiting=(make_waiting("a"),), running=(make_running("r", "node-a:0"),), num_slots=0
    )
    assert sentences(snapshot)["a"].startswith("max_concurrent_runs is reached: 1 runs are in progress.")


def test_what_is_kept_for_an_older_run_is_said_to_be():
    running = (make_running("r", "node-a:0"),)
    waiting = (make_waiting("gang-1234567", 2, ago=150), make_waiting("small"))
    told = sentences(Snapshot(inventory=make_fleet(2), waiting=waiting, running=running))
    assert told["small"].startswith("What is free is kept for run gang-123, which has waited too long.")


def test_a_free_gpu_without_cpus_beside_it_is_explained():
    waiting = (make_waiting("a", demand=Demand(num_gpus=1, cpu_milli=32_000)),)
    snapshot = Snapshot(inventory=make_fleet(1), waiting=waiting, running=(make_cpu_running("c", "node-a", 40),))
    assert sentences(snapshot)["a"].startswith(
        "Needs 1 GPU, 32 CPUs; the nodes with free GPUs (such as node-a) lack CPUs or memory."
    )


def test_a_sentence_stays_the_same_while_nothing_happens():
    running = tuple(make_running(f"r{index}", f"node-a:{index}", seconds=7200) for index in range(4))
    waiting = (make_waiting("gang", 4, ago=150), *(make_waiting(f"s{index}", ago=index) for index in range(20)))
    snapshot = Snapshot(inventory=make_fleet(4), waiting=waiting, running=running)
    assert sentences(snapshot) == sentences(snapshot, now=NOW + 60)


def test_a_run_that_waits_for_a_repair_says_so():
    fleet = make_fleet(2, sick=(("node-a", "1"),))
    told = sentences(Snapshot(inventory=fleet, waiting=(make_waiting("gang", 2, ago=500),)))
    assert told["gang"] == (
        "Needs 2 GPUs on one node; the largest free block is 1 (node-a). "
        "What is healthy now does not suffice even when every run has ended: sick GPUs must come back."
    )


def test_an_estimate_that_has_passed_promises_no_time():
    running = (make_running("r", "node-a:0", ago=900, seconds=60),)
    decision = plan(
        Snapshot(inventory=make_fleet(1), waiting=(make_waiting("a", ago=250),), running=running), POLICY, NOW
    )
    assert decision.reservations[0].latest is None
    assert "starts when run r has ended; by their estimates they should have." in decision.holds["a"].sentence


@pytest.mark.parametrize(
    ("demand", "sentence"),
    [
        (Demand(num_gpus=16), "Asks for 16 GPUs on one node; the largest node has 8 (node-a)."),
        (Demand(num_gpus=99, gang="any"), "Asks for 99 GPUs on any nodes; the fleet has 12 such GPUs."),
        (Demand(num_gpus=1, gpu_models=frozenset({"H100"})), "Asks for 1 GPU (H100); the fleet's GPUs are A100."),
        (
            Demand(num_gpus=1, gpu_memory_mib=80_000),
            "Asks for 1 GPU (80000 MiB); the largest GPU has 40000 MiB (node-a).",
        ),
        (Demand(num_gpus=1, cpu_milli=90_000), "Asks for 1 GPU, 90 CPUs; the largest node has 64 CPUs (node-a)."),
        (
            Demand(memory_mib=9_000_000),
            "Asks for 9000000 MiB of memory; the largest node has 262144 MiB of memory (node-a).",
        ),
    ],
)
def test_an_impossible_demand_says_what_there_is_at_most(demand: Demand, sentence: str):
    snapshot = Snapshot(inventory=make_fleet(8, 4), waiting=(make_waiting("a", demand=demand),))
    assert plan(snapshot, POLICY, NOW).impossible == {"a": sentence}


def test_a_fleet_without_gpus_says_so():
    bare = Inventory(nodes=tuple(replace(node, gpus=()) for node in make_fleet(2).nodes))
    snapshot = Snapshot(inventory=bare, waiting=(make_waiting("a", 2),))
    assert plan(snapshot, POLICY, NOW).impossible == {"a": "Asks for 2 GPUs on one node; this fleet has no GPU."}


def test_times_of_other_days_carry_their_date():
    assert clock(NOW + HOUR, NOW) == "23:13"
    assert clock(NOW + 4 * HOUR, NOW) == "2023-11-15 02:13"


def test_long_lists_of_runs_are_cut():
    assert runs_text(["a"]) == "run a"
    assert runs_text(["a", "b"]) == "runs a and b"
    assert runs_text(["a", "b", "c", "d", "e"]) == "runs a, b, c and 2 more"
