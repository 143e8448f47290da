"""A model that a host knows, its copies at places, and what is measured of both. Sizes are in MiB. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Annotated

from annotated_types import Ge, Le

from headrace.engines.host.work import Ticket, Waiting, WorkSeconds
from headrace.errors import HeadraceError
from headrace.fairness import CLASSES, ClassTurns, WorkClass

# On top of the most that was measured: a process that comes again is seldom as large to the MiB.
_SLACK_SHARE, _SLACK_MIB = 0.05, 16
# Of its part a sleeping copy is thought to hold so much, until it was measured.
_ASLEEP_SHARE = 0.25


# More, and infinities, are damage.
_Mib = Annotated[int, Ge(0), Le(2**40)]
_Seconds = Annotated[float, Ge(0), Le(1e9)]


# A file that processes map, by device and inode: in memory once, whoever maps it.
Component = tuple[str, int]


class State(Enum):
    """Of a copy; the value is for people."""

    ABSENT = "absent"
    LOADING = "loading"
    ON_DEVICE = "on the device"
    FALLING_ASLEEP = "falling asleep"
    ASLEEP = "asleep"
    WAKING = "waking"
    LEAVING = "leaving"


# It will be able to work.
COMING = frozenset({State.LOADING, State.WAKING})


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured of a model, components and all, for a later host. None and 0: never.

    `coming_mib`: the most while it came or woke. `held_mib`: the most since then, at work too.
    """

    coming_mib: _Mib = 0
    held_mib: _Mib = 0
    asleep_mib: _Mib | None = None
    asleep_home_mib: _Mib | None = None
    bring_seconds: _Seconds | None = None
    wake_seconds: _Seconds | None = None
    num_worked: Annotated[int, Ge(0)] = 0
    work_seconds: _Seconds = 0.0


@dataclass(eq=False, kw_only=True)
class Copy:
    """Of a model, at one place. `since`: of the state. `reserved_mib`: its own part of the place's account.
    `components`: what it holds there beside that, maybe with others."""

    model: "Model"
    place: str
    state: State = State.LOADING
    since: float = 0.0
    reserved_mib: int = 0
    components: frozenset[Component] = frozenset()
    # Of the machine's own memory, while it sleeps at another place.
    home_mib: int = 0
    home_components: frozenset[Component] = frozenset()
    # Measured last: for itself, and of each component.
    own_mib: int = 0
    mapped: Mapping[Component, int] = field(default_factory=dict)
    # All, at the highest since it had come, fell asleep, or began to come.
    most_mib: int = 0
    # The most that was measured of each component since it began to come.
    seen: dict[Component, int] = field(default_factory=dict)
    # Of components that it held since it had come, and that are not expected any more.
    let_go_mib: int = 0
    # It has answered since then: mapped files are in memory once they were used.
    has_answered: bool = False
    # When it came to the device last, and when it last had work.
    came_at: float = 0.0
    used_at: float = 0.0
    # What it does, and what gathers its parts for it.
    at_work: set[Ticket] = field(default_factory=set)
    # It takes no later work, since another model needs the room.
    is_closed: bool = False
    has_outgrown: bool = False
    # Which class of work is next.
    turns: ClassTurns = field(default_factory=ClassTurns)

    @property
    def mib(self) -> int:
        """All that was measured last."""
        return self.own_mib + sum(self.mapped.values())

    @property
    def most_own_mib(self) -> int:
        """For itself, at the highest: of that moment all that no component explains."""
        return max(self.own_mib, self.most_mib - sum(self.seen.values()) - self.let_go_mib)

    @property
    def rests_since(self) -> float:
        """Since when it does as it does: without work on the device, or asleep."""
        return self.since if self.state is State.ASLEEP else self.used_at

    @property
    def is_open(self) -> bool:
        return self.state is State.ON_DEVICE and not self.is_closed

    def has_room_for(self, ticket: Ticket) -> bool:
        """A batch of more turns than are done at once begins where nothing else is at work."""
        if not self.is_open:
            return False
        limit = self.model.num_at_once
        num_turns = 0 if limit is None else self._num_turns(ticket.work_class)
        return limit is None or not num_turns or num_turns + ticket.size <= limit

    @property
    def has_room(self) -> bool:
        """For some more work, of whatever class."""
        limit = self.model.num_at_once
        return self.is_open and (limit is None or min(map(self._num_turns, CLASSES)) < limit)

    def _num_turns(self, work_class: WorkClass) -> int:
        """At work, as far as they count for work of this class: bulk work of a more urgent one is not in its way where
        it begins in the middle of the other."""
        if not self.model.live_is_beside:
            return sum(one.size for one in self.at_work)
        if work_class == "live":
            return sum(one.size for one in self.at_work if one.is_live)
        return sum(one.size for one in self.bulk_before(work_class))

    def bulk_before(self, work_class: WorkClass) -> list[Ticket]:
        """What it does that nobody waits for, and that is not less urgent than this class."""
        return [one for one in self.at_work if not one.is_live and (work_class == "batch" or one.work_class == "flex")]

    @property
    def could_serve(self) -> bool:
        """Now, or once it has come."""
        state = self.state
        return (state is State.ON_DEVICE and not self.is_closed) or state is State.LOADING or state is State.WAKING

    @property
    def is_less_asleep(self) -> bool:
        """It can sleep now, and would hold less then."""
        return self.state is State.ON_DEVICE and self.will_be_less_asleep

    @property
    def will_be_less_asleep(self) -> bool:
        """Once it is on the device, if it is not."""
        if not self.model.can_sleep or not (self.state is State.ON_DEVICE or self.state in COMING):
            return False
        is_smaller = self.reserved_mib > self.model.asleep_part_mib(self.reserved_mib)
        return is_smaller or not self.components <= self.model.asleep_components.keys()


