"""The table of residents: who comes, who waits, who leaves; and what holds whatever happens."""

from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from headrace.engines.host.residents import Load, Refuse, Residents, Sleep, Start, State, Stop, Ticket, Wake
from headrace.errors import EngineUnavailable, InvalidInput

PLACES = {"cpu": 100, "gpu": 60}
KEYS = {"a": ("cpu", 40), "b": ("cpu", 40), "c": ("cpu", 70), "d": ("gpu", 50), "e": ("gpu", 90)}


@dataclass
class Table:
    """A table whose processes do at once what they are told, unless a test does it itself."""

    accounts: dict[str, int] = field(default_factory=lambda: dict(PLACES))
    idle_seconds: float = 1000.0
    can_sleep: bool = False
    now: float = 0.0

    def __post_init__(self) -> None:
        self.residents = Residents(lambda: self.now, self.accounts, idle_seconds=self.idle_seconds)
        self.told: list[str] = []

    def know(self, key: str, mib: int, place: str = "cpu") -> None:
        self.residents.know(key, place=place, label=key, guess_mib=mib)

    def enter(self, key: str, *, seconds: float = 1.0, is_live: bool = False) -> Ticket:
        ticket = self.residents.enter(key, is_live=is_live)
        self.run(seconds=seconds)
        return ticket

    def leave(self, ticket: Ticket, *, is_answered: bool = True) -> None:
        self.residents.leave(ticket, is_answered=is_answered)
        self.run()

    def used(self, key: str, *, times: int = 1, seconds: float = 1.0) -> None:
        for _ in range(times):
            ticket = self.enter(key, seconds=seconds)
            assert ticket.is_at_work
            self.leave(ticket)

    def run(self, *, seconds: float = 1.0) -> None:
        while steps := self.residents.next_steps():
            for step in steps:
                match step:
                    case Load(key=key):
                        self.told.append(f"load {key}")
                        self.residents.measured(key, self.residents.of(key).reserved_mib)
                        self.residents.told(key, can_sleep=self.can_sleep)
                        self.residents.loaded(key, seconds=seconds)
                    case Sleep(key=key):
                        self.told.append(f"sleep {key}")
                        self.residents.slept(key, "cpu", mib=5)
                    case Wake(key=key):
                        self.told.append(f"wake {key}")
                        self.residents.measured(key, self.residents.of(key).reserved_mib)
                        self.residents.woken(key, "cpu", seconds=seconds)
                    case Stop(key=key):
                        self.told.append(f"stop {key}")
                        self.residents.gone(key)
                    case Start():
                        self.told.append("start")
                    case Refuse(error=error):
                        self.told.append(f"refuse: {error}")


@pytest.fixture
def table() -> Table:
    return Table()


def test_a_model_comes_once_for_all_who_ask(table: Table) -> None:
    table.know("a", 40)
    table.used("a", times=3)
    assert [one for one in table.told if one != "start"] == ["load a"]
    assert table.residents.of("a").num_hits == 3


def test_models_that_fit_stay_beside_each_other(table: Table) -> None:
    for key in ("a", "b"):
        table.know(key, 40)
        table.used(key)
    assert table.residents.reserved_mib("cpu") <= 100
    assert {one.state for one in table.residents.all()} == {State.ON_DEVICE}


def test_a_model_without_room_waits_until_another_is_idle_and_has_stayed(table: Table) -> None:
    table.know("a", 80)
    table.know("b", 80)
    busy = table.enter("a", seconds=10)
    waiting = table.enter("b")
    assert not waiting.is_at_work
    table.leave(busy)
    assert not waiting.is_at_work, "a has just come: it stays for four times what its coming took"
    table.now = 39
    table.run()
    assert not waiting.is_at_work
    table.now = 40
    table.run()
    assert waiting.is_at_work
    assert table.told[-3:] == ["stop a", "load b", "start"]


def test_work_that_came_later_does_not_keep_a_model_that_must_make_room(table: Table) -> None:
    table.know("a", 80)
    table.know("b", 80)
    busy = table.enter("a", seconds=1)
    table.now = 10
    waiting = table.enter("b")
    later = table.enter("a")
    assert (waiting.is_at_work, later.is_at_work) == (False, False)
    table.leave(busy)
    assert waiting.is_at_work
    assert not later.is_at_work


def test_the_cheapest_to_miss_leaves_first(table: Table) -> None:
    for key, mib in (("dear", 40), ("cheap", 40)):
        table.know(key, mib)
    table.used("dear", times=5, seconds=20)
    table.used("cheap", times=1, seconds=1)
    table.know("new", 50)
    table.now = 200
    table.used("new")
    assert table.residents.of("cheap").state is State.ABSENT
    assert table.residents.of("dear").state is State.ON_DEVICE


