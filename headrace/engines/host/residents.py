"""The table of residents: which models a host holds, which it brings next, and which leaves for it. Pure.

A place (a GPU, or the CPU) has one account of memory. A model gets a part of it before its process starts, and gives it
back once the process has ended, so what is promised is never more than there is. How large a model is and how long it
takes to come is measured, never configured; before the first time there is only a guess at its size.

Work is let in as it came. A model without room waits until enough others are idle: those that are cheapest to bring
back, for the use that is made of them and the memory they hold, go first. None goes under work. One that must go takes
no later work, and one that has just come stays for some times what its coming took: so two models that have room for
one take turns of useful length, and neither waits forever. The cost: a smaller model does not overtake one that waits
for room.

Live work goes before bulk work that came up to a minute earlier; where a live service keeps a model (`keep`), bulk work
of it is let in one piece at a time, so that a live one waits for one at most, and its memory is not given to bulk work.

The table knows no process, socket or engine. Its caller tells it what happened, and does what `next_steps` says.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum

from headrace.errors import EngineUnavailable, HeadraceError

# A use counts half after so long, and a quarter after twice as long.
_HALF_LIFE_SECONDS = 600.0
# How many times what its coming took a model stays at least, while others wait: at most a fifth of the time is loading.
_STAY_FACTOR = 4
# Live work goes before bulk work that came up to so much earlier; older bulk work has waited long enough.
_BULK_PATIENCE_SECONDS = 60.0
# On top of the most that was measured: a process that comes again is seldom as large to the MiB.
_SLACK_SHARE, _SLACK_MIB = 0.05, 16
# A model that could not come is tried anew after so long, then after twice as long.
_PAUSE_SECONDS_MIN, _PAUSE_SECONDS_MAX = 30.0, 3600.0
# Ends of its process in a row, without an answer between them, after which a model counts as one that cannot come.
_NUM_CRASHES_MAX = 3


class State(Enum):
    """Of a resident; the value is for people."""

    ABSENT = "absent"
    LOADING = "loading"
    ON_DEVICE = "on the device"
    ASLEEP = "asleep"
    LEAVING = "leaving"


@dataclass(eq=False)
class Ticket:
    """A piece of work for one model. `is_live`: somebody waits for it. `since`: when it came. `seconds`: what it is
    expected to take, if that is known."""

    key: str
    is_live: bool = False
    since: float = 0.0
    seconds: float | None = None
    is_at_work: bool = False
    is_over: bool = False


@dataclass(frozen=True, kw_only=True)
class Load:
    """Bring the model: its memory is set aside."""

    key: str


@dataclass(frozen=True, kw_only=True)
class Stop:
    """End the model's process. `at_once`: it has outgrown its part."""

    key: str
    why: str
    at_once: bool = False


@dataclass(frozen=True, kw_only=True)
class Sleep:
    """Have the model's process let its weights go, and live on. `place`: whose memory it gives back."""

    key: str
    place: str


@dataclass(frozen=True, kw_only=True)
class Wake:
    """Have the model's process bring its weights again: their memory is set aside at `place`."""

    key: str
    place: str


@dataclass(frozen=True, kw_only=True)
class Start:
    """The ticket's work may begin."""

    ticket: Ticket


@dataclass(frozen=True, kw_only=True)
class Refuse:
    """The ticket is over: its model cannot come."""

    ticket: Ticket
    error: HeadraceError


Step = Load | Stop | Sleep | Wake | Start | Refuse


@dataclass(eq=False, kw_only=True)
class Resident:
    """One model at one place. `since`: of the state. Sizes are in MiB; `reserved_mib` is its part of the account."""

    key: str
    place: str
    label: str
    guess_mib: int
    state: State = State.ABSENT
    since: float = 0.0
    reserved_mib: int = 0
    # Measured last, and the most ever; 0: never.
    mib: int = 0
    peak_mib: int = 0
    # None: it has never come; and it was never woken.
    bring_seconds: float | None = None
    wake_seconds: float | None = None
    can_sleep: bool = False
    # What its process held asleep, the last time; 0: it never slept.
    asleep_mib: int = 0
    num_wakes: int = 0
    used_at: float = 0.0
    num_hits: int = 0
    num_loads: int = 0
    at_work: set[Ticket] = field(default_factory=set)
    # A live service needs it: it does not leave for bulk work, nor because nobody has asked for it.
    is_kept: bool = False
    refusal: HeadraceError | None = None
    # Decayed uses, as of `used_at`.
    uses: float = 0.0
    tried_again_at: float = 0.0
    pause_seconds: float = 0.0
    num_crashes: int = 0
    has_outgrown: bool = False


