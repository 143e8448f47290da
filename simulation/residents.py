"""A table of residents and the processes that do what it says, at random: they come, sleep, grow, die, and leave.

After each step it is checked that nothing is promised twice, that no copy leaves under work, and that work begins only
where its model and its parts are. Used by the table's own tests and by `benchmarks.residency`.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from headrace.engines.host.copies import Component, State
from headrace.engines.host.residents import Residents
from headrace.engines.host.steps import Load, Refuse, Sleep, Start, Step, Stop, Wake
from headrace.engines.host.work import Ticket
from headrace.errors import EngineUnavailable
from headrace.fairness import NOBODY, WorkClass

# MiB of places, and the models: one that is too large for its place, one that is a part of others' work.
PLACES = {"cpu": 100, "gpu 0": 60, "gpu 1": 60}
At = tuple[str, str]
SLEEPING = frozenset({State.FALLING_ASLEEP, State.ASLEEP, State.WAKING})


# MiB of files that processes map.
_LIBRARIES, _ENCODER, _DENOISER = ("8:1", 1), ("8:1", 2), ("8:1", 3)
COMPONENTS = {_LIBRARIES: 8, _ENCODER: 25, _DENOISER: 15}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """`mib`: with all of its components."""

    places: tuple[str, ...]
    mib: int
    components: tuple[Component, ...] = ()
    num_at_once: int | None = None
    can_sleep: bool = False


_GPUS = ("gpu 0", "gpu 1")
KEYS = {
    "a": Kind(places=("cpu",), mib=40, components=(_LIBRARIES, _ENCODER)),
    "b": Kind(places=("cpu",), mib=50, components=(_LIBRARIES, _ENCODER, _DENOISER), can_sleep=True),
    "c": Kind(places=("cpu",), mib=70, components=(_LIBRARIES, _ENCODER), num_at_once=2),
    "g": Kind(places=("cpu",), mib=60, components=(_LIBRARIES, _DENOISER), can_sleep=True),
    "d": Kind(places=_GPUS, mib=50, num_at_once=1, can_sleep=True),
    "e": Kind(places=_GPUS, mib=30, num_at_once=1),
    "f": Kind(places=_GPUS, mib=90, num_at_once=3),
    "adapter": Kind(places=("cpu", *_GPUS), mib=10),
}


class Shaken:
    def __init__(self) -> None:
        self.now = 0.0
        self.table = Residents(lambda: self.now, PLACES, idle_seconds=50.0, home="cpu")
        self.coming: set[At] = set()
        self.alive: set[At] = set()
        self.asleep: set[At] = set()
        self.falling_asleep: set[At] = set()
        self.leaving: set[At] = set()
        self.open: set[Ticket] = set()
        self.num_steps = 0
        self.num_loads = 0
        self.num_over = 0
        for key, kind in KEYS.items():
            self.table.know(key, places=kind.places, label=key, guess_mib=kind.mib)

    # --- what happens ---

    def ask(
        self,
        key: str,
        *,
        work_class: WorkClass = "batch",
        seconds: float | None = None,
        parts: Sequence[str] = (),
        only_at: str | None = None,
        tenants: Mapping[str, float] | None = None,
    ) -> Ticket:
        ticket = self.table.enter(
            key, work_class=work_class, seconds=seconds, parts=parts, only_at=only_at, tenants=tenants or NOBODY
        )
        self.open.add(ticket)
        self._do()
        return ticket

    def finish(self, ticket: Ticket, *, is_answered: bool) -> None:
        if not ticket.is_over:
            self.open.discard(ticket)
            self.table.leave(ticket, is_answered=is_answered)
            self._do()

    def come(self, at: At, *, seconds: float, comes: bool = True) -> None:
        """One that loads, or wakes, is there; or it cannot."""
        state = self.table.state(*at)
        self.coming.discard(at)
        if state is State.WAKING and comes:
            self.table.awake(*at, seconds=seconds)
            self.alive.add(at)
        elif state is State.LOADING and comes:
            kind = KEYS[at[0]]
            self.table.loaded(*at, seconds=seconds, num_at_once=kind.num_at_once, can_sleep=kind.can_sleep)
            self.alive.add(at)
        elif state is State.WAKING:
            self.table.gone(*at)
        else:
            # Also one that was told to end while it loaded.
            self.table.not_loaded(*at, EngineUnavailable("no"))
        self._do()

    def end(self, at: At) -> None:
        for states in (self.alive, self.asleep, self.falling_asleep, self.leaving):
            states.discard(at)
        self.table.gone(*at)
        self._do()

    def sleep(self, at: At, mib: int, *, home_mib: int = 1, components: Mapping[Component, int] | None = None) -> None:
        """`components`: at its place, or at home if that is another."""
        self.falling_asleep.discard(at)
        self.table.measured(*at, mib, components=components if at[1] == "cpu" else None)
        self.table.asleep(*at, home_mib=home_mib, home_components=components)
        self.asleep.add(at)
        self._do()

    def measure(
        self, at: At, mib: int, components: Mapping[Component, int] | None = None, *, brief_mib: int = 0
    ) -> None:
        """Args: brief_mib: beside all that, for a moment that is past."""
        copy = self.table.of(at[0]).copies[at[1]]
        whole_mib = mib + sum((components or {}).values())
        self.table.measured(*at, mib, components=components, most_mib=whole_mib + brief_mib)
        most_mib = whole_mib + (0 if at in self.coming else brief_mib)
        assert copy.has_outgrown or copy.state is State.LEAVING or self.table.held_mib(copy) >= most_mib
        self._do()

    def keep(self, keys: set[str]) -> None:
        self.table.keep(keys)
        self._do()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self._do()

    # --- what must hold ---

    def check(self) -> None:
        for place, mib in PLACES.items():
            everywhere = [copy for model in self.table.all() for copy in model.copies.values()]
            copies = [copy for copy in everywhere if copy.place == place]
            guests_mib = sum(copy.home_mib for copy in everywhere) if place == "cpu" else 0
            held = {one: self.table.component_mib(one, place) for one in COMPONENTS}
            own_mib = sum(copy.reserved_mib for copy in copies) + guests_mib
            # What is shared is promised once, and as long as somebody holds it.
            assert self.table.reserved_mib(place) == own_mib + sum(held.values()) <= mib
            holding = {one for copy in copies for one in copy.components}
            if place == "cpu":
                holding |= {one for copy in everywhere for one in copy.home_components}
            assert {one for one, size in held.items() if size} == holding
            assert all(copy.reserved_mib > 0 for copy in copies)
            # What sleeps elsewhere, or has begun to, has a part at home, which ends when it is awake.
            for copy in copies:
                if place != "cpu" and copy.state is not State.LEAVING:
                    assert bool(copy.home_mib) == (copy.state in SLEEPING)
            # The limit is the engine's.
            for copy in copies:
                assert copy.model.num_at_once is None or len(copy.at_work) <= copy.model.num_at_once
        found = {state: set[At]() for state in State}
        for model in self.table.all():
            for place, copy in model.copies.items():
                found[copy.state].add((model.key, place))
        assert found[State.ON_DEVICE] == self.alive
        assert found[State.ASLEEP] == self.asleep
        assert found[State.FALLING_ASLEEP] == self.falling_asleep
        assert found[State.LOADING] | found[State.WAKING] <= self.coming
        assert found[State.LEAVING] >= self.leaving

    def _do(self) -> None:
        while steps := self.table.next_steps():
            for step in steps:
                self._did(step)
                self.num_steps += 1
            self.num_over += sum(self.table.reserved_mib(place) > mib for place, mib in PLACES.items())

    def _did(self, step: Step) -> None:
        match step:
            case Load(key=key, place=place):
                assert (key, place) not in self.coming | self.alive | self.leaving, "a copy is never there twice"
                self.coming.add((key, place))
                self.num_loads += 1
            case Wake(key=key, place=place):
                self.asleep.remove((key, place))
                self.coming.add((key, place))
            case Sleep(key=key, place=place):
                assert not self.table.of(key).copies[place].at_work, "none sleeps under work"
                self.alive.remove((key, place))
                self.falling_asleep.add((key, place))
            case Stop(key=key, place=place, at_once=at_once):
                assert at_once or not self.table.of(key).copies[place].at_work, "none goes under work"
                # One that is told to end while it loads ends as one that cannot be loaded.
                if (key, place) in self.coming:
                    return
                for states in (self.alive, self.asleep, self.falling_asleep):
                    states.discard((key, place))
                self.leaving.add((key, place))
            case Start(ticket=ticket):
                assert ticket in self.open
                assert {(one, ticket.place) for one in (ticket.key, *ticket.parts)} <= self.alive
            case Refuse(ticket=ticket):
                self.open.remove(ticket)

    # --- the end ---

    def let_all_end(self) -> None:
        """Once everything that is told happens, and work ends, nobody waits."""
        self.table.keep([])
        for _ in range(1000):
            if not self.open and not self.coming | self.falling_asleep | self.leaving:
                return
            for at in sorted(self.coming):
                self.come(at, seconds=1.0)
            for at in sorted(self.falling_asleep):
                self.sleep(at, 1)
            for at in sorted(self.leaving):
                self.end(at)
            for ticket in sorted((one for one in self.open if one.is_at_work), key=lambda one: one.number):
                self.finish(ticket, is_answered=True)
            self.pass_time(30)
        raise AssertionError(f"{len(self.open)} wait forever")

    def let_all_leave(self) -> None:
        """Without work, all models leave in time."""
        for _ in range(100):
            self.pass_time(60)
            for at in sorted(self.falling_asleep):
                self.sleep(at, 1)
            for at in sorted(self.leaving):
                self.end(at)

    # --- at random ---

    def shake(self, draw: random.Random, *, num_steps: int) -> None:
        """So many random things happen, and what the table says to each; checked after every one."""
        happenings: list[Callable[[random.Random], None]] = [
            *[self._asks] * 6,
            *[self._finishes] * 6,
            *[self._comes] * 4,
            *[self._leaves] * 4,
            *[self._sleeps] * 2,
            *[self._grows] * 2,
            self._is_killed,
            self._keeps,
            lambda draw: self.pass_time(draw.expovariate(1 / 10)),
        ]
        for _ in range(num_steps):
            draw.choice(happenings)(draw)
            self.check()

    def _asks(self, draw: random.Random) -> None:
        if len(self.open) > 50:
            return
        key = draw.choice(sorted(KEYS))
        self.ask(
            key,
            work_class=draw.choice(("live", "flex", "batch")),
            tenants={draw.choice("xyz"): draw.choice((0.5, 1.0))},
            seconds=draw.choice([None, draw.expovariate(1 / 20)]),
            parts=["adapter"] if key != "adapter" and draw.random() < 0.3 else [],
            only_at=draw.choice(KEYS[key].places) if draw.random() < 0.2 else None,
        )

    def _finishes(self, draw: random.Random) -> None:
        if at_work := sorted((one for one in self.open if one.is_at_work), key=lambda one: one.number):
            self.finish(draw.choice(at_work), is_answered=draw.random() < 0.9)

    def _comes(self, draw: random.Random) -> None:
        if self.coming:
            self.come(draw.choice(sorted(self.coming)), seconds=draw.random() * 10, comes=draw.random() < 0.95)

    def _leaves(self, draw: random.Random) -> None:
        if self.leaving:
            self.end(draw.choice(sorted(self.leaving)))

    def _sleeps(self, draw: random.Random) -> None:
        if self.falling_asleep:
            at = draw.choice(sorted(self.falling_asleep))
            kept = {_LIBRARIES: COMPONENTS[_LIBRARIES]} if draw.random() < 0.7 else self._mapped(at, draw)
            self.sleep(at, draw.randint(1, 20), home_mib=draw.randint(1, 60), components=kept)

    def _grows(self, draw: random.Random) -> None:
        if there := sorted(self.alive | self.coming):
            at = draw.choice(there)
            mapped = self._mapped(at, draw)
            own_mib = KEYS[at[0]].mib - sum(COMPONENTS[one] for one in KEYS[at[0]].components)
            brief_mib = draw.choice([0, 0, draw.randint(1, 30)])
            self.measure(at, int(own_mib * draw.uniform(0.5, 1.3)) + 1, mapped, brief_mib=brief_mib)

    def _mapped(self, at: At, draw: random.Random) -> dict[Component, int]:
        """Some of its files, which may not be in memory whole."""
        found = {one: int(COMPONENTS[one] * draw.choice([0.5, 1, 1, 1])) for one in KEYS[at[0]].components}
        return {one: mib for one, mib in found.items() if draw.random() < 0.8}

    def _is_killed(self, draw: random.Random) -> None:
        if there := sorted(self.alive | self.asleep | self.falling_asleep):
            self.end(draw.choice(there))

    def _keeps(self, draw: random.Random) -> None:
        self.keep(set(draw.sample(sorted(KEYS), draw.randint(0, 2))))