def test_use_long_ago_counts_less() -> None:
    table = Table(idle_seconds=10_000)
    for key in ("once", "now"):
        table.know(key, 40)
    table.used("once", times=8)
    table.now = 6000
    table.used("now", times=2)
    assert [one.key for one in table.residents.next_out("cpu")] == ["once", "now"]


def test_a_model_that_cannot_come_is_told_to_all_and_tried_anew_after_longer_and_longer_pauses(table: Table) -> None:
    table.know("a", 40)
    times = []
    for seconds in (0, 10, 29, 30, 31, 89, 90):
        table.now = seconds
        ticket = table.residents.enter("a")
        steps = table.residents.next_steps()
        if steps == [Load(key="a")]:
            times.append(seconds)
            table.residents.not_loaded("a", InvalidInput("no such voice"))
            steps = table.residents.next_steps()
        assert [str(step.error) for step in steps if isinstance(step, Refuse)] == ["no such voice"]
        assert ticket.is_over
    assert times == [0, 30, 90]


def test_a_model_that_is_larger_than_its_place_is_refused_with_its_size(table: Table) -> None:
    table.know("a", 40)
    table.residents.enter("a")
    assert table.residents.next_steps() == [Load(key="a")]
    table.residents.measured("a", 120)
    [stop] = table.residents.next_steps()
    assert stop == Stop(key="a", why="holds 120 MiB, and its part is 40 MiB", at_once=True)
    table.residents.not_loaded("a", EngineUnavailable("killed"))
    [refusal] = table.residents.next_steps()
    assert isinstance(refusal, Refuse)
    assert "needs more than 120 MiB, and cpu of this engine host has 100 MiB" in str(refusal.error)


def test_a_model_that_grows_gets_more_of_the_account_while_there_is_some(table: Table) -> None:
    table.know("a", 40)
    table.know("b", 40)
    busy = table.enter("a")
    table.residents.measured("a", 55)
    assert table.residents.next_steps() == []
    table.enter("b")
    table.residents.measured("a", 65)
    assert [(step.key, step.at_once) for step in table.residents.next_steps() if isinstance(step, Stop)] == [
        ("a", True)
    ]
    assert busy.is_at_work, "whoever asked it learns from the end of its process"


def test_a_model_that_outgrew_its_part_comes_again_with_a_larger_one(table: Table) -> None:
    table.know("a", 40)
    table.know("b", 50)
    table.used("b")
    ticket = table.residents.enter("a")
    assert table.residents.next_steps() == [Load(key="a")]
    table.residents.measured("a", 60)
    table.now = 100
    assert [type(step) for step in table.residents.next_steps()] == [Stop]
    table.residents.not_loaded("a", EngineUnavailable("killed"))
    table.run()
    assert ticket.is_at_work
    assert table.residents.of("a").reserved_mib >= 60
    assert table.residents.of("b").state is State.ABSENT


def test_a_model_whose_process_dies_again_and_again_counts_as_one_that_cannot_come(table: Table) -> None:
    table.know("a", 40)
    for _ in range(3):
        ticket = table.enter("a")
        assert ticket.is_at_work
        table.residents.gone("a")
        table.leave(ticket, is_answered=False)
    table.enter("a")
    assert table.told[-1].startswith("refuse: The process of a has ended 3 times in a row without an answer")


def test_a_model_that_nobody_asks_for_leaves(table: Table) -> None:
    table.know("a", 40)
    table.used("a")
    table.now = 999
    table.run()
    assert table.residents.of("a").state is State.ON_DEVICE
    table.now = 1001
    table.run()
    assert table.residents.of("a").state is State.ABSENT


def test_a_model_that_can_sleep_sleeps_before_it_leaves_and_keeps_only_what_its_process_holds() -> None:
    table = Table(can_sleep=True)
    table.know("a", 40)
    table.used("a")
    table.now = 1001
    table.run()
    assert (table.residents.of("a").state, table.residents.reserved_mib("cpu")) == (State.ASLEEP, 5)
    table.used("a", seconds=0.1)
    assert table.residents.of("a").wake_seconds == 0.1
    assert table.residents.of("a").num_loads == 1
    table.now = 2002
    table.run()
    table.now = 3003
    table.run()
    told = [one for one in table.told if one != "start"]
    assert told == ["load a", "sleep a", "wake a", "sleep a", "stop a"]


