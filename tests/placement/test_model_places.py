"""Where a run is put that needs models, when it waits for a busy GPU that has them, and what must leave for it."""

from dataclasses import replace

import pytest

from headrace.placement.queueing import QueuePolicy, plan
from headrace.placement.residency import Residency
from headrace.placement.snapshot import Eviction, Plan, Running, Snapshot, Waiting
from tests.placement.queueing_builders import NOW, POLICY, make_fleet, make_running, make_waiting

PAINTER, WRITER = frozenset({"painter"}), frozenset({"writer"})
LABELS = {"painter": "painter 3", "writer": "writer 1"}


def make_residency(nodes: str = "a", bring_seconds: float | None = 60.0, **loaded: str) -> Residency:
    """`loaded`: models by device, as `a0="painter"`."""
    return Residency(
        nodes=frozenset(f"node-{name}" for name in nodes),
        loaded={(f"node-{at[0]}", at[1:]): frozenset(models.split()) for at, models in loaded.items()},
        bring_seconds=dict.fromkeys(LABELS, bring_seconds) if bring_seconds else {},
        labels=LABELS,
    )


def decided(
    *waiting: Waiting,
    running: tuple[Running, ...] = (),
    residency: Residency,
    gpus: tuple[int, ...] = (2,),
    policy: QueuePolicy = POLICY,
    now: float = NOW,
) -> Plan:
    snapshot = Snapshot(inventory=make_fleet(*gpus), waiting=waiting, running=running, residency=residency)
    return plan(snapshot, policy, now)


def places(decision: Plan) -> dict[str, list[str]]:
    return {run: [share.device for share in place.gpus] for run, place in decision.admissions.items()}


def test_a_run_that_must_bring_its_model_spares_one_that_others_wait_for():
    residency = make_residency(a0="painter", a1="writer")
    waiting = make_waiting("speaks", loads=frozenset({"speaker"})), make_waiting("paints", ago=-1, loads=PAINTER)
    assert places(decided(*waiting, residency=residency, policy=QueuePolicy())) == {"paints": ["0"], "speaks": ["1"]}
    busy = make_running("r", "node-a:1")
    alone = decided(make_waiting("speaks", loads=frozenset({"speaker"})), running=(busy,), residency=residency)
    assert places(alone) == {"speaks": ["0"]}, "sparing keeps nothing idle"


def test_what_sleeps_counts_the_seconds_until_it_is_awake():
    residency = replace(make_residency(a0="painter", a1="painter"), asleep={("node-a", "0"): {"painter": 10.0}})
    waiting = make_waiting("w", loads=PAINTER)
    assert places(decided(waiting, residency=residency)) == {"w": ["1"]}, "awake is before asleep"
    busy = (make_running("r", "node-a:1", ago=595.0, seconds=600.0, loads=PAINTER),)
    decision = decided(waiting, running=busy, residency=residency)
    assert "about 5 s sooner" in decision.holds["w"].sentence, "5 s until the other is free, 10 s to wake this one"
    late = (make_running("r", "node-a:1", ago=585.0, seconds=600.0, loads=PAINTER),)
    assert places(decided(waiting, running=late, residency=residency)) == {"w": ["0"]}


def test_of_equal_runs_the_one_whose_model_a_free_gpu_has_goes_first():
    residency = make_residency(a0="painter")
    waiting = make_waiting("first", ago=9, loads=WRITER), make_waiting("warm", ago=1, loads=PAINTER)
    assert places(decided(*waiting, residency=residency, gpus=(1,))) == {"warm": ["0"]}


@pytest.mark.parametrize("ahead", [{"ago": 201.0}, {"priority": 1}], ids=["waited too long", "higher priority"])
def test_no_model_goes_before_who_waited_too_long_or_before_priority(ahead):
    waiting = make_waiting("first", loads=WRITER, **ahead), make_waiting("warm", loads=PAINTER)
    assert places(decided(*waiting, residency=make_residency(a0="painter"), gpus=(1,))) == {"first": ["0"]}


def test_a_model_that_nobody_has_comes_before_another_copy_of_one_that_is_at_work():
    running = (make_running("r", "node-a:0", loads=PAINTER, seconds=9000.0),)
    waiting = make_waiting("second", ago=9, loads=PAINTER), make_waiting("other", ago=1, loads=WRITER)
    assert places(decided(*waiting, running=running, residency=make_residency(a0="painter"))) == {"other": ["1"]}


def test_by_length_what_must_be_brought_counts_as_length():
    policy = replace(POLICY, order="shortest_first")
    residency = make_residency(a0="painter")
    for seconds, goes in ((50.0, "cold"), (150.0, "warm")):
        waiting = make_waiting("cold", seconds=seconds, loads=WRITER), make_waiting("warm", seconds=120, loads=PAINTER)
        assert list(decided(*waiting, residency=residency, gpus=(1,), policy=policy).admissions) == [goes]


def test_a_run_waits_for_a_busy_gpu_that_has_its_model_if_that_is_sooner():
    running = (make_running("r", "node-a:1", ago=580.0, seconds=600.0, loads=PAINTER),)
    decision = decided(make_waiting("w", loads=PAINTER), running=running, residency=make_residency(a1="painter"))
    assert decision.admissions == {}
    hold = decision.holds["w"]
    assert hold.sentence == "Waits for GPU 1, where painter 3 is loaded: about 40 s sooner than loading it on GPU 0."
    assert hold.waits_for == ("r",)
    assert decision.look_again_at == NOW + 20 + 60, "if nothing has ended there by then, it is brought"


