"""The gate of a copy: in which order work of three classes and of several tenants begins."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engines.host.work import Ticket
from headrace.fairness import CLASSES, WorkClass
from tests.engines.host.test_residents import Table

BESIDE = {"num_at_once": 4, "live_is_beside": True}


def begun(tickets: list[Ticket]) -> list[bool]:
    return [one.is_at_work for one in tickets]


@pytest.fixture
def table() -> Table:
    table = Table()
    table.know("a", 40, num_at_once=1)
    return table


def test_live_work_goes_first_then_flex_then_batch(table: Table) -> None:
    busy = table.enter("a")
    batch, flex, live = (table.enter("a", work_class=one) for one in ("batch", "flex", "live"))
    for expected in (live, flex, batch):
        table.leave(busy)
        assert [one for one in (batch, flex, live) if one.is_at_work] == [expected]
        busy = expected


def test_tenants_of_a_class_take_turns_by_their_weights(table: Table) -> None:
    busy = table.enter("a", tenants={"x": 1.0})
    waiting = [table.enter("a", tenants={"x": 1.0}) for _ in range(20)]
    waiting += [table.enter("a", tenants={"y": 0.5}) for _ in range(20)]
    had: Counter[str] = Counter()
    for _ in range(15):
        table.leave(busy)
        [busy] = [one for one in waiting if one.is_at_work]
        had.update(busy.costs.keys())
    assert had == {"x": 5, "y": 10}


def test_a_batch_counts_as_its_turns_for_its_tenants() -> None:
    table = Table()
    table.know("a", 40, num_at_once=8)
    busy = table.enter("a", size=8)
    large = [table.enter("a", size=8, tenants={"large": 1.0}) for _ in range(3)]
    small = [table.enter("a", size=2, tenants={"small": 1.0}) for _ in range(8)]
    table.leave(busy)
    table.leave(large[0])
    assert begun(small) == [True] * 4 + [False] * 4
    for one in small[:4]:
        table.leave(one)
    assert (begun(large), begun(small)) == ([False, True, False], [False] * 8), "both have had eight turns"


def test_work_that_is_given_up_while_it_is_at_work_lets_the_next_begin(table: Table) -> None:
    first, second = table.enter("a"), table.enter("a")
    table.leave(first, is_answered=False)
    assert second.is_at_work


def test_more_urgent_work_begins_beside_less_urgent_work_of_a_model_in_live_use() -> None:
    table = Table()
    table.know("a", 40, **BESIDE)
    table.residents.keep(["a"])
    batch, flex, live = (table.enter("a", work_class=one, size=4) for one in ("batch", "flex", "live"))
    assert begun([batch, flex, live]) == [True, True, True]
    more = [table.enter("a", work_class=one, size=4) for one in ("batch", "flex", "live")]
    assert begun(more) == [False, False, False]
    table.leave(batch)
    assert begun(more) == [False, False, False], "flex work is under way"
    table.leave(flex)
    assert begun(more) == [False, True, False]


def test_turns_of_a_batch_api_that_come_alone_are_one_piece_of_work_together() -> None:
    table = Table()
    table.know("a", 40, **BESIDE)
    table.residents.keep(["a"])
    alone = [table.enter("a") for _ in range(4)]
    assert begun(alone) == [True, True, False, False], "as many as are made together, half of what it does at once"
    rows = table.enter("a", size=4, work_class="flex")
    assert rows.is_at_work
    table.leave(alone[0])
    assert begun(alone[1:]) == [True, False, False], "flex work is under way"


@given(
    asked=st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from("xyz"), st.integers(1, 3)), max_size=30),
    lengths=st.lists(st.floats(0.1, 10.0), min_size=1, max_size=5),
)
@settings(deadline=None)
def test_nobody_is_passed_by_but_by_who_is_more_urgent_or_has_stood_back(
    asked: list[tuple[WorkClass, str, int]], lengths: list[float]
) -> None:
    table = Table()
    table.know("a", 40, num_at_once=1)
    at_work = table.enter("a")
    waiting = [table.enter("a", work_class=one, tenants={tenant: 1.0}, size=size) for one, tenant, size in asked]
    for number in range(len(asked)):
        table.now += lengths[number % len(lengths)]
        since = table.now
        table.leave(at_work)
        [at_work] = [one for one in waiting if one.is_at_work]
        waiting.remove(at_work)
        ahead = [one for one in waiting if CLASSES.index(one.work_class) < CLASSES.index(at_work.work_class)]
        if ahead:
            assert since - at_work.entered_at >= 9.0 * at_work.expected_seconds
        same = [one for one in waiting if (one.work_class, one.costs) == (at_work.work_class, at_work.costs)]
        assert all(one.number > at_work.number for one in same)
    assert not waiting


@given(length=st.floats(0.05, 4.0), rival=st.sampled_from(["live", "flex"]))
@settings(deadline=None)
def test_batch_work_begins_however_much_more_urgent_work_comes(length: float, rival: WorkClass) -> None:
    table = Table()
    table.know("a", 40, num_at_once=1)
    table.used("a", work_class="live")
    at_work = table.residents.enter("a", seconds=length, work_class=rival)
    batch = table.residents.enter("a", seconds=1.0)
    table.run()
    while not batch.is_at_work:
        following = table.residents.enter("a", seconds=length, work_class=rival)
        table.now += length
        table.leave(at_work)
        at_work = following if following.is_at_work else at_work
        assert table.now <= 9.0 + 2 * length