@dataclass(eq=False, kw_only=True)
class Model:
    """What tickets ask for, at any of `places`."""

    key: str
    label: str
    places: tuple[str, ...]
    guess_mib: int
    # Turns that a copy does at once; None: as many as come.
    num_at_once: int | None = None
    # More urgent work begins in the middle of other work, so that each class has a limit of its own.
    live_is_beside: bool = False
    can_sleep: bool = False
    copies: dict[str, Copy] = field(default_factory=dict)
    waiting: Waiting = field(default_factory=Waiting)
    # The most that a copy held, components and all: while it came or woke, and since then.
    coming_mib: int = 0
    held_mib: int = 0
    # The most that one held for itself since it had come, and its components as they were seen last on the device.
    own_mib: int = 0
    components: Mapping[Component, int] = field(default_factory=dict)
    # It has answered since, so that these two are all that it needs.
    is_divided: bool = False
    # What one held asleep last: of a later host's figures all, as it has none of components.
    asleep_mib: int | None = None
    asleep_components: Mapping[Component, int] = field(default_factory=dict)
    # What one held of the machine's own memory then, if its place is another.
    asleep_home_mib: int | None = None
    asleep_home_components: Mapping[Component, int] = field(default_factory=dict)
    # None: it has never come, or never woken.
    bring_seconds: float | None = None
    wake_seconds: float | None = None
    work: WorkSeconds = field(default_factory=WorkSeconds)
    # When its last copy left; of one that has never come, when it was asked for first.
    gone_at: float = 0.0
    used_at: float = 0.0
    # Decayed uses, as of `used_at`.
    uses: float = 0.0
    num_hits: int = 0
    num_loads: int = 0
    num_wakes: int = 0
    refusal: HeadraceError | None = None
    tried_again_at: float = 0.0
    pause_seconds: float = 0.0
    num_crashes: int = 0

    @property
    def num_serving(self) -> int:
        """Copies that work, or will."""
        return sum(one.could_serve for one in self.copies.values())

    def uses_at(self, now: float, half_life_seconds: float) -> float:
        return self.uses * 0.5 ** ((now - self.used_at) / half_life_seconds)

    @property
    def peak_mib(self) -> int:
        """The most that a copy ever held, components and all."""
        return max(self.coming_mib, self.held_mib)

    @property
    def components_mib(self) -> int:
        return sum(self.components.values())

    def wanted_mib(self, account_mib: int) -> int:
        """For a copy itself that comes, beside its components. A first guess is one of all together, and may be too
        high: alone, any model is tried. It stands until the model has answered, for mapped files are in memory once
        they were used.
        """
        if self.is_divided:
            # As it comes it may hold more: a file that it maps and lets go, or two of what it keeps one of.
            most = max(self.own_mib, self.coming_mib - self.components_mib)
            return self.beside_components(_with_slack(most), account_mib)
        whole = _with_slack(self.peak_mib) if self.work.num else max(self.guess_mib, self.peak_mib)
        return self.beside_components(max(self.own_mib, whole - self.components_mib), account_mib)

    def measured_part_mib(self, account_mib: int) -> int:
        """For a copy itself, as far as was measured."""
        return self.beside_components(_with_slack(self.own_mib or self.peak_mib), account_mib)

    def beside_components(self, mib: int, account_mib: int) -> int:
        """Cut to what its components leave: what it held for itself at another time it need not hold beside them."""
        return max(1, min(mib, account_mib - self.components_mib))

    def divide(self) -> None:
        """It has answered, so that its parts are known; it may need as much as an earlier host has seen."""
        if not self.is_divided and self.own_mib:
            self.is_divided, self.own_mib = True, max(self.own_mib, self.held_mib - self.components_mib)

    def tried_with(self, account_mib: int) -> None:
        """It held more once: it comes again with all that a place has, and is measured anew."""
        self.coming_mib, self.held_mib = account_mib, 0
        self.own_mib, self.components, self.is_divided = 0, {}, False

    @property
    def least_mib(self) -> int:
        """It does not come with less, unless that is a guess, and no place could ever give it."""
        return self.own_mib or (max(1, self.peak_mib - self.components_mib) if self.peak_mib else self.guess_mib)

    def asleep_part_mib(self, reserved_mib: int) -> int:
        """What a copy asleep will need for itself of what it has."""
        if self.asleep_mib is None:
            return int(reserved_mib * _ASLEEP_SHARE)
        return min(reserved_mib, self.asleep_mib + _SLACK_MIB)

    def asleep_home_part_mib(self, reserved_mib: int) -> int:
        """What a copy that has so much elsewhere will need of the machine's own memory; at first: as much."""
        return reserved_mib if self.asleep_home_mib is None else self.asleep_home_mib + _SLACK_MIB

    def come_seconds(self, copy: Copy | None) -> float:
        """Until one is on the device where there is this copy of it."""
        if copy is not None and copy.state is State.ASLEEP:
            return self._wake_seconds
        return self.bring_seconds or 0.0

    def soonest_seconds(self) -> float:
        """Until a copy is on the device, at the place where that takes least."""
        return min(map(self.come_seconds, self.copies.values()), default=self.bring_seconds or 0.0)

    def back_seconds(self, copy: Copy) -> float:
        """Until this copy would be on the device again, once it has made room: by sleeping, if it can."""
        return self._wake_seconds if copy.is_less_asleep else self.bring_seconds or 0.0

    @property
    def _wake_seconds(self) -> float:
        """Until one has woken, half of what coming takes is thought to be the process itself."""
        if self.wake_seconds is None:
            return 0.5 * (self.bring_seconds or 0.0)
        return min(self.wake_seconds, self.bring_seconds or self.wake_seconds)

    @property
    def figures(self) -> Figures:
        return Figures(
            coming_mib=self.coming_mib,
            held_mib=self.held_mib,
            asleep_mib=_whole(self.asleep_mib, self.asleep_components),
            asleep_home_mib=_whole(self.asleep_home_mib, self.asleep_home_components),
            bring_seconds=self.bring_seconds,
            wake_seconds=self.wake_seconds,
            num_worked=self.work.num,
            work_seconds=self.work.mean,
        )

    def remember(self, figures: Figures, account_mib: int) -> None:
        """What an earlier table measured; its account may have been larger, or one wild turn."""
        for name, value in asdict(figures).items():
            if name not in ("num_worked", "work_seconds"):
                setattr(self, name, value)
        self.work = WorkSeconds(num=figures.num_worked, mean=figures.work_seconds)
        if self.peak_mib > account_mib:
            self.tried_with(account_mib)


def _with_slack(mib: int) -> int:
    return mib + int(mib * _SLACK_SHARE) + _SLACK_MIB


def _whole(mib: int | None, components: Mapping[Component, int]) -> int | None:
    return None if mib is None else mib + sum(components.values())
