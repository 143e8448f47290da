"""Runs that are held together, as others of their kind were, are held as if each had been decided on by itself."""

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from headrace.placement.decision import Decision
from headrace.placement.demand import Demand
from headrace.placement.line import Line
from headrace.placement.queueing import Preempting, plan
from headrace.placement.snapshot import Plan, Snapshot
from tests.placement.queueing_builders import NOW, make_fleet, make_running, make_waiting
from tests.placement.test_queueing_properties import FIRM, STOPPING, World

NUM_STEPS = 40


class EachByItself(Decision):
    """Sorts the queue anew, and decides on every run: many times the work, and the same plan."""

    def _may_close(self) -> bool:
        return False


class KeptWorld(World):
    """Keeps the queue's order from look to look, and compares every plan with the one that takes no short cut."""

    def __init__(self, *arguments, **fields) -> None:
        super().__init__(*arguments, **fields)
        self.line = Line()

    def decided(self) -> Plan:
        snapshot = self.snapshot()
        decision = plan(snapshot, self.policy, self.now, self.promised, self.line)
        assert decision == EachByItself(snapshot, self.policy, self.now, self.promised).plan()
        return decision


def test_who_was_overtaken_stops_a_run_though_others_of_its_kind_ahead_of_it_may_not():
    """All wait for the one GPU; `late` and `later` came after the run that holds it had started."""
    holder = make_running("holder", "node-a:0", ago=50, preemptible=True, waited_seconds=0.0, fifo_wait_seconds=9_999.0)
    waiting = [
        make_waiting(name, ago=ago, fifo_wait_seconds=fifo_wait, preemptible=True)
        for name, ago, fifo_wait in (("overtaken", 200, 250.0), ("late", 40, 35.0), ("later", 39, 34.0))
    ]
    snapshot = Snapshot(inventory=make_fleet(1), waiting=tuple(waiting), running=(holder,))
    policy = replace(FIRM, preemption=Preempting(min_run_seconds=0.0))
    decision = plan(snapshot, policy, NOW)
    assert list(decision.holds)[:2] == ["late", "later"]
    assert [(stop.run_id, stop.for_run_id) for stop in decision.preemptions] == [("holder", "overtaken")]
    assert decision == EachByItself(snapshot, policy, NOW).plan()


@given(
    seed=st.integers(0, 1_000_000),
    gangs=st.sampled_from([0.0, 0.1, 0.4]),
    stopping=st.sampled_from([True, True, True, False]),
    measured=st.booleans(),
    order=st.sampled_from(["submission", "shortest_first"]),
)
def test_a_crowd_is_decided_on_as_if_each_had_been_by_itself(seed, gangs, stopping, measured, order):
    history(
        KeptWorld(make_fleet(3, 2), replace(STOPPING if stopping else FIRM, order=order), measured=measured),
        gangs,
        seed,
    )


def history(world: World, gangs: float, seed: int) -> None:
    """More comes than there is room for, of kinds of which many are alike; most may be stopped."""
    drawn = Random(seed)
    for _ in range(NUM_STEPS):
        for _ in range(drawn.choice((0, 1, 2, 4))):
            seconds = drawn.choice((30.0, 100.0, 500.0))
            world.submit(
                Demand(num_gpus=2 if drawn.random() < gangs else 1),
                seconds,
                expected_seconds=seconds * drawn.choice((0.1, 1.0, 10.0)),
                fifo_wait_seconds=drawn.choice((5.0, 40.0, 200.0, 500.0)),
                preemptible=drawn.random() < 0.9,
                is_short=drawn.random() < 0.1,
                priority=5 if drawn.random() < 0.05 else 0,
            )
        world.step()
        world.advance(drawn.choice((1.0, 20.0, 60.0)))