class Residents:
    def __init__(
        self,
        clock: Callable[[], float],
        accounts: Mapping[str, int],
        *,
        idle_seconds: float,
        available_mib: Callable[[str], int] | None = None,
    ) -> None:
        """Args:
        clock: monotonic seconds.
        accounts: place → MiB for all of its models together.
        idle_seconds: a model that nobody has asked for so long leaves.
        available_mib: what a place really has free now, whoever holds the rest; None: its whole account is the host's.
        """
        self._clock = clock
        self.accounts = dict(accounts)
        self._idle_seconds = idle_seconds
        self._available_mib = available_mib
        self._residents: dict[str, Resident] = {}
        self._waiting: list[Ticket] = []
        self._kept: frozenset[str] = frozenset()

    # --- what is known ---

    def __contains__(self, key: str) -> bool:
        return key in self._residents

    def of(self, key: str) -> Resident:
        return self._residents[key]

    def all(self) -> list[Resident]:
        return list(self._residents.values())

    def seconds_in_state(self, resident: Resident) -> float:
        return self._clock() - resident.since

    def num_waiting(self, key: str) -> int:
        """Pieces of work for a model that have not begun."""
        return sum(ticket.key == key for ticket in self._waiting)

    def reserved_mib(self, place: str) -> int:
        return sum(one.reserved_mib for one in self._residents.values() if one.place == place)

    def next_out(self, place: str) -> list[Resident]:
        """Those on the device or asleep, the one that would leave first in front; at the end those that leave for live
        work alone."""
        found = [
            one
            for one in self._residents.values()
            if one.place == place and one.state in (State.ON_DEVICE, State.ASLEEP)
        ]
        return sorted(
            found,
            key=lambda one: (one.is_kept, one.state is not State.ASLEEP, self._worth(one), one.used_at, one.key),
        )

    # --- what happens ---

    def know(self, key: str, *, place: str, label: str, guess_mib: int) -> None:
        """Makes a model known; one that is known already stays as it is.

        Raises: EngineUnavailable: the host has no account for this place.
        """
        if place not in self.accounts:
            places = ", ".join(self.accounts)
            raise EngineUnavailable(f"This engine host has {places}, and {label} is asked for on {place}.")
        if key not in self._residents:
            self._residents[key] = Resident(
                key=key, place=place, label=label, guess_mib=max(1, guess_mib), is_kept=key in self._kept
            )

    def enter(self, key: str, *, is_live: bool = False, seconds: float | None = None) -> Ticket:
        """Work for a known model, which waits for `Start` or `Refuse`.

        Args:
            is_live: somebody waits for it.
            seconds: what it is expected to take, if that is known.
        """
        ticket = Ticket(key, is_live=is_live, since=self._clock(), seconds=seconds)
        self._waiting.append(ticket)
        return ticket

    def keep(self, keys: Collection[str]) -> None:
        """The models that live services need, in place of those that were named before; unknown ones are passed
        over."""
        self._kept = frozenset(keys)
        for resident in self._residents.values():
            resident.is_kept = resident.key in self._kept

    def leave(self, ticket: Ticket, *, is_answered: bool) -> None:
        """The work is done or given up, wherever it stood."""
        resident = self._residents[ticket.key]
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        if ticket.is_at_work and is_answered:
            resident.num_crashes = 0
            resident.num_hits += 1
        resident.at_work.discard(ticket)
        ticket.is_at_work, ticket.is_over = False, True
        if is_answered and not resident.at_work:
            # What it takes to answer is known now, and the first guess was rough.
            resident.reserved_mib = min(resident.reserved_mib, self._wanted_mib(resident))
        self._used(resident, 0)

    def told(self, key: str, *, can_sleep: bool) -> None:
        """What a model says of itself once it is here. `can_sleep`: its process takes `Sleep` and `Wake`."""
        self._residents[key].can_sleep = can_sleep

    def loaded(self, key: str, *, seconds: float) -> None:
        """The model is on the device; its coming took so long."""
        resident = self._residents[key]
        if resident.state is State.LOADING:
            self._enters(resident, State.ON_DEVICE)
        resident.bring_seconds = seconds
        resident.num_loads += 1
        resident.refusal, resident.pause_seconds = None, 0.0
        self._used(resident, 0)

    def slept(self, key: str, place: str, *, mib: int) -> None:
        """The model's process has let its weights go; it holds so much still."""
        resident = self._residents[key]
        resident.mib = mib
        if resident.state is State.LEAVING:
            self._enters(resident, State.ASLEEP)
            # Never more than before: it had its part.
            resident.reserved_mib = resident.asleep_mib = max(1, min(resident.reserved_mib, resident.mib))

    def woken(self, key: str, place: str, *, seconds: float) -> None:
        """The model is on the device again; its waking took so long."""
        resident = self._residents[key]
        if resident.state is State.LOADING:
            self._enters(resident, State.ON_DEVICE)
        resident.wake_seconds = seconds
        resident.num_wakes += 1
        self._used(resident, 0)

    def not_loaded(self, key: str, error: HeadraceError) -> None:
        """The model could not come, and its process has ended. For a while, everybody who asks is told why."""
        resident = self._residents[key]
        # One that had outgrown its part is tried with a larger one, if the place can have it.
        if not resident.has_outgrown:
            self._refused(resident, error)
        self._is_gone(resident)

    def gone(self, key: str) -> None:
        """The process of a model that was on the device, or was told to leave, has ended."""
        resident = self._residents[key]
        if resident.state is not State.LEAVING:
            resident.num_crashes += 1
            if resident.num_crashes >= _NUM_CRASHES_MAX:
                self._refused(
                    resident,
                    EngineUnavailable(
                        f"The process of {resident.label} has ended {resident.num_crashes} times in a row without an "
                        "answer. The engine host's log says how."
                    ),
                )
                resident.num_crashes = 0
        self._is_gone(resident)

    def measured(self, key: str, mib: int) -> None:
        """The process holds so much. It gets more of the account if there is some; else it has outgrown its part."""
        resident = self._residents[key]
        resident.mib, resident.peak_mib = mib, max(resident.peak_mib, mib)
        if resident.state not in (State.LOADING, State.ON_DEVICE) or mib <= resident.reserved_mib:
            return
        if mib - resident.reserved_mib <= self._free_mib(resident.place):
            resident.reserved_mib = mib
        else:
            resident.has_outgrown = True

    def empty(self, place: str) -> list["Step"]:
        """Somebody needs the place whole: what nobody uses there leaves. What is at work, comes, or is kept stays."""
        idle = [one for one in self.next_out(place) if not one.at_work and not one.is_kept]
        for one in idle:
            self._enters(one, State.LEAVING)
        return [Stop(key=one.key, why="the place is needed whole") for one in idle]

    # --- what to do ---

    def next_steps(self) -> list[Step]:
        """What to do now. The table is as if all of it had been done; an empty list: nothing changes by itself before
        something else happens or time passes."""
        steps: list[Step] = [*self._outgrown()]
        # Places at which somebody waits for room, and residents that must make it.
        crowded: set[str] = set()
        closed: set[Resident] = set()
        for ticket in sorted(self._waiting, key=_order):
            resident = self._residents[ticket.key]
            if resident.state is State.ON_DEVICE and resident not in closed:
                if self._is_held_back(ticket, resident):
                    continue
                self._begin(ticket, resident)
                steps.append(Start(ticket=ticket))
            elif resident.state in (State.ABSENT, State.ASLEEP) and resident not in closed:
                if (error := self._refusal_now(resident, is_live=ticket.is_live)) is not None:
                    self._waiting.remove(ticket)
                    ticket.is_over = True
                    steps.append(Refuse(ticket=ticket, error=error))
                elif resident.place not in crowded:
                    steps += self._brought(resident, crowded, closed, is_live=ticket.is_live)
        return [*steps, *self._idle()]

    def _brought(self, resident: Resident, crowded: set[str], closed: set[Resident], *, is_live: bool) -> list[Step]:
        """Brings a model, or makes room for it. What is not there at once is waited for at the place."""
        wanted = self._wanted_mib(resident)
        if not is_live:
            # A first guess, or what comes on top of a measured size, may be too high: what is not kept is tried.
            wanted = max(1, min(wanted, self.accounts[resident.place] - self._kept_mib(resident)))
        missing = wanted - resident.reserved_mib - self._free_now_mib(resident.place)
        if missing <= 0:
            is_asleep = resident.state is State.ASLEEP
            resident.reserved_mib = max(wanted, resident.reserved_mib)
            self._enters(resident, State.LOADING)
            return [Wake(key=resident.key, place=resident.place) if is_asleep else Load(key=resident.key)]
        crowded.add(resident.place)
        # What leaves already comes free by itself.
        missing -= sum(
            one.reserved_mib
            for one in self._residents.values()
            if one.place == resident.place and one.state is State.LEAVING
        )
        others = [
            other
            for other in self.next_out(resident.place)
            if not (other is resident or other in closed or (other.is_kept and not is_live))
        ]
        # Those that sleep come back sooner, so as few as possible end.
        awake = [other for other in others if other.state is State.ON_DEVICE and other.can_sleep]
        awake = [other for other in awake if self._has_stayed(other, other.wake_seconds)]
        if not (is_sleep_enough := sum(map(_freed_by_sleep, awake)) >= missing):
            others = [
                other for other in others if other.state is State.ASLEEP or self._has_stayed(other, other.bring_seconds)
            ]
        steps: list[Step] = []
        for other in awake if is_sleep_enough else others:
            if missing <= 0:
                break
            closed.add(other)
            missing -= _freed_by_sleep(other) if is_sleep_enough else other.reserved_mib
            if other.at_work:
                continue
            self._enters(other, State.LEAVING)
            why = f"makes room for {resident.label}"
            steps.append(Sleep(key=other.key, place=other.place) if is_sleep_enough else Stop(key=other.key, why=why))
        return steps

    def _outgrown(self) -> list[Step]:
        found = [one for one in self._residents.values() if one.has_outgrown and one.state is not State.LEAVING]
        for one in found:
            self._enters(one, State.LEAVING)
        return [
            Stop(key=one.key, why=f"holds {one.mib} MiB, and its part is {one.reserved_mib} MiB", at_once=True)
            for one in found
        ]

    def _idle(self) -> list[Step]:
        now = self._clock()
        waited_for = {ticket.key for ticket in self._waiting}
        found = [
            one
            for one in self._residents.values()
            if one.state in (State.ON_DEVICE, State.ASLEEP)
            and not (one.at_work or one.is_kept)
            and one.key not in waited_for
            and now - (one.since if one.state is State.ASLEEP else one.used_at) >= self._idle_seconds
        ]
        steps: list[Step] = []
        for one in found:
            if one.can_sleep and one.state is State.ON_DEVICE:
                steps.append(Sleep(key=one.key, place=one.place))
            else:
                steps.append(Stop(key=one.key, why="nobody has asked for it"))
            self._enters(one, State.LEAVING)
        return steps

    # --- small steps ---

    def _is_held_back(self, ticket: Ticket, resident: Resident) -> bool:
        """Bulk work, of a model that live services use, while other bulk work of it is under way."""
        if ticket.is_live or not any(not other.is_live for other in resident.at_work):
            return False
        return resident.is_kept or any(other.is_live for other in resident.at_work)

    def _begin(self, ticket: Ticket, resident: Resident) -> None:
        self._waiting.remove(ticket)
        ticket.is_at_work = True
        resident.at_work.add(ticket)
        self._used(resident, 1)

    def _enters(self, resident: Resident, state: State) -> None:
        resident.state, resident.since = state, self._clock()

    def _is_gone(self, resident: Resident) -> None:
        self._enters(resident, State.ABSENT)
        resident.reserved_mib, resident.mib, resident.has_outgrown = 0, 0, False
        resident.at_work.clear()

    def _refused(self, resident: Resident, error: HeadraceError) -> None:
        resident.refusal = error
        resident.pause_seconds = min(max(_PAUSE_SECONDS_MIN, 2 * resident.pause_seconds), _PAUSE_SECONDS_MAX)
        resident.tried_again_at = self._clock() + resident.pause_seconds

    def _refusal_now(self, resident: Resident, *, is_live: bool) -> HeadraceError | None:
        if resident.peak_mib > self.accounts[resident.place]:
            return self._too_large(resident)
        beside_live = self.accounts[resident.place] - self._kept_mib(resident)
        if not is_live and max(resident.peak_mib, 1) > beside_live:
            return EngineUnavailable(
                f"{resident.label} needs {max(resident.peak_mib, 1)} MiB, and of the {self.accounts[resident.place]} "
                f"MiB that {resident.place} of this engine host has for models, live services keep all but "
                f"{beside_live}. Give it more (--memory-mib), or set HEADRACE_ENGINE_HOST=off for this run."
            )
        return resident.refusal if resident.refusal and self._clock() < resident.tried_again_at else None

    def _too_large(self, resident: Resident) -> EngineUnavailable:
        return EngineUnavailable(
            f"{resident.label} needs more than {resident.peak_mib} MiB, and {resident.place} of this engine host has "
            f"{self.accounts[resident.place]} MiB for models, of which {self._free_mib(resident.place)} are free. Give "
            "it more (--memory-mib), or set HEADRACE_ENGINE_HOST=off, so that each run opens its own."
        )

    def _wanted_mib(self, resident: Resident) -> int:
        # A first guess may be too high: alone, any model is tried.
        most = self.accounts[resident.place]
        if not resident.peak_mib:
            return min(resident.guess_mib, most)
        return min(resident.peak_mib + int(resident.peak_mib * _SLACK_SHARE) + _SLACK_MIB, most)

    def _kept_mib(self, beside: Resident) -> int:
        """Memory at a model's place that others hold or come to hold, and that does not come free for bulk work."""
        return sum(
            one.reserved_mib
            for one in self._residents.values()
            if one.place == beside.place and one.is_kept and one is not beside
        )

    def _free_mib(self, place: str) -> int:
        return self.accounts[place] - self.reserved_mib(place)

    def _free_now_mib(self, place: str) -> int:
        """Of the account, and of what others have left of the place. Alone, a model is tried all the same."""
        there = [one for one in self._residents.values() if one.place == place and one.state is not State.ABSENT]
        if self._available_mib is None or not there:
            return self._free_mib(place)
        still_to_grow = sum(max(0, one.reserved_mib - one.mib) for one in there)
        return min(self._free_mib(place), self._available_mib(place) - still_to_grow)

    def _has_stayed(self, resident: Resident, seconds_back: float | None) -> bool:
        return self._clock() - resident.since >= _STAY_FACTOR * (seconds_back or 0.0)

    def _used(self, resident: Resident, num_uses: int) -> None:
        resident.uses, resident.used_at = self._uses(resident) + num_uses, self._clock()

    def _uses(self, resident: Resident) -> float:
        return resident.uses * 0.5 ** ((self._clock() - resident.used_at) / _HALF_LIFE_SECONDS)

    def _worth(self, resident: Resident) -> float:
        """Seconds that its absence would cost, for each MiB that it holds."""
        return _seconds_back(resident) * self._uses(resident) / max(resident.reserved_mib, 1)


def _seconds_back(resident: Resident) -> float:
    """What it takes to have it again; 0: it has never come."""
    return (resident.bring_seconds if resident.wake_seconds is None else resident.wake_seconds) or 0.0


def _freed_by_sleep(resident: Resident) -> int:
    """Before it slept for the first time, half of what it holds is a guess."""
    return resident.reserved_mib - (resident.asleep_mib or resident.reserved_mib // 2)


def _order(ticket: Ticket) -> float:
    """Work is let in by it, the lowest first."""
    return ticket.since if ticket.is_live else ticket.since + _BULK_PATIENCE_SECONDS
