"""The table of residents: who comes, who waits, who leaves; and what holds whatever happens."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from headrace.engines.host.copies import Figures, State
from headrace.engines.host.residents import Residents
from headrace.engines.host.steps import Load, Refuse, Sleep, Start, Stop, Wake
from headrace.engines.host.work import Ticket
from headrace.errors import EngineUnavailable, InvalidInput

PLACES = {"cpu": 100, "gpu": 60}


@dataclass
class Table:
    """A table whose processes do at once what they are told, unless a test does it itself."""

    accounts: dict[str, int] = field(default_factory=lambda: dict(PLACES))
    idle_seconds: float = 1000.0
    now: float = 0.0
    home: str | None = None
    remembered: dict[str, Figures] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.residents = Residents(
            lambda: self.now,
            self.accounts,
            idle_seconds=self.idle_seconds,
            home=self.home,
            remembered=self.remembered,
        )
        self.told: list[str] = []
        self.facts: dict[str, Any] = {}

    def know(self, key: str, mib: int, *places: str, **facts: Any) -> None:
        """`facts`: as `Residents.loaded` takes them."""
        self.residents.know(key, places=places or ("cpu",), label=key, guess_mib=mib)
        self.facts[key] = facts

    def enter(self, key: str, *, seconds: float = 1.0, **asked: Any) -> Ticket:
        """`seconds`: what coming or waking takes, if it must."""
        ticket = self.residents.enter(key, **asked)
        self.run(seconds=seconds)
        return ticket

    def measure(self, key: str, place: str) -> None:
        """What has come is as large as it was guessed to be, as far as it was given a part."""
        model = self.residents.of(key)
        self.residents.measured(key, place, min(model.guess_mib, model.copies[place].reserved_mib))

    def state(self, key: str, place: str = "cpu") -> State:
        return self.residents.state(key, place)

    def leave(self, ticket: Ticket, *, is_answered: bool = True) -> None:
        self.residents.leave(ticket, is_answered=is_answered)
        self.run()

    def used(self, key: str, *, times: int = 1, seconds: float = 1.0, **asked: Any) -> None:
        for _ in range(times):
            ticket = self.enter(key, seconds=seconds, **asked)
            assert ticket.is_at_work
            # As a host does at the end of each turn of a model whose part is rough still.
            if self.residents.has_rough_part(key, ticket.place):
                self.measure(key, ticket.place)
            self.leave(ticket)

    def run(self, *, seconds: float = 1.0) -> None:
        while steps := self.residents.next_steps():
            for step in steps:
                match step:
                    case Load(key=key, place=place):
                        self.told.append(f"load {key}" + (f" on {place}" if place != "cpu" else ""))
                        self.measure(key, place)
                        self.residents.loaded(key, place, seconds=seconds, **self.facts[key])
                    case Stop(key=key, place=place):
                        self.told.append(f"stop {key}" + (f" on {place}" if place != "cpu" else ""))
                        self.residents.gone(key, place)
                    case Sleep(key=key, place=place):
                        self.told.append(f"sleep {key}")
                        self.residents.measured(key, place, 5)
                        self.residents.asleep(key, place, home_mib=30)
                    case Wake(key=key, place=place):
                        self.told.append(f"wake {key}")
                        self.residents.awake(key, place, seconds=seconds)
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


def test_what_a_copy_gives_back_after_its_first_work_is_to_be_measured_before(table: Table) -> None:
    table.know("a", 90)
    ticket = table.enter("a")
    table.residents.of("a").own_mib = 30
    assert table.residents.has_rough_part("a", "cpu")
    table.residents.measured("a", "cpu", 50)
    table.leave(ticket)
    assert table.residents.reserved_mib("cpu") == 50 + 2 + 16
    assert not table.residents.has_rough_part("a", "cpu")


def test_a_first_guess_stands_until_the_model_has_answered(table: Table) -> None:
    """Mapped weights are in memory once they were used: what has come is not as large as it will be."""
    table.know("a", 80, can_sleep=True)
    ticket = table.enter("a")
    table.residents.of("a").own_mib = table.residents.of("a").held_mib = 30
    table.leave(ticket, is_answered=False)
    assert table.residents.reserved_mib("cpu") == 80
    table.leave(table.enter("a"))
    assert table.residents.reserved_mib("cpu") == 30 + 1 + 16


def test_what_a_model_holds_as_it_comes_is_promised_until_it_has_answered_and_again_when_it_comes_again(
    table: Table,
) -> None:
    """The writer that lays its matrices anew holds two of each for a moment, which no look need have seen."""
    table.know("a", 90)
    ticket = table.residents.enter("a")
    assert table.residents.next_steps() == [Load(key="a", place="cpu")]
    table.residents.measured("a", "cpu", 30, most_mib=70)
    table.residents.loaded("a", "cpu", seconds=1.0)
    table.run()
    table.residents.measured("a", "cpu", 30, most_mib=35)
    table.leave(ticket)
    kept = 35 + 1 + 16
    assert table.residents.reserved_mib("cpu") == kept, "the coming is past, and a turn takes 5 more"
    table.know("b", 100 - kept)
    table.used("b")
    table.residents.gone("a", "cpu")
    table.residents.enter("a")
    assert table.residents.next_steps() == [], "it would be over the account as it comes"
    table.residents.gone("b", "cpu")
    assert table.residents.next_steps() == [Load(key="a", place="cpu")]
    assert table.residents.reserved_mib("cpu") == 70 + 3 + 16


@pytest.mark.parametrize(
    ("figures", "as_it_comes", "from_then_on"),
    [
        (Figures(coming_mib=60, held_mib=50, num_worked=3), 60 + 3 + 16, 50 + 2 + 16),
        (Figures(held_mib=120), 100, 20 + 1 + 16),
    ],
    ids=["both figures", "one wild turn, more than the place has"],
)
def test_a_later_table_promises_what_an_earlier_one_saw_though_the_first_turn_is_a_short_one(
    figures: Figures, as_it_comes: int, from_then_on: int
) -> None:
    table = Table(remembered={"a": figures})
    table.know("a", 90)
    ticket = table.residents.enter("a")
    assert table.residents.next_steps() == [Load(key="a", place="cpu")]
    assert table.residents.reserved_mib("cpu") == as_it_comes
    table.residents.loaded("a", "cpu", seconds=1.0)
    table.run()
    table.residents.measured("a", "cpu", 20)
    table.leave(ticket)
    assert table.residents.reserved_mib("cpu") == from_then_on
    assert table.residents.remembered()["a"].coming_mib >= figures.coming_mib


def test_a_moment_over_a_part_ends_a_model_at_work_and_none_that_comes(table: Table) -> None:
    for key, mib in (("a", 40), ("b", 60)):
        table.know(key, mib)
    table.used("b")
    ticket = table.residents.enter("a")
    assert table.residents.next_steps() == [Load(key="a", place="cpu")]
    table.residents.measured("a", "cpu", 30, most_mib=60)
    assert table.residents.next_steps() == [], "what it held is past"
    table.residents.loaded("a", "cpu", seconds=1.0)
    table.run()
    assert ticket.is_at_work
    table.residents.measured("a", "cpu", 30, most_mib=60)
    [stop] = table.residents.next_steps()
    assert stop == Stop(key="a", place="cpu", why="holds 60 MiB, and its part is 40 MiB", at_once=True)


def test_models_that_fit_stay_beside_each_other(table: Table) -> None:
    for key in ("a", "b"):
        table.know(key, 40)
        table.used(key)
    assert table.residents.reserved_mib("cpu") <= 100
    assert (table.state("a"), table.state("b")) == (State.ON_DEVICE, State.ON_DEVICE)


def test_a_model_without_room_waits_until_another_is_idle_and_has_stayed(table: Table) -> None:
    table.know("a", 80)
    table.know("b", 80)
    busy = table.enter("a", seconds=10)
    waiting = table.enter("b")
    assert not waiting.is_at_work
    table.leave(busy)
    assert not waiting.is_at_work, "a has just come, and may be between two pieces of work"
    table.now = 2.4
    table.run()
    assert not waiting.is_at_work
    table.now = 2.5
    table.run()
    assert waiting.is_at_work
    assert table.told[-3:] == ["stop a", "load b", "start"]


def test_a_model_that_is_used_again_and_again_stays_four_times_what_its_coming_took(table: Table) -> None:
    table.know("a", 80)
    table.know("b", 80)
    busy, waiting = table.enter("a", seconds=10), table.enter("b")
    for table.now in range(1, 40):
        table.leave(busy)
        assert not waiting.is_at_work
        busy = table.enter("a")
        assert busy.is_at_work
    table.now = 40
    table.leave(busy)
    assert waiting.is_at_work


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
    assert table.state("cheap") is State.ABSENT
    assert table.state("dear") is State.ON_DEVICE


def test_use_long_ago_counts_less() -> None:
    table = Table(idle_seconds=10_000)
    for key in ("once", "now"):
        table.know(key, 40)
    table.used("once", times=8)
    table.now = 6000
    table.used("now", times=2)
    assert [one.model.key for one in table.residents.next_out("cpu")] == ["once", "now"]


def test_a_model_that_cannot_come_is_told_to_all_and_tried_anew_after_longer_and_longer_pauses(table: Table) -> None:
    table.know("a", 40)
    times = []
    for seconds in (0, 10, 29, 30, 31, 89, 90):
        table.now = seconds
        ticket = table.residents.enter("a")
        steps = table.residents.next_steps()
        if steps == [Load(key="a", place="cpu")]:
            times.append(seconds)
            table.residents.not_loaded("a", "cpu", InvalidInput("no such voice"))
            steps = table.residents.next_steps()
        assert [str(step.error) for step in steps if isinstance(step, Refuse)] == ["no such voice"]
        assert ticket.is_over
    assert times == [0, 30, 90]


def test_a_model_that_is_larger_than_its_place_is_refused_with_its_size(table: Table) -> None:
    table.know("a", 40)
    table.residents.enter("a")
    assert table.residents.next_steps() == [Load(key="a", place="cpu")]
    table.residents.measured("a", "cpu", 120)
    [stop, refusal] = table.residents.next_steps()
    assert stop == Stop(key="a", place="cpu", why="holds 120 MiB, and its part is 40 MiB", at_once=True)
    table.residents.not_loaded("a", "cpu", EngineUnavailable("killed"))
    assert table.residents.next_steps() == []
    assert isinstance(refusal, Refuse)
    assert "needs more than 120 MiB, and cpu of this engine host has 100 MiB" in str(refusal.error)


def test_a_model_that_was_larger_than_its_place_once_is_tried_anew_after_longer_and_longer_pauses(table: Table) -> None:
    table.know("a", 40)
    times = []
    for seconds in (0, 29, 30, 31, 89, 90, 91):
        table.now = seconds
        table.residents.enter("a")
        steps = table.residents.next_steps()
        if steps == [Load(key="a", place="cpu")]:
            times.append(seconds)
            table.residents.loaded("a", "cpu", seconds=1.0)
            table.residents.measured("a", "cpu", 120)
            steps = table.residents.next_steps()
            table.residents.gone("a", "cpu")
            steps += table.residents.next_steps()
        assert sum(isinstance(step, Refuse) for step in steps) <= 1
        assert not table.residents.next_steps()
    assert times == [0, 30, 90]
    table.now = 1000
    table.used("a")
    assert table.state("a") is State.ON_DEVICE, "the turn that was so large is not asked again"
    later = Residents(lambda: 0.0, {"cpu": 100}, idle_seconds=120, remembered={"a": Figures(held_mib=120)})
    later.know("a", places=["cpu"], label="a", guess_mib=40)
    later.enter("a")
    assert later.next_steps() == [Load(key="a", place="cpu")]


def test_a_sleeper_that_grows_is_stopped_where_there_is_no_more(table: Table) -> None:
    table.know("a", 40, can_sleep=True)
    table.know("b", 75)
    table.used("a")
    table.now = 100
    table.used("b")
    assert table.state("a") is State.ASLEEP
    table.residents.measured("a", "cpu", 30)
    [stop] = table.residents.next_steps()
    assert (stop.key, stop.at_once) == ("a", True)  # type: ignore[union-attr]


def test_a_model_that_grows_gets_more_of_the_account_while_there_is_some(table: Table) -> None:
    table.know("a", 40)
    table.know("b", 40)
    busy = table.enter("a")
    table.residents.measured("a", "cpu", 55)
    assert table.residents.next_steps() == []
    table.enter("b")
    table.residents.measured("a", "cpu", 65)
    assert [(step.key, step.at_once) for step in table.residents.next_steps() if isinstance(step, Stop)] == [
        ("a", True)
    ]
    assert busy.is_at_work, "whoever asked it learns from the end of its process"


def test_a_model_that_outgrew_its_part_comes_again_with_a_larger_one(table: Table) -> None:
    table.know("a", 40)
    table.know("b", 50)
    table.used("b")
    ticket = table.residents.enter("a")
    assert table.residents.next_steps() == [Load(key="a", place="cpu")]
    table.residents.measured("a", "cpu", 60)
    table.now = 100
    assert [type(step) for step in table.residents.next_steps()] == [Stop]
    table.residents.not_loaded("a", "cpu", EngineUnavailable("killed"))
    table.run()
    assert ticket.is_at_work
    assert table.residents.of("a").copies["cpu"].reserved_mib >= 60
    assert table.state("b") is State.ABSENT


def test_a_model_whose_process_dies_again_and_again_counts_as_one_that_cannot_come(table: Table) -> None:
    table.know("a", 40)
    for _ in range(3):
        ticket = table.enter("a")
        assert ticket.is_at_work
        table.residents.gone("a", "cpu")
        table.leave(ticket, is_answered=False)
    table.enter("a")
    assert table.told[-1].startswith("refuse: The process of a has ended 3 times in a row without an answer")


def test_a_model_that_nobody_asks_for_leaves(table: Table) -> None:
    table.know("a", 40)
    table.used("a")
    table.now = 999
    table.run()
    assert table.state("a") is State.ON_DEVICE
    table.now = 1001
    table.run()
    assert table.state("a") is State.ABSENT


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
    assert table.state("a") is State.ON_DEVICE


def test_a_place_without_an_account_is_refused(table: Table) -> None:
    with pytest.raises(EngineUnavailable, match="This engine host has cpu, gpu, and a is asked for on tpu"):
        table.know("a", 40, "tpu")


def test_what_was_measured_is_remembered_by_the_next_table(table: Table) -> None:
    table.know("a", 40)
    table.used("a", seconds=7)
    remembered = table.residents.remembered()
    assert remembered["a"].held_mib == 40
    later = Residents(lambda: 0.0, PLACES, idle_seconds=1, remembered=remembered | {"gone": Figures(held_mib=9)})
    later.know("a", places=("cpu",), label="a", guess_mib=90)
    later.enter("a")
    later.next_steps()
    assert later.of("a").bring_seconds == 7
    assert later.of("a").copies["cpu"].reserved_mib == 58, "the most that was measured, and some slack; no guess"
    assert later.remembered()["gone"] == Figures(held_mib=9)