def test_idle_models_sleep_to_make_room_and_leave_only_where_that_is_too_little() -> None:
    table = Table(can_sleep=True)
    for key, mib in (("a", 40), ("b", 40), ("c", 60), ("d", 95)):
        table.know(key, mib)
    for seconds, key in enumerate(("a", "b", "c", "a")):
        table.now = 100.0 * seconds
        table.used(key)
    table.now = 500
    table.used("d")
    told = [one for one in table.told if one != "start"]
    assert told[:7] == ["load a", "load b", "sleep a", "sleep b", "load c", "sleep c", "wake a"]
    assert sorted(told[7:-1]) == ["stop a", "stop b", "stop c"]
    assert told[-1] == "load d"


def test_live_work_goes_first_but_not_before_bulk_work_that_has_waited_a_minute(table: Table) -> None:
    table.know("a", 80)
    busy = table.enter("a", seconds=0)
    for key in ("old", "bulk", "live"):
        table.know(key, 80)
    old = table.enter("old")
    table.now = 61
    bulk, live = table.enter("bulk"), table.enter("live", is_live=True)
    table.leave(busy)
    assert (old.is_at_work, bulk.is_at_work, live.is_at_work) == (True, False, False)
    table.now = 70
    table.leave(old)
    assert (bulk.is_at_work, live.is_at_work) == (False, True)


def test_what_a_live_service_keeps_makes_no_room_for_bulk_work_and_does_not_leave_by_itself(table: Table) -> None:
    table.know("kept", 60)
    table.used("kept")
    table.residents.keep({"kept", "not known yet"})
    table.know("other", 60)
    table.now = 5000
    bulk = table.enter("other")
    assert table.residents.of("kept").state is State.ON_DEVICE
    assert bulk.is_at_work, "what it is guessed to need may be too much: it is tried in what is left"
    assert table.residents.of("other").reserved_mib == 40
    table.residents.measured("other", 60)
    table.run()
    assert table.residents.of("kept").state is State.ON_DEVICE
    again = table.residents.enter("other")
    table.run()
    assert again.is_over
    assert "live services keep all but 40. Give it more (--memory-mib)" in table.told[-1]
    live = table.enter("other", is_live=True)
    assert live.is_at_work, "live work of another service takes turns with it"
    assert table.residents.of("kept").state is State.ABSENT


def test_bulk_work_of_a_model_that_is_kept_is_let_in_a_piece_at_a_time(table: Table) -> None:
    table.know("a", 40)
    table.residents.keep({"a"})
    first, second, live = table.enter("a"), table.enter("a"), table.enter("a", is_live=True)
    assert (first.is_at_work, second.is_at_work, live.is_at_work) == (True, False, True)
    table.leave(first)
    assert second.is_at_work
    third = table.enter("a")
    assert not third.is_at_work
    table.residents.keep(())
    table.leave(live)
    assert third.is_at_work, "nobody waits for it any more"


def test_memory_that_others_hold_is_not_given_away_but_a_model_alone_is_tried() -> None:
    table, free = Table(), [30]
    table.residents = Residents(lambda: table.now, PLACES, idle_seconds=1000, available_mib=lambda place: free[0])
    table.know("a", 40)
    table.know("b", 40)
    busy = table.enter("a")
    assert busy.is_at_work, "nothing of the host's own would come free"
    table.now = 100
    waiting = table.enter("b")
    assert not waiting.is_at_work
    free[0] = 45
    table.run()
    assert waiting.is_at_work
    assert table.residents.of("a").state is State.ON_DEVICE


