"""The queue's order, kept from plan to plan, is the one that sorting everything anew gives."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from headrace.placement.demand import Demand
from headrace.placement.line import ID, Line
from headrace.placement.ordering import Shares
from headrace.placement.queueing import Preempting, QueuePolicy, plan
from headrace.placement.snapshot import Snapshot, Waiting
from headrace.placement.turnover import turnover
from tests.placement.queueing_builders import NOW, make_fleet, make_running, make_waiting

POLICY = QueuePolicy(order="shortest_first", queue_weights={"batch": 2.0}, preemption=Preempting())

numbers = st.lists(st.integers(0, 400), unique=True, max_size=300)


class Thing:
    """Equal to nothing but itself."""


THINGS = [Thing() for _ in range(401)]


@given(old=numbers, gone=st.sets(st.integers(0, 400), max_size=20), came=st.lists(st.integers(0, 400), max_size=20))
def test_what_left_and_what_came_leads_from_one_queue_to_the_next(old, gone, came):
    before = [THINGS[number] for number in old]
    after = [THINGS[number] for number in old if number not in gone]
    for place, number in enumerate(came):
        if THINGS[number] not in after:
            after.insert(place * 13 % (len(after) + 1), THINGS[number])
    changes = turnover(before, after)
    assert len(after) == len(before) - len(changes.gone) + len(changes.came)
    assert set(before) - set(after) <= set(changes.gone)
    assert changes.carried(before, changes.came) == after


def test_one_run_that_left_a_long_queue_and_one_that_came_are_all_that_changed():
    after = [*THINGS[:200], *THINGS[201:300], THINGS[400]]
    changes = turnover(THINGS[:300], after)
    assert (changes.gone, changes.came) == ([THINGS[200]], [THINGS[400]])


changes = st.lists(
    st.tuples(
        st.sampled_from(["comes", "leaves", "waits longer", "is stopped", "time passes", "time goes back"]),
        st.integers(0, 1_000_000),
    ),
    max_size=60,
)


def made(number: int) -> Waiting:
    return replace(
        make_waiting(f"r{number:07d}", gpus=1 + number % 3, ago=number % 977, seconds=60.0 + number % 7),
        priority=number % 2,
        queue=("default", "batch")[number % 5 == 0],
        preemptible=number % 3 == 0,
        is_short=number % 7 == 0,
    )


def order(line: Line) -> tuple[list[str], list[str], list[str], float | None]:
    shares = Shares(make_fleet(4))
    shares.add("default", Demand(num_gpus=1), 1000)
    return (
        [entry[ID] for entry in line.aged({"r0000001"})],
        [entry[ID] for entry in line.young(shares)],
        [entry[ID] for entry in line.short(shares)],
        line.next_age({"r0000002"}),
    )


@given(first=st.lists(st.integers(0, 1_000_000), unique=True, max_size=80), changes=changes)
def test_a_line_that_was_kept_is_the_line_of_the_same_runs_made_anew(first, changes):
    waiting = {number: made(number) for number in first}
    kept, now = Line(), NOW
    for what, number in [("", 0), *changes]:
        known = sorted(waiting)[number % len(waiting)] if waiting else None
        if what == "comes":
            waiting.setdefault(number, made(number))
        elif what.startswith("time"):
            now += number % 300 if what == "time passes" else -(number % 300)
        elif known is not None and what == "leaves":
            del waiting[known]
        elif known is not None and what == "waits longer":
            waiting[known] = waiting[known].told(waiting[known].fifo_wait_seconds * 1.5, is_short=number % 2 == 0)
        elif known is not None:
            run = waiting.pop(known, made(number))
            waiting[known] = replace(run, num_preemptions=run.num_preemptions + 1, preempted_at=now)
        kept.advance(tuple(waiting.values()), POLICY, now)
        anew = Line()
        anew.advance(tuple(waiting.values()), POLICY, now)
        assert order(kept) == order(anew)
        assert set(kept.kinds) == set(anew.kinds)
        assert {kind for _, kind in kept.young_kinds} == {kind for _, kind in anew.young_kinds}


@given(
    runs=st.lists(st.integers(0, 1_000_000), unique=True, min_size=1, max_size=60),
    ages=st.lists(st.sampled_from([0, 30, 500, 3_000]), min_size=1, max_size=6),
)
def test_a_kept_line_changes_nothing_of_what_is_decided(runs, ages):
    running = (make_running("a", "node-a:0"), make_running("b", "node-a:1", preemptible=True))
    waiting, line, now = tuple(made(number) for number in runs), Line(), NOW
    for age in ages:
        now += age
        snapshot = Snapshot(inventory=make_fleet(4, 2), waiting=waiting, running=running)
        decision = plan(snapshot, POLICY, now, (), line)
        assert decision == plan(snapshot, POLICY, now)
        waiting = tuple(run for run in waiting if run.run_id not in decision.admissions)


def test_a_told_run_differs_by_its_wait_alone():
    run = make_waiting("a", gpus=2)
    assert run.told(7.0, is_short=True) == replace(run, fifo_wait_seconds=7.0, is_short=True)
    assert run.fifo_wait_seconds != 7.0
