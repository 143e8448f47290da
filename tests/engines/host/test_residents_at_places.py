"""The table of residents over several places: copies, queues, live work before bulk work, parts, sleep."""

import pytest

from headrace.engines.host.copies import State
from headrace.engines.host.residents import Residents
from headrace.engines.host.steps import Load, Refuse, Sleep, Start, Stop, Wake
from headrace.errors import EngineUnavailable
from tests.engines.host.test_residents import Table

GPUS = ("gpu 0", "gpu 1")


@pytest.fixture
def table() -> Table:
    """Two GPUs, each with room for one model of 80 MiB."""
    return Table(accounts=dict.fromkeys(GPUS, 100))


def test_work_goes_where_its_model_is(table: Table) -> None:
    for key in ("a", "b"):
        table.know(key, 80, *GPUS, num_at_once=1)
        table.used(key)
    for _ in range(5):
        table.used("b")
        table.used("a")
    assert [one for one in table.told if one != "start"] == ["load a on gpu 0", "load b on gpu 1"]


def test_a_copy_does_as_much_at_once_as_its_engine_can(table: Table) -> None:
    table.know("a", 80, "gpu 0", num_at_once=2)
    tickets = [table.enter("a") for _ in range(3)]
    assert [one.is_at_work for one in tickets] == [True, True, False]
    table.leave(tickets[0])
    assert tickets[2].is_at_work


def test_a_batch_counts_as_its_turns_and_one_that_is_too_large_begins_alone(table: Table) -> None:
    table.know("a", 80, "gpu 0", num_at_once=8)
    large, small, single = table.enter("a", size=20), table.enter("a", size=5), table.enter("a")
    assert [one.is_at_work for one in (large, small, single)] == [True, False, False]
    table.leave(large)
    assert [one.is_at_work for one in (small, single)] == [True, True]
    another = table.enter("a", size=3)
    passes_nobody = table.enter("a", size=2)
    assert not another.is_at_work
    assert not passes_nobody.is_at_work
    table.leave(small)
    assert [one.is_at_work for one in (another, passes_nobody)] == [True, True]


def test_live_work_that_begins_in_the_middle_of_bulk_work_has_a_limit_of_its_own(table: Table) -> None:
    table.know("a", 80, "gpu 0", num_at_once=2, live_is_beside=True)
    bulk = [table.enter("a") for _ in range(3)]
    live = [table.enter("a", work_class="live") for _ in range(3)]
    assert [one.is_at_work for one in (*bulk, *live)] == [True, True, False, True, True, False]
    table.leave(live[0])
    assert live[2].is_at_work
    for one in live[1:]:
        table.leave(one)
    table.leave(bulk[0])
    assert bulk[2].is_at_work


def test_what_a_copy_does_at_once_divides_the_seconds_of_its_queue(table: Table) -> None:
    table.know("a", 80, *GPUS, num_at_once=4)
    table.used("a", seconds=20)
    table.told.clear()
    for _ in range(8):
        table.residents.enter("a", seconds=19)
        table.run()
    assert table.told == ["start"] * 4, "8 times 19 s, four at once"
    table.residents.enter("a", seconds=19, size=4)
    table.run()
    assert "load a on gpu 1" in table.told


def test_a_second_copy_comes_where_the_queue_takes_twice_as_long_as_bringing_one(table: Table) -> None:
    table.know("a", 80, *GPUS, num_at_once=1)
    table.used("a", seconds=20)
    table.told.clear()
    for _ in range(2):
        table.residents.enter("a", seconds=19)
        table.run()
    assert table.told == ["start"], "38 s for one copy"
    table.residents.enter("a", seconds=19)
    table.run()
    assert table.told == ["start", "load a on gpu 1", "start"]


