"""What holds of the table of residents whatever happens in whatever order."""

import random

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from headrace.engines.host.copies import Component
from headrace.engines.host.work import Ticket
from headrace.fairness import CLASSES, WorkClass
from simulation.residents import COMPONENTS, KEYS, PLACES, Shaken

MAPPED = st.dictionaries(st.sampled_from(sorted(COMPONENTS)), st.integers(1, 30), max_size=3)


class AnyOrder(RuleBasedStateMachine):
    """Nothing is promised twice, no work is cut off, and nobody waits forever."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.shaken = Shaken()

    @rule(
        target=tickets,
        key=st.sampled_from(sorted(KEYS)),
        work_class=st.sampled_from(CLASSES),
        tenants=st.dictionaries(st.sampled_from("xyz"), st.sampled_from([0.5, 1.0, 3.0]), min_size=1),
        seconds=st.none() | st.floats(0, 50),
        has_parts=st.booleans(),
        names_its_place=st.booleans(),
        number=st.integers(0, 2),
    )
    def asks(
        self,
        key: str,
        work_class: WorkClass,
        tenants: dict[str, float],
        seconds: float | None,
        has_parts: bool,
        names_its_place: bool,
        number: int,
    ) -> Ticket:
        places = KEYS[key].places
        return self.shaken.ask(
            key,
            work_class=work_class,
            tenants=tenants,
            seconds=seconds,
            parts=["adapter"] if has_parts and key != "adapter" else [],
            only_at=places[number % len(places)] if names_its_place else None,
        )

    @rule(ticket=consumes(tickets), is_answered=st.booleans())
    def is_done_or_gives_up(self, ticket: Ticket, is_answered: bool) -> None:
        self.shaken.finish(ticket, is_answered=is_answered)

    @precondition(lambda self: self.shaken.coming)
    @rule(data=st.data(), seconds=st.floats(0, 5), comes=st.booleans())
    def is_loaded_or_woken(self, data: st.DataObject, seconds: float, comes: bool) -> None:
        at = data.draw(st.sampled_from(sorted(self.shaken.coming)))
        self.shaken.come(at, seconds=seconds, comes=comes)

    @precondition(lambda self: self.shaken.alive)
    @rule(data=st.data())
    def is_killed(self, data: st.DataObject) -> None:
        self.shaken.end(data.draw(st.sampled_from(sorted(self.shaken.alive))))

    @precondition(lambda self: self.shaken.leaving)
    @rule(data=st.data())
    def has_left(self, data: st.DataObject) -> None:
        self.shaken.end(data.draw(st.sampled_from(sorted(self.shaken.leaving))))

    @precondition(lambda self: self.shaken.falling_asleep)
    @rule(data=st.data(), mib=st.integers(1, 30), components=MAPPED)
    def sleeps(self, data: st.DataObject, mib: int, components: dict[Component, int]) -> None:
        at = data.draw(st.sampled_from(sorted(self.shaken.falling_asleep)))
        self.shaken.sleep(at, mib, components=components)

    @precondition(lambda self: self.shaken.alive | self.shaken.coming)
    @rule(data=st.data(), mib=st.integers(1, 80), components=MAPPED, brief_mib=st.just(0) | st.integers(1, 80))
    def is_measured(self, data: st.DataObject, mib: int, components: dict[Component, int], brief_mib: int) -> None:
        at = data.draw(st.sampled_from(sorted(self.shaken.alive | self.shaken.coming)))
        self.shaken.measure(at, mib, components if at[1] == "cpu" else None, brief_mib=brief_mib)

    @rule(keys=st.sets(st.sampled_from(sorted(KEYS)), max_size=2))
    def live_sets_change(self, keys: set[str]) -> None:
        self.shaken.keep(keys)

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.shaken.pass_time(seconds)

    @invariant()
    def nothing_is_promised_twice(self) -> None:
        self.shaken.check()

    def teardown(self) -> None:
        self.shaken.let_all_end()
        self.shaken.check()


TestAnyOrder = AnyOrder.TestCase


def test_thousands_of_random_steps_promise_nothing_twice_and_leave_nothing_behind() -> None:
    shaken = Shaken()
    shaken.shake(random.Random(5), num_steps=3000)
    shaken.let_all_end()
    shaken.let_all_leave()
    assert {place: shaken.table.reserved_mib(place) for place in PLACES} == dict.fromkeys(PLACES, 0)