def test_a_place_without_an_account_is_refused(table: Table) -> None:
    with pytest.raises(EngineUnavailable, match="This engine host has cpu, gpu, and a is asked for on tpu"):
        table.know("a", 40, place="tpu")


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: nothing is promised twice, no work is cut off, and nobody waits forever."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.table = Residents(lambda: self.now, PLACES, idle_seconds=50.0)
        self.loading: set[str] = set()
        self.alive: set[str] = set()
        self.leaving: set[str] = set()
        # Told to sleep, and asleep.
        self.dozing: set[str] = set()
        self.sleeping: set[str] = set()
        self.open: set[Ticket] = set()
        self.at_once: set[str] = set()
        for key, (place, mib) in KEYS.items():
            self.table.know(key, place=place, label=key, guess_mib=mib)

    @rule(target=tickets, key=st.sampled_from(sorted(KEYS)), is_live=st.booleans())
    def asks(self, key: str, is_live: bool) -> Ticket:
        ticket = self.table.enter(key, is_live=is_live)
        self.open.add(ticket)
        self.do()
        return ticket

    @rule(ticket=consumes(tickets), is_answered=st.booleans())
    def is_done_or_gives_up(self, ticket: Ticket, is_answered: bool) -> None:
        self.finish(ticket, is_answered=is_answered)

    @rule(keys=st.sets(st.sampled_from(sorted(KEYS)), max_size=2))
    def are_kept(self, keys: set[str]) -> None:
        self.table.keep(keys)
        self.do()

    @precondition(lambda self: self.dozing)
    @rule(data=st.data())
    def sleeps(self, data: st.DataObject) -> None:
        self.doze(data.draw(st.sampled_from(sorted(self.dozing))))

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), seconds=st.floats(0, 5))
    def is_loaded(self, data: st.DataObject, seconds: float) -> None:
        self.load(data.draw(st.sampled_from(sorted(self.loading))), seconds)

    @precondition(lambda self: self.loading)
    @rule(data=st.data())
    def cannot_be_loaded(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.loading)))
        self.loading.discard(key)
        self.table.not_loaded(key, EngineUnavailable("no"))
        self.do()

    @precondition(lambda self: self.alive | self.sleeping | self.dozing)
    @rule(data=st.data())
    def is_killed(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.alive | self.sleeping | self.dozing))))

    @precondition(lambda self: self.leaving)
    @rule(data=st.data())
    def has_left(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.leaving))))

    @precondition(lambda self: self.alive | self.loading)
    @rule(data=st.data(), mib=st.integers(1, 80))
    def is_measured(self, data: st.DataObject, mib: int) -> None:
        self.table.measured(data.draw(st.sampled_from(sorted(self.alive | self.loading))), mib)
        self.do()

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.do()

    @invariant()
    def nothing_is_promised_twice(self) -> None:
        for place, mib in PLACES.items():
            assert self.table.reserved_mib(place) <= mib
        for resident in self.table.all():
            assert (resident.reserved_mib == 0) == (resident.state is State.ABSENT)
            assert (resident.key in self.alive) == (resident.state is State.ON_DEVICE)

    def do(self) -> None:
        while steps := self.table.next_steps():
            for step in steps:
                self.did(step)

    def did(self, step: object) -> None:
        match step:
            case Load(key=key):
                there = self.loading | self.alive | self.leaving | self.dozing | self.sleeping
                assert key not in there, "a model is never there twice"
                self.loading.add(key)
            case Sleep(key=key):
                assert not self.table.of(key).at_work, "none sleeps under work"
                self.alive.remove(key)
                self.dozing.add(key)
            case Wake(key=key):
                self.sleeping.remove(key)
                self.loading.add(key)
            case Stop(key=key, at_once=at_once):
                assert at_once or not self.table.of(key).at_work, "none goes under work"
                # One that is told to end while it loads ends as one that cannot be loaded.
                if key in self.alive | self.sleeping:
                    self.alive.discard(key)
                    self.sleeping.discard(key)
                    self.leaving.add(key)
            case Start(ticket=ticket):
                assert ticket in self.open
                assert ticket.key in self.alive
            case Refuse(ticket=ticket):
                self.open.remove(ticket)

    def load(self, key: str, seconds: float) -> None:
        self.loading.discard(key)
        if self.table.of(key).state is State.LEAVING:
            self.table.not_loaded(key, EngineUnavailable("killed"))
        else:
            self.table.told(key, can_sleep=key in ("a", "d"))
            self.table.loaded(key, seconds=seconds)
            self.alive.add(key)
        self.do()

    def doze(self, key: str) -> None:
        self.dozing.discard(key)
        self.table.slept(key, KEYS[key][0], mib=2)
        self.sleeping.add(key)
        self.do()

    def end(self, key: str) -> None:
        for some in (self.alive, self.leaving, self.sleeping, self.dozing):
            some.discard(key)
        self.table.gone(key)
        self.do()

    def finish(self, ticket: Ticket, *, is_answered: bool) -> None:
        if not ticket.is_over:
            self.open.discard(ticket)
            self.table.leave(ticket, is_answered=is_answered)
            self.do()

    def teardown(self) -> None:
        """Once everything that is told happens, and work ends, nobody waits."""
        for _ in range(200):
            for key in sorted(self.loading):
                self.load(key, 1.0)
            for key in sorted(self.dozing):
                self.doze(key)
            for key in sorted(self.leaving):
                self.end(key)
            for ticket in [one for one in self.open if one.is_at_work]:
                self.finish(ticket, is_answered=True)
            self.now += 30
            self.do()
        assert not self.open, "somebody waits forever"


TestAnyOrder = AnyOrder.TestCase