def test_a_second_copy_makes_room_for_a_model_that_has_none(table: Table) -> None:
    table.know("a", 80, *GPUS, num_at_once=1)
    table.know("b", 80, *GPUS, num_at_once=1)
    table.used("a", seconds=10)
    for _ in range(4):
        table.residents.enter("a", seconds=30)
    table.run(seconds=10)
    busy = table.residents.of("a").copies
    assert set(busy) == set(GPUS)
    for _ in range(3):
        done = next(iter(busy["gpu 1"].at_work), None)
        if done is not None:
            table.leave(done)
    table.now = 5
    waiting = table.enter("b")
    assert waiting.place == "gpu 1"
    assert table.state("a", "gpu 0") is State.ON_DEVICE


def test_a_ticket_may_name_its_place(table: Table) -> None:
    table.know("a", 80, *GPUS, num_at_once=1)
    table.used("a")
    ticket = table.enter("a", only_at="gpu 1")
    assert ticket.place == "gpu 1"
    with pytest.raises(EngineUnavailable, match="a may be on gpu 0, gpu 1, and is asked for on cpu"):
        table.residents.enter("a", only_at="cpu")


def test_who_waits_long_for_a_model_without_a_copy_has_one_under_work_closed() -> None:
    table = Table(accounts={"gpu 0": 100})
    table.know("a", 80, "gpu 0", num_at_once=1)
    table.know("b", 80, "gpu 0", num_at_once=1)
    table.used("b", seconds=10)
    table.now = 100
    table.used("a", seconds=10)
    table.now = 200
    tickets = [table.enter("a") for _ in range(20)]
    waiting = table.enter("b")
    num_done = 0
    while not waiting.is_at_work:
        table.now += 10
        table.leave(tickets[num_done])
        num_done += 1
    assert num_done == 5, "four times what b's coming took, and what a did then"
    table.leave(waiting)
    assert not tickets[num_done].is_at_work, "b has just come"
    table.now += 3
    table.run()
    assert tickets[num_done].is_at_work


def test_shorter_work_passes_longer_that_came_at_most_some_times_the_difference_earlier(table: Table) -> None:
    table.know("a", 80, "gpu 0", num_at_once=1)
    busy = table.enter("a")
    long, short, middle = (table.residents.enter("a", seconds=seconds) for seconds in (40, 5, 10))
    for ticket in (short, middle):
        table.leave(busy)
        assert ticket.is_at_work
        busy = ticket
    table.now = 97
    just_in_time = table.residents.enter("a", seconds=1)
    table.now = 98
    too_late = table.residents.enter("a", seconds=1)
    for ticket in (just_in_time, long, too_late):
        table.leave(busy)
        assert ticket.is_at_work
        busy = ticket


def test_live_work_begins_before_bulk_work_that_came_earlier(table: Table) -> None:
    table.know("a", 80, "gpu 0", num_at_once=1)
    busy = table.enter("a")
    bulk = table.enter("a")
    live = table.enter("a", work_class="live")
    table.leave(busy)
    assert (live.is_at_work, bulk.is_at_work) == (True, False)


def test_bulk_work_gets_a_tenth_beside_live_work_without_end(table: Table) -> None:
    table.know("a", 80, "gpu 0", num_at_once=1)
    table.used("a")
    bulk = [table.residents.enter("a", seconds=1) for _ in range(200)]
    done = {True: 0, False: 0}
    live = [table.residents.enter("a", seconds=1, work_class="live") for _ in range(400)]
    table.run()
    for _ in range(200):
        [at_work] = [one for one in (*bulk, *live) if one.is_at_work]
        done[at_work.is_live] += 1
        table.now += 1
        table.leave(at_work)
    assert 18 <= done[False] <= 20


def test_without_a_limit_bulk_work_of_a_model_in_live_use_begins_a_piece_at_a_time() -> None:
    table = Table()
    table.know("a", 40)
    table.residents.keep(["a"])
    first, second, live = table.enter("a"), table.enter("a"), table.enter("a", work_class="live")
    assert (first.is_at_work, second.is_at_work, live.is_at_work) == (True, False, True)
    table.leave(first)
    assert second.is_at_work
    third = table.enter("a")
    assert not third.is_at_work
    table.residents.keep([])
    table.leave(live)
    assert third.is_at_work, "nobody waits for it any more"


