"""The table of residents: which models a host holds and where, which work begins, and what comes and leaves. Pure.

A place (a GPU, or the CPU) has one account of memory. A copy of a model gets a part of it before its process starts,
and gives it back once the process has ended, so what is promised is never more than there is. Files that several map
are in it once, as components. How large a model is and how long it takes to come is measured, never configured; before
the first time there is only a guess at its size.

Work goes where its model already is: a free copy does what has waited longest for its model. A model without a copy
that could do its work comes where that costs least, the longest awaited first; it gets one more copy where the work
that waits for it, shared by the copies there are, takes twice as long as bringing one. Nobody waits forever: for who
has waited long for a model without a copy, others are closed to later work. The cost: work of a model that is here
passes older work of one that is not. `room` says which copies leave, `work` and `desk` which work is next, `demands`
which model comes.

The table knows no process, socket or engine. Its caller tells it what happened, and does what `next_steps` says.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import count

from headrace.engines.host.account import Accounts
from headrace.engines.host.copies import Component, Copy, Figures, Model, State
from headrace.engines.host.demands import demands, longest_queues
from headrace.engines.host.desk import Desk
from headrace.engines.host.holdings import Demand, Holdings
from headrace.engines.host.parts import Parts
from headrace.engines.host.refusals import Refusals
from headrace.engines.host.room import Room, Rooms, Sought
from headrace.engines.host.rules import Rules
from headrace.engines.host.steps import Load, Refuse, Sleep, Step, Stop, Wake
from headrace.engines.host.work import Ticket
from headrace.errors import EngineUnavailable, HeadraceError
from headrace.fairness import NOBODY, WorkClass

_UNUSED = "nobody has asked for it"


class Residents:
    def __init__(
        self,
        clock: Callable[[], float],
        accounts: Mapping[str, int],
        *,
        idle_seconds: float,
        available_mib: Callable[[str], int] | None = None,
        remembered: Mapping[str, Figures] | None = None,
        rules: Rules | None = None,
        home: str | None = None,
    ) -> None:
        """Args:
        clock: monotonic seconds.
        accounts: place → MiB for all of its models together.
        idle_seconds: a copy that nobody has used for so long leaves.
        available_mib: what a place really has free now, whoever holds the rest; None: its whole account is the host's.
        remembered: key → what an earlier table measured.
        home: the place whose memory a copy has that sleeps at another; None: that is not counted.
        """
        self._clock = clock
        self._accounts = Accounts(accounts, available_mib, home)
        self._idle_seconds = idle_seconds
        self._remembered = dict(remembered or {})
        self._holdings = Holdings(clock, self._accounts, rules or Rules())
        self._desk, self._parts = Desk(self._holdings), Parts(self._holdings)
        self._refusals = Refusals(self._holdings)
        self._rooms = Rooms(self._holdings)
        self._numbers = count()
        # And how.
        self._grown: dict[Copy, str] = {}

    # --- what is known ---

    @property
    def accounts(self) -> dict[str, int]:
        """Place → MiB for all of its models together."""
        return dict(self._accounts.mib)

    def __contains__(self, key: str) -> bool:
        return key in self._holdings.models

    def of(self, key: str) -> Model:
        return self._holdings.models[key]

    def all(self) -> list[Model]:
        return list(self._holdings.models.values())

    def state(self, key: str, place: str) -> State:
        copy = self.of(key).copies.get(place)
        return State.ABSENT if copy is None else copy.state

    def is_open(self, key: str) -> bool:
        """Whether a copy is on the device, and takes work."""
        return any(copy.is_open for copy in self.of(key).copies.values())

    def has_rough_part(self, key: str, place: str) -> bool:
        """Whether a copy may have more than its model needs, which it gives back after its work: measure it before."""
        copy = self.of(key).copies.get(place)
        return copy is not None and self._parts.is_rough(copy)

    def is_kept(self, key: str) -> bool:
        return key in self._holdings.kept

    def seconds_in_state(self, copy: Copy) -> float:
        return self._clock() - copy.since

    def num_waiting(self, key: str) -> int:
        """Pieces of work for a model that have not begun."""
        return len(self.of(key).waiting)

    def reserved_mib(self, place: str) -> int:
        return self._accounts.reserved(place)

    def component_mib(self, component: Component, place: str) -> int:
        """Of a place's account, for all who hold it; 0: nobody does."""
        return self._accounts.component_mib(component, place)

    def held_mib(self, copy: Copy) -> int:
        """Of its place's account, components and all."""
        return self._accounts.held_mib(copy.place, [copy])

    def shared_mib(self, copy: Copy) -> int:
        """Of that, components that others hold, too."""
        held = self._accounts.components(copy, copy.place)
        return sum(mib for one, mib in held.items() if len(self._accounts.holders_of(one, copy.place)) > 1)

    def next_out(self, place: str) -> list[Copy]:
        """Those on the device or asleep there, the one that would make room first in front."""
        now = self._clock()
        return sorted(
            (one for one in self._accounts.at(place) if one.state in (State.ON_DEVICE, State.ASLEEP)),
            key=lambda one: (self.is_kept(one.model.key), self._rooms.worth(one, now), one.used_at, one.model.key),
        )

    def remembered(self) -> dict[str, Figures]:
        """What a later table can start from: key → what was measured, the latest last; also what earlier ones did."""
        measured = {key: model.figures for key, model in self._holdings.models.items() if model.peak_mib}
        return {key: one for key, one in self._remembered.items() if key not in measured} | measured

    # --- what happens ---

    def know(self, key: str, *, places: Sequence[str], label: str, guess_mib: int) -> None:
        """Makes a model known, unless it is. Raises: EngineUnavailable: the host has no account for a place of its."""
        for place in places:
            if place not in self._accounts.mib:
                known = ", ".join(self._accounts.mib)
                raise EngineUnavailable(f"This engine host has {known}, and {label} is asked for on {place}.")
        if key in self._holdings.models:
            return
        model = self._holdings.models[key] = Model(
            key=key,
            label=label,
            places=tuple(places),
            guess_mib=max(1, guess_mib),
            gone_at=self._clock(),
        )
        if (figures := self._remembered.get(key)) is not None:
            model.remember(figures, max(self._accounts.mib[place] for place in places))
        self._holdings.least_mib = min(self._holdings.least_mib, model.least_mib)

    def keep(self, keys: Collection[str]) -> None:
        """These models, which live sets need, and no others make no room for bulk work and do not leave unused."""
        self._holdings.kept = frozenset(keys)

    def enter(
        self,
        key: str,
        *,
        work_class: WorkClass = "batch",
        seconds: float | None = None,
        only_at: str | None = None,
        parts: Sequence[str] = (),
        size: int = 1,
        tenants: Mapping[str, float] = NOBODY,
    ) -> Ticket:
        """Work for a known model, which waits for `Start` or `Refuse`.

        Args:
            work_class: the more urgent goes first.
            seconds: that it is expected to take; None: as other work of this model did.
            only_at: the place where it is to be done; None: any of the model's.
            parts: keys of other known models, an adapter's say, that must be at the same place meanwhile.
            size: turns that it is made of.
            tenants: tenant → their part of each turn, divided by their weight.

        Raises: EngineUnavailable: the model is not for this place.
        """
        model = self.of(key)
        if only_at is not None and only_at not in model.places:
            may_be = ", ".join(model.places)
            raise EngineUnavailable(f"{model.label} may be on {may_be}, and is asked for on {only_at}.")
        now = self._clock()
        ticket = Ticket(
            key=key,
            number=next(self._numbers),
            entered_at=now,
            told_seconds=seconds,
            turn_at=now + self._holdings.rules.length_factor * (seconds or 0.0),
            expected_seconds=model.work.beside(self._desk.everybody) if seconds is None else max(0.0, seconds),
            work_class=work_class,
            size=min(size, model.num_at_once or size),
            costs={tenant: size * part for tenant, part in tenants.items()},
            only_at=only_at,
            parts=tuple(dict.fromkeys(part for part in parts if part != key)),
        )
        self._desk.add(ticket)
        return ticket

    def leave(self, ticket: Ticket, *, is_answered: bool) -> None:
        """The work is done or given up, wherever it stood."""
        self._desk.withdraw(ticket, is_answered=is_answered)

    def loaded(
        self,
        key: str,
        place: str,
        *,
        seconds: float,
        num_at_once: int | None = None,
        live_is_beside: bool = False,
        can_sleep: bool = False,
    ) -> None:
        """The copy is on the device; its coming took so long.

        Args:
            num_at_once: turns that a copy does at once; None: as many as come.
            live_is_beside: as many live ones beside as many flex ones beside as many batch ones.
            can_sleep: it takes `Sleep` and `Wake`.
        """
        model = self.of(key)
        copy = model.copies[place]
        model.bring_seconds, model.can_sleep = seconds, can_sleep
        model.num_at_once, model.live_is_beside = num_at_once, live_is_beside
        model.num_loads += 1
        self._refusals.has_come(model)
        self._holdings.used(model, 0)
        copy.used_at = self._clock()
        if copy.state is State.LOADING:
            self._holdings.enters(copy, State.ON_DEVICE)

    def not_loaded(self, key: str, place: str, error: HeadraceError) -> None:
        """The copy could not come, and its process has ended."""
        model = self.of(key)
        copy = model.copies[place]
        # One that had outgrown its part is tried with a larger one, if the place can have it.
        if not copy.has_outgrown:
            self._refusals.could_not_come(model, error)
        self._is_gone(copy)

    def gone(self, key: str, place: str) -> None:
        """The process of a copy that had come, was told to leave, or was killed on the way, has ended."""
        model = self.of(key)
        copy = model.copies[place]
        if copy.state is not State.LEAVING:
            self._refusals.crashed(model)
        self._is_gone(copy)

    def asleep(
        self, key: str, place: str, *, home_mib: int = 0, home_components: Mapping[Component, int] | None = None
    ) -> None:
        """The copy has let its weights go; what its process holds still was measured before this is told.

        Args: home_mib: what it holds of the machine's own memory, if its place is another; as `measured` has it.
        """
        copy = self.of(key).copies[place]
        if copy.state is State.FALLING_ASLEEP:
            if not self._parts.asleep(copy, home_mib, home_components or {}):
                self._outgrows(copy)
            copy.is_closed = False
            self._holdings.enters(copy, State.ASLEEP)

    def awake(self, key: str, place: str, *, seconds: float) -> None:
        """The copy is on the device again; its waking took so long."""
        model = self.of(key)
        copy = model.copies[place]
        model.wake_seconds = seconds
        model.num_wakes += 1
        copy.used_at = self._clock()
        if copy.state is State.WAKING:
            self._accounts.give_at_home(copy, 0)
            self._holdings.enters(copy, State.ON_DEVICE)

    def measured(
        self,
        key: str,
        place: str,
        mib: int,
        *,
        components: Mapping[Component, int] | None = None,
        most_mib: int | None = None,
    ) -> None:
        """The copy's process holds so much for itself, and maps these files, of which so much is in memory. It gets
        more of the account if there is some; else it has outgrown it.

        Args: most_mib: all that it held at the highest since it had come, fell asleep, or began to come; None: this.
        """
        copy = self.of(key).copies[place]
        if not self._parts.measured(copy, mib, components or {}, most_mib):
            self._outgrows(copy)

    def empty(self, place: str) -> list[Step]:
        """Somebody needs the place whole: what nobody uses there leaves, unless live sets need it."""
        idle = [
            one for one in self._holdings.idle if self._accounts.part(one, place) and not self.is_kept(one.model.key)
        ]
        return [self._stopped(one, "the place is needed whole") for one in idle if not one.model.waiting]

    # --- what to do ---

    def next_steps(self) -> list[Step]:
        """What to do now. The table is as if all of it had been done; an empty list: nothing changes by itself before
        something else happens or time passes."""
        steps: list[Step] = [*self._outgrown(), *self._desk.begun(), *self._refused(), *self._room_made()]
        if self._holdings.absent:
            steps += self._brought(demands(self._holdings))
        if self._holdings.awaited:
            steps += self._one_more()
        # Copies whose room is not wanted any more.
        return [*steps, *self._desk.begun(), *self._unused()]

    def _outgrown(self) -> list[Step]:
        steps: list[Step] = []
        for copy, why in self._grown.items():
            if copy.state not in (State.ABSENT, State.LEAVING):
                # What gathers its parts there waits again, for another copy.
                self._desk.lost(copy)
                steps.append(self._stopped(copy, why, at_once=True))
        self._grown.clear()
        return steps

    def _refused(self) -> list[Step]:
        steps: list[Step] = []
        for demand in [one for found in self._holdings.absent.values() for one in found if self._may_be_refused(one)]:
            # One answer for all that wait for the same.
            if (error := self._error(demand)) is not None:
                for whole in [one.belongs_to or one for one in demand.model.waiting.beside(demand.ticket)]:
                    self._desk.withdraw(whole, is_answered=False)
                    steps.append(Refuse(ticket=whole, error=error))
        return steps

    def _may_be_refused(self, demand: Demand) -> bool:
        """Most may not, and are asked about at each look."""
        model = demand.model
        return bool(
            model.refusal is not None
            or self._holdings.kept
            or demand.ticket.belongs_to is not None
            or model.peak_mib > self._accounts.least_mib
        )

    def _error(self, demand: Demand) -> HeadraceError | None:
        model, whole = demand.model, demand.ticket.belongs_to
        if whole is None:
            return self._refusals.now(model, demand.ticket)
        held_mib = self._desk.held_mib(whole, beside=model)
        return self._refusals.now(model, demand.ticket) or self._refusals.of_part(model, demand.ticket, held_mib)

    def _room_made(self) -> list[Step]:
        """Copies that are to make room do so once they have no work; models come for whom it is made."""
        steps: list[Step] = []
        for room in self._rooms.all():
            if not self._is_wanted(room):
                self._reopen(room)
                continue
            steps += self._cleared(room)
            if self._rooms.missing_mib(room.model, room.place) <= 0:
                self._reopen(room)
                steps.append(self._comes(room.model, room.place))
            elif not self._rooms.is_being_made(room):
                # Somebody else has taken it: it is looked for anew.
                self._reopen(room)
        return steps

    def _brought(self, wanted: Sequence[Demand]) -> list[Step]:
        """Models that have no copy where somebody waits for them."""
        steps: list[Step] = []
        now, rules = self._clock(), self._holdings.rules
        is_hopeless = self._rooms.is_hopeless(self._holdings.absent)
        # Where not even closing found room: the same holds for who has waited less.
        in_vain: set[tuple[str | None, bool]] = set()
        for demand in wanted:
            model, ticket = demand.model, demand.ticket
            may_close = now - ticket.entered_at >= rules.guard_factor * model.soonest_seconds()
            kind = (demand.only_at, ticket.is_live)
            if is_hopeless and (not may_close or kind in in_vain):
                continue
            sought = Sought(
                model=model,
                only_at=demand.only_at,
                takes_kept=ticket.is_live,
                ignores_claims=ticket.belongs_to is not None,
            )
            if self._rooms.is_made_for(sought) or self._holdings.is_served(model, demand.only_at):
                continue
            room = None if is_hopeless else self._rooms.found(sought)
            if room is None and may_close and kind not in in_vain:
                room = self._rooms.found(replace(sought, may_close=True))
                if room is None and not sought.ignores_claims and len(sought.places) == len(self._accounts.mib):
                    in_vain.add(kind)
            if room is not None:
                steps += self._taken(room)
                is_hopeless = self._rooms.is_hopeless(self._holdings.absent)
        return steps

    def _one_more(self) -> list[Step]:
        """Copies of models whose work waits longer than bringing one takes."""
        steps: list[Step] = []
        if self._rooms.is_hopeless(self._holdings.awaited):
            return steps
        for model in longest_queues(self._holdings, self._rooms.num_by_model()):
            if self._refusals.may_come(model) and (room := self._rooms.found(Sought(model=model))) is not None:
                steps += self._taken(room)
        return steps

    def _unused(self) -> list[Step]:
        """Copies that nobody has used for long sleep, if they can, and leave after as long again."""
        now, steps = self._clock(), list[Step]()
        for copy in list(self._holdings.idle):
            if now - copy.rests_since < self._idle_seconds:
                break
            if copy.model.waiting or self.is_kept(copy.model.key):
                continue
            if copy.is_less_asleep:
                steps.append(self._sleeps(copy, _UNUSED))
            else:
                steps.append(self._stopped(copy, _UNUSED))
        return steps

    # --- small steps ---

    def _taken(self, room: Room) -> list[Step]:
        """Uses room that was found: at once, or when the copies in its way have gone."""
        if not room.in_the_way and self._rooms.missing_mib(room.model, room.place) <= 0:
            return [self._comes(room.model, room.place)]
        self._rooms.add(room)
        for copy in room.in_the_way:
            copy.is_closed = True
            self._holdings.idle.pop(copy, None)
            self._holdings.note(copy.model)
        return self._cleared(room)

    def _cleared(self, room: Room) -> list[Step]:
        steps: list[Step] = []
        why = f"makes room for {room.model.label}"
        for copy, state in room.in_the_way.items():
            if copy.at_work or not copy.is_closed or copy.state not in (State.ON_DEVICE, State.ASLEEP):
                continue
            if state is State.FALLING_ASLEEP and copy.state is State.ON_DEVICE:
                steps.append(self._sleeps(copy, why))
            elif state is State.LEAVING:
                steps.append(self._stopped(copy, why))
        return steps

    def _comes(self, model: Model, place: str) -> Step:
        copy = model.copies.get(place)
        if copy is None:
            self._holdings.add(model, place)
            return Load(key=model.key, place=place)
        self._accounts.give(copy, *self._holdings.to_come(model, place))
        self._parts.begins_to_come(copy)
        self._holdings.enters(copy, State.WAKING)
        return Wake(key=model.key, place=place)

    def _outgrows(self, copy: Copy) -> None:
        if not copy.has_outgrown:
            copy.has_outgrown = True
            self._grown[copy] = self._parts.outgrown(copy)

    def _sleeps(self, copy: Copy, why: str) -> Sleep | Stop:
        home = self._accounts.home
        if home is not None and copy.place != home:
            home_mib = max(1, copy.model.asleep_home_part_mib(copy.reserved_mib))
            components = copy.model.asleep_home_components
            if (more_mib := self._accounts.more_mib(home, copy, home_mib, components)) > self._accounts.free_now(home):
                return self._stopped(copy, f"{why}, and {home} has no {more_mib} MiB for it asleep")
            self._accounts.give_at_home(copy, home_mib, components)
        self._holdings.enters(copy, State.FALLING_ASLEEP)
        return Sleep(key=copy.model.key, place=copy.place, why=why)

    def _stopped(self, copy: Copy, why: str, *, at_once: bool = False) -> Stop:
        self._holdings.enters(copy, State.LEAVING)
        return Stop(key=copy.model.key, place=copy.place, why=why, at_once=at_once)

    def _is_gone(self, copy: Copy) -> None:
        self._desk.lost(copy)
        self._holdings.remove(copy)

    def _is_wanted(self, room: Room) -> bool:
        """Somebody still waits for it, and no other room has been used for the same copy."""
        waits = room.only_at in room.model.waiting.targets() and self._refusals.may_come(room.model)
        copy = room.model.copies.get(room.place)
        return waits and (copy is None or copy.state is State.ASLEEP)

    def _reopen(self, room: Room) -> None:
        self._rooms.remove(room)
        for copy in room.in_the_way:
            if copy.state in (State.ON_DEVICE, State.ASLEEP):
                copy.is_closed = False
                self._holdings.rests(copy)
                self._holdings.touch(copy.model)