def test_on_several_nodes_the_sentence_names_them():
    running = (make_running("r", "node-b:0", ago=580.0, seconds=600.0, loads=PAINTER),)
    residency = make_residency("ab", b0="painter")
    hold = decided(make_waiting("w", loads=PAINTER), running=running, residency=residency, gpus=(1, 1)).holds["w"]
    assert hold.sentence.startswith("Waits for GPU 0 of node-b, where painter 3 is loaded: ")
    assert hold.sentence.endswith("sooner than loading it on GPU 0 of node-a.")


def test_it_does_not_wait_if_bringing_is_sooner_or_was_never_measured():
    for residency, left in (
        (make_residency(a1="painter"), 61.0),
        (make_residency(a1="painter", bring_seconds=None), 1.0),
        (make_residency("", a1="painter"), 1.0),  # without a host the model goes with its run
    ):
        running = (make_running("r", "node-a:1", ago=60.0, seconds=60.0 + left, loads=PAINTER),)
        assert places(decided(make_waiting("w", loads=PAINTER), running=running, residency=residency)) == {"w": ["0"]}


def test_nobody_waits_longer_for_an_estimate_that_has_passed_than_bringing_takes():
    running = (make_running("r", "node-a:1", ago=600.0, seconds=600.0, loads=PAINTER),)
    waiting, residency = make_waiting("w", loads=PAINTER), make_residency(a1="painter")
    assert decided(waiting, running=running, residency=residency, now=NOW + 59).look_again_at == NOW + 60
    assert places(decided(waiting, running=running, residency=residency, now=NOW + 60)) == {"w": ["0"]}


def test_who_waited_too_long_waits_for_no_model():
    running = (make_running("r", "node-a:1", ago=580.0, seconds=600.0, loads=PAINTER),)
    old = make_waiting("w", ago=201.0, loads=PAINTER)
    assert places(decided(old, running=running, residency=make_residency(a1="painter"))) == {"w": ["0"]}


def test_the_second_that_would_wait_counts_the_first():
    running = (make_running("r", "node-a:1", ago=580.0, seconds=600.0, loads=PAINTER),)
    waiting = [make_waiting(name, seconds=30.0, ago=ago, loads=PAINTER) for name, ago in (("first", 9), ("second", 5))]
    decision = decided(*waiting, running=running, residency=make_residency(a1="painter"), gpus=(3,))
    assert "about 40 s" in decision.holds["first"].sentence
    assert "about 10 s" in decision.holds["second"].sentence
    third = decided(
        *waiting, make_waiting("third", loads=PAINTER), running=running, residency=make_residency(a1="painter")
    )
    assert places(third) == {"third": ["0"]}


def test_a_place_that_is_promised_is_waited_for_by_nobody_else():
    running = (
        make_running("r", "node-a:1", ago=580.0, seconds=600.0, loads=PAINTER),
        make_running("q", "node-a:0", ago=580.0, seconds=600.0),
    )
    waiting = make_waiting("gang", 2, ago=101.0), make_waiting("w", loads=PAINTER)
    decision = decided(*waiting, running=running, residency=make_residency("ab", a1="painter"), gpus=(2, 1))
    assert decision.reservations[0].run_id == "gang"
    assert decision.admissions["w"].devices_on("node-b") == ("0",)


def test_a_run_that_computes_by_itself_gets_a_gpu_without_models_or_waits_until_they_have_left():
    free = decided(make_waiting("train"), residency=make_residency(a0="painter"))
    assert places(free) == {"train": ["1"]}
    assert free.evictions == ()

    waiting = make_waiting("train", 2, ago=5), make_waiting("after")
    both = decided(*waiting, residency=make_residency(a0="painter writer"))
    assert both.admissions == {}, "nobody else is put where models leave for it"
    assert both.evictions == (
        Eviction(node="node-a", device="0", models=("painter 3", "writer 1"), for_run_id="train"),
    )
    assert both.holds["train"].sentence == (
        "Starts on GPU 0 of node-a as soon as painter 3 and writer 1 have left it: the run computes by itself, and "
        "needs the room."
    )
    assert places(decided(make_waiting("train", 2), residency=make_residency())) == {"train": ["0", "1"]}


def test_models_at_work_beside_a_share_stay():
    shares = {"gpu_milli": 500}
    running = make_running("r", "node-a:0", loads=PAINTER)
    [share] = running.placement.gpus
    half = replace(running.placement, gpus=(replace(share, milli=500),))
    running = replace(running, demand=replace(running.demand, **shares), placement=half)
    waiting = make_waiting("w")
    waiting = replace(waiting, demand=replace(waiting.demand, **shares))
    decision = decided(waiting, running=(running,), residency=make_residency(a0="painter writer"), gpus=(1,))
    assert [one.models for one in decision.evictions] == [("writer 1",)]
    alone = decided(waiting, running=(running,), residency=make_residency(a0="painter"), gpus=(1,))
    assert places(alone) == {"w": ["0"]}