def test_what_nobody_uses_leaves_a_place_that_is_needed_whole(table: Table) -> None:
    for key in ("used", "idle", "kept"):
        table.know(key, 30, "gpu 0")
    table.enter("used")
    table.used("idle")
    table.used("kept")
    table.residents.keep(["kept"])
    assert table.residents.empty("gpu 1") == []
    assert table.residents.empty("gpu 0") == [Stop(key="idle", place="gpu 0", why="the place is needed whole")]


def test_a_copy_that_can_sleep_and_is_not_used_sleeps_and_leaves_after_as_long_again(table: Table) -> None:
    table.know("a", 80, "gpu 0", can_sleep=True)
    table.used("a")
    for table.now in (999, 1001, 1999, 2002):
        table.run()
    assert table.told == ["load a on gpu 0", "start", "sleep a", "stop a on gpu 0"]


def test_a_kept_model_makes_no_room_for_bulk_work_and_stays_unused(table: Table) -> None:
    table.know("live", 80, "gpu 0")
    table.know("bulk", 80, "gpu 0")
    table.residents.keep(["live"])
    table.used("live")
    table.now = 5000
    table.run()
    assert table.state("live", "gpu 0") is State.ON_DEVICE
    ticket = table.residents.enter("bulk")
    table.residents.of("bulk").held_mib = 60
    [refusal] = [one for one in table.residents.next_steps() if isinstance(one, Refuse)]
    assert refusal.ticket is ticket
    assert str(refusal.error).startswith(
        "bulk needs 60 MiB, and of the 100 MiB that gpu 0 of this engine host has for models, 80 are kept for live "
        "traffic (live). Give it more (HEADRACE_ENGINE_HOST_MIB, or --memory-mib where you start it)"
    )
    table.used("bulk", work_class="live")
    assert table.state("live", "gpu 0") is State.ABSENT, "for live work, live sets' models take turns"
    table.residents.keep([])
    table.now += 100
    assert table.enter("live").is_at_work


def test_a_first_guess_beside_kept_models_is_tried_with_the_rest(table: Table) -> None:
    table.know("live", 80, "gpu 0")
    table.know("bulk", 80, "gpu 0")
    table.residents.keep(["live"])
    table.used("live")
    assert table.enter("bulk").is_at_work
    assert table.residents.reserved_mib("gpu 0") == 100


def test_parts_are_brought_to_where_the_model_is_and_shared_there(table: Table) -> None:
    table.know("base", 60, *GPUS, num_at_once=1)
    table.know("adapter", 10, *GPUS)
    table.used("base", seconds=20)
    ticket = table.enter("base", seconds=4, parts=["adapter"])
    assert ticket.is_at_work
    assert table.told[-2:] == ["load adapter on gpu 0", "start"]
    assert table.residents.of("adapter").copies["gpu 0"].at_work, "a part does not leave under work"
    table.leave(ticket)
    again = table.enter("base", parts=["adapter"])
    assert table.told[-2:] == ["start", "start"]
    table.leave(again)
    assert not table.residents.of("adapter").copies["gpu 0"].at_work


def test_work_that_gathers_its_parts_at_a_copy_that_outgrew_its_own_waits_for_another(table: Table) -> None:
    table.know("base", 40, "gpu 0", num_at_once=1)
    table.know("adapter", 10, "gpu 0")
    table.know("other", 40, "gpu 0")
    table.used("base")
    other = table.enter("other")
    ticket = table.residents.enter("base", parts=["adapter"])
    assert table.residents.next_steps() == [Load(key="adapter", place="gpu 0")]
    table.residents.measured("base", "gpu 0", 55)
    [stop] = table.residents.next_steps()
    assert (stop.key, ticket.is_at_work) == ("base", False)  # type: ignore[union-attr]
    table.residents.loaded("adapter", "gpu 0", seconds=1.0)
    assert not any(isinstance(step, Start) for step in table.residents.next_steps()), "its model is leaving"
    table.residents.gone("base", "gpu 0")
    table.leave(other)
    table.now = 100
    table.run()
    assert ticket.is_at_work


def test_work_with_parts_goes_to_the_copy_beside_them(table: Table) -> None:
    table.know("base", 60, *GPUS, num_at_once=1)
    table.know("adapter", 10, *GPUS)
    for place in GPUS:
        table.leave(table.enter("base", only_at=place))
    table.leave(table.enter("base", only_at="gpu 0", parts=["adapter"]))
    table.leave(table.enter("base", only_at="gpu 1"))
    assert table.enter("base", parts=["adapter"]).place == "gpu 0"


def test_a_part_makes_room_among_the_parts_that_rest(table: Table) -> None:
    table.know("base", 60, "gpu 0", num_at_once=1)
    for key in ("one", "two", "three"):
        table.know(key, 20, "gpu 0")
        table.leave(table.enter("base", parts=[key], seconds=0))
    assert [one for one in table.told if one != "start"] == [
        "load base on gpu 0",
        "load one on gpu 0",
        "load two on gpu 0",
        "stop one on gpu 0",
        "load three on gpu 0",
    ]


def test_work_whose_parts_never_fit_beside_its_model_is_refused(table: Table) -> None:
    table.know("base", 60, "gpu 0")
    table.know("adapter", 50, "gpu 0")
    ticket = table.enter("base", parts=["adapter"])
    assert ticket.is_over
    assert table.told[-1].startswith(
        "refuse: adapter needs 50 MiB beside the 60 MiB of what it is used with, and gpu 0 of this engine host has 100"
    )
    assert not table.residents.of("base").copies["gpu 0"].at_work


def test_a_copy_that_can_sleep_sleeps_for_another_and_wakes_for_its_work(table: Table) -> None:
    table.know("a", 60, "gpu 0", can_sleep=True)
    table.know("b", 60, "gpu 0", can_sleep=True)
    table.used("a", seconds=10)
    table.now = 100
    table.used("b", seconds=10)
    assert table.told[-3:] == ["sleep a", "load b on gpu 0", "start"]
    assert table.state("a", "gpu 0") is State.ASLEEP
    assert table.residents.reserved_mib("gpu 0") == 60 + 5 + 16
    table.now = 200
    table.used("a", seconds=2)
    assert table.told[-3:] == ["sleep b", "wake a", "start"]
    assert table.residents.of("a").wake_seconds == 2


def test_a_process_that_sleeps_does_not_end_where_one_that_wakes_could_sleep_later() -> None:
    """One wakes, three sleep, and the next one's room could be had of two of those, or of the one that wakes."""
    table = Table(accounts={"gpu 0": 130})
    for key in "abcd":
        table.know(key, 40, "gpu 0", can_sleep=True)
        table.used(key, seconds=100)
        table.now += 60
    residents = table.residents
    first = residents.enter("a")
    is_waking = False
    while steps := residents.next_steps():
        for step in steps:
            assert isinstance(step, Sleep | Wake)
            if isinstance(step, Wake):
                is_waking = True
            else:
                residents.measured(step.key, "gpu 0", 5)
                residents.asleep(step.key, "gpu 0")
    assert is_waking
    second = residents.enter("b")
    assert residents.next_steps() == [], "it waits"
    residents.awake("a", "gpu 0", seconds=1.0)
    told = len(table.told)
    table.run()
    table.leave(first)
    table.now += 10
    table.run()
    assert second.is_at_work
    assert table.told[told:] == ["start", "sleep a", "wake b", "start"]


def test_what_sleeps_on_a_gpu_has_its_part_of_the_machines_memory_and_leaves_where_that_has_none() -> None:
    table = Table(accounts={"cpu": 100, "gpu 0": 100}, home="cpu")
    for key in ("a", "b"):
        table.know(key, 60, "gpu 0", can_sleep=True)
        table.used(key, seconds=10)
        table.now += 100
    assert table.told[-3:] == ["sleep a", "load b on gpu 0", "start"]
    assert table.residents.reserved_mib("cpu") == 30 + 16
    table.know("c", 50, can_sleep=True)
    table.used("c", seconds=10)
    table.now += 100
    table.used("a")
    assert table.told[-3:] == ["stop b on gpu 0", "wake a", "start"], "the machine has no 60 MiB for what b would hold"
    assert table.residents.reserved_mib("cpu") == 50


def test_what_sleeps_on_a_gpu_leaves_for_a_model_that_needs_the_machines_memory() -> None:
    table = Table(accounts={"cpu": 100, "gpu 0": 100}, home="cpu")
    table.know("a", 60, "gpu 0", can_sleep=True)
    table.used("a")
    table.now = 1001
    table.run()
    assert table.told[-1] == "sleep a"
    table.know("b", 80)
    table.used("b")
    assert table.told[-3:] == ["stop a on gpu 0", "load b", "start"]


def test_a_process_that_sleeps_does_not_end_where_others_may_sleep_instead() -> None:
    table = Table(accounts={"gpu 0": 130})
    for key in ("a", "b", "c"):
        table.know(key, 60, "gpu 0", can_sleep=True)
        table.used(key, seconds=10)
        table.now += 41
    for key in ("a", "b", "a"):
        table.used(key, seconds=2)
        table.now += 9
    assert table.state("b", "gpu 0") is table.state("c", "gpu 0") is State.ASLEEP
    busy = table.enter("a")
    waiting = table.enter("b", seconds=2)
    assert not waiting.is_at_work
    assert table.state("c", "gpu 0") is State.ASLEEP, "its process would be missed for 10 s"
    table.leave(busy)
    table.now += 1
    table.run(seconds=2)
    assert waiting.is_at_work, "a has rested for a quarter of what its waking took"
    assert table.told[-3:] == ["sleep a", "wake b", "start"]


def test_who_waits_for_a_model_that_sleeps_has_one_under_work_closed_after_four_wakings() -> None:
    table = Table(accounts={"gpu 0": 120})
    for key in ("a", "b", "a", "b"):
        if key not in table.facts:
            table.know(key, 70, "gpu 0", num_at_once=1, can_sleep=True)
        table.used(key, seconds=10 if not table.residents.of(key).num_loads else 2)
        table.now += 100
    tickets = [table.enter("b") for _ in range(20)]
    waiting = table.enter("a")
    num_done = 0
    while not waiting.is_at_work:
        table.now += 2
        table.leave(tickets[num_done])
        table.run(seconds=2)
        num_done += 1
    assert num_done == 4 + 1, "four times 2 s, and what b did then"


def test_one_that_sleeps_leaves_where_even_its_rest_is_in_the_way(table: Table) -> None:
    table.know("a", 80, "gpu 0", can_sleep=True)
    table.know("b", 98, "gpu 0")
    table.used("a", seconds=10)
    table.now = 100
    table.used("b", seconds=10)
    assert table.state("a", "gpu 0") is State.ABSENT
    assert table.state("b", "gpu 0") is State.ON_DEVICE


def test_a_look_at_many_that_wait_is_no_look_at_all_of_them() -> None:
    """10,000 pieces of work of 100 models at 8 places: a step looks at models and copies, not at work."""
    table = Table(accounts={f"gpu {number}": 100 for number in range(8)})
    for number in range(100):
        table.know(str(number), 80, *table.accounts, num_at_once=1)
    for number in range(10_000):
        table.residents.enter(str(number % 100))
    table.run(seconds=20)
    assert table.told.count("start") == 8
    table.told.clear()
    residents: Residents = table.residents
    [busy] = residents.of("0").copies.values()
    residents.leave(next(iter(busy.at_work)), is_answered=True)
    assert [type(step) for step in residents.next_steps()] == [Start]
    assert residents.next_steps() == []
