"""Where a model comes to, and which copies make room for it there. Pure: looks, and changes nothing.

A copy without work makes room at once; one under work only for a model that has waited long, and then takes no later
work. Those go first whose absence costs least: the uses expected of a copy, times the seconds until it is back, for
each MiB that comes free. A copy that can sleep sleeps first, and leaves if that is not enough. One that has just come
stays for some times what its coming took, unless nobody has used it for a good part of that: so two models that have
room for one take turns of useful length.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from headrace.engines.host.copies import Component, Copy, Model, State
from headrace.engines.host.freeing import Freeing
from headrace.engines.host.holdings import Holdings


@dataclass(eq=False, kw_only=True)
class Room:
    """For a model at a place, once the copies in the way have left it. `only_at`: as the tickets that ask have it."""

    model: Model
    place: str
    only_at: str | None
    # Copies that make it, and whether they leave or sleep.
    in_the_way: dict[Copy, State] = field(default_factory=dict)
    # Seconds until the model is there, and those that the absence of the others is expected to cost.
    cost_seconds: float = 0.0

    @property
    def rank(self) -> tuple[float, float]:
        """The lowest is the best: of equals, the one whose copies have rested longest."""
        return (self.cost_seconds, max((one.used_at for one in self.in_the_way), default=0.0))


@dataclass(frozen=True, kw_only=True)
class Sought:
    """What room is looked for. `may_close`: also at copies under work. `takes_kept`: also at live sets' copies.
    `ignores_claims`: it completes what others' room would wait for."""

    model: Model
    only_at: str | None = None
    may_close: bool = False
    takes_kept: bool = False
    ignores_claims: bool = False

    @property
    def places(self) -> tuple[str, ...]:
        return self.model.places if self.only_at is None else (self.only_at,)


class Rooms:
    """Room that was found, and is being made."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings, self._accounts = holdings, holdings.accounts
        self._made: list[Room] = []

    def all(self) -> list[Room]:
        return list(self._made)

    def add(self, room: Room) -> None:
        self._made.append(room)

    def remove(self, room: Room) -> None:
        self._made.remove(room)

    def is_made_for(self, sought: Sought) -> bool:
        return any(one.model is sought.model and one.only_at == sought.only_at for one in self._made)

    def is_being_made(self, room: Room) -> bool:
        """Something that is in its way has not gone yet."""
        return self._leaving(room.place).mib > 0 or any(
            copy.is_closed and copy.state in (State.ON_DEVICE, State.ASLEEP) for copy in room.in_the_way
        )

    def num_by_model(self) -> dict[Model, int]:
        return Counter(one.model for one in self._made)

    def missing_mib(self, model: Model, place: str) -> int:
        """Until it could come there now."""
        return self._more_mib(place, model) - self._accounts.free_now(place)

    def found(self, sought: Sought) -> Room | None:
        """The cheapest, nothing in the way if there is room already; None: there is none now."""
        best: Room | None = None
        model, now = sought.model, self._holdings.clock()
        by_place: dict[str, list[Copy]] = {}
        for copy, place in self._holders(sought):
            if self._may_go(copy, sought, now):
                by_place.setdefault(place, []).append(copy)
        # Most places of a busy fleet are full. What leaves there is somebody's room already, or comes free by itself.
        could_hold = self._could_hold(model.least_mib)
        for place in sought.places:
            there = by_place.get(place, ())
            held = model.copies.get(place)
            if held is None and not there and place not in could_hold:
                continue
            if (held is not None and held.state is not State.ASLEEP) or model.peak_mib > self._accounts.mib[place]:
                continue
            room = self._at(place, sought, there, now)
            if room is not None and (best is None or room.rank < best.rank):
                best = room
        return best

    def is_hopeless(self, models: Iterable[Model]) -> bool:
        """No copy may make room now for any of these without being closed: a look at each of them is saved."""
        now = self._holdings.clock()
        if any(self._has_rested(copy, now) for copy in self._holdings.idle):
            return False
        most_mib = self._accounts.most_free()
        if self._holdings.kept or most_mib < self._holdings.least_mib:
            return not self._holdings.kept
        return not any(model.least_mib <= most_mib for model in models)

    def worth(self, copy: Copy, now: float) -> float:
        """Seconds that its absence would cost, for each MiB that comes free."""
        return self._offers(copy, copy.place, now)[0][0]

    def _could_hold(self, mib: int) -> Collection[str]:
        """What is only guessed is cut to what a place can give beside what is kept."""
        return self._accounts.mib if self._holdings.kept else self._accounts.could_hold(mib)

    def _has_rested(self, copy: Copy, now: float) -> bool:
        """It is idle, and not between two pieces of work."""
        if copy.state is State.ASLEEP:
            return True
        rest_seconds = self._holdings.rules.rest_share * copy.model.back_seconds(copy)
        return now - copy.used_at >= rest_seconds or self._has_stayed(copy, now)

    def _has_stayed(self, copy: Copy, now: float) -> bool:
        return now - copy.came_at >= self._holdings.rules.stay_factor * copy.model.back_seconds(copy)

    def _holders(self, sought: Sought) -> Iterable[tuple[Copy, str]]:
        """Copies and where they have memory: at the places that are looked at, or all without work."""
        if sought.may_close:
            return ((copy, place) for place in sought.places for copy in self._accounts.holders(place))
        return ((copy, place) for copy in self._holdings.idle for place in self._accounts.places_of(copy))

    def _at(self, place: str, sought: Sought, there: Iterable[Copy], now: float) -> Room | None:
        room = Room(model=sought.model, place=place, only_at=sought.only_at)
        room.cost_seconds = sought.model.come_seconds(sought.model.copies.get(place))
        claims = [] if sought.ignores_claims else [one.model for one in self._made if one.place == place]
        missing = self._more_mib(place, sought.model, *claims) - self._accounts.free_now(place)
        if missing <= 0:
            return room
        freeing = self._being_freed(place, sought.model)
        missing -= freeing.mib
        sleepable = self._sleepable_mib(place, sought)
        offers = sorted(
            (
                offer
                for copy in there
                for offer in self._offers(copy, place, now)
                if not self._is_spared(copy, offer[2], sleepable, missing, now)
            ),
            key=lambda offer: (offer[0], offer[1].used_at, offer[1].model.key),
        )
        needed, costs = missing, dict[Copy, float]()
        for _, copy, state, cost_seconds in offers:
            if missing <= 0:
                break
            room.in_the_way[copy] = state
            costs[copy] = costs.get(copy, 0.0) + cost_seconds
            missing -= freeing.add(copy, state)
        if missing > 0:
            return None
        if any(copy.components for copy in room.in_the_way):
            self._spare_needless(room, needed, costs)
        room.cost_seconds += sum(costs[copy] for copy in room.in_the_way)
        return room

    def _spare_needless(self, room: Room, needed_mib: int, costs: Mapping[Copy, float]) -> None:
        """Copies that share a component were taken for their part of it; without the last of them none comes free."""
        for copy in sorted(room.in_the_way, key=lambda one: -costs[one]):
            others = {one: state for one, state in room.in_the_way.items() if one is not copy}
            freeing = self._being_freed(room.place, room.model)
            if sum(freeing.add(one, state) for one, state in others.items()) >= needed_mib:
                room.in_the_way = others

    def _sleepable_mib(self, place: str, sought: Sought) -> int:
        """What comes free once all that are awake, or will be, sleep: when they have rested, or others waited long."""
        freeing = self._being_freed(place, sought.model)
        return sum(
            freeing.add(copy, State.FALLING_ASLEEP)
            for copy in self._accounts.at(place)
            if copy.will_be_less_asleep
            and copy.model is not sought.model
            and not copy.is_closed
            and _ends_by_itself(copy)
            and (sought.takes_kept or copy.model.key not in self._holdings.kept)
        )

    def _is_spared(self, copy: Copy, state: State, sleepable_mib: int, missing_mib: int, now: float) -> bool:
        """A process does not end where sleep alone can make the room, unless nobody has needed it for long."""
        if state is not State.LEAVING or sleepable_mib < missing_mib:
            return False
        long = self._holdings.rules.stay_factor * (copy.model.bring_seconds or 0.0)
        return bool(copy.model.waiting) or now - copy.used_at < long

    def _offers(self, copy: Copy, place: str, now: float) -> list[tuple[float, Copy, State, float]]:
        """Cost for each MiB, copy, what it does, cost: to sleep, and to leave what it holds asleep. What it holds with
        others counts by the share of each."""
        model, mib = copy.model, self._accounts.share(copy, place)
        uses = model.uses_at(now, self._holdings.rules.half_life_seconds)
        back = (model.bring_seconds or 0.0) * uses / max(1, model.num_serving)
        offers: list[tuple[float, Copy, State, float]] = []
        if copy.is_less_asleep:
            asleep = max(1, self._accounts.share_freed_by_sleep(copy))
            wake = back * model.back_seconds(copy) / model.bring_seconds if model.bring_seconds else 0.5 * back
            offers.append((wake / asleep, copy, State.FALLING_ASLEEP, wake))
            # No copy leaves before it would sleep.
            mib, back = mib - asleep, max(back - wake, wake / asleep * (mib - asleep))
        offers.append((back / max(mib, 1), copy, State.LEAVING, back))
        return offers

    def _may_go(self, copy: Copy, sought: Sought, now: float) -> bool:
        model, state = copy.model, copy.state
        if copy.is_closed or model is sought.model or (state is not State.ON_DEVICE and state is not State.ASLEEP):
            return False
        if model.key in self._holdings.kept and not sought.takes_kept:
            return False
        if state is State.ASLEEP:
            return True
        if not copy.at_work and not model.waiting:
            return self._has_rested(copy, now)
        if not sought.may_close or not self._has_stayed(copy, now):
            return False
        return _ends_by_itself(copy)

    def _more_mib(self, place: str, *models: Model) -> int:
        """Than the place's account has promised, for all of these to come there: what they share, once."""
        own_mib, components = 0, dict[Component, int]()
        for model in models:
            part, needed = self._holdings.to_come(model, place)
            copy = model.copies.get(place)
            own_mib += part - (copy.reserved_mib if copy else 0)
            components.update(needed)
        there = self._accounts.component_mib
        return own_mib + sum(max(0, mib - there(one, place)) for one, mib in components.items())

    def _leaving(self, place: str, needed: Collection[Component] = ()) -> Freeing:
        """What comes free by itself."""
        freeing = Freeing(self._accounts, place, needed)
        for copy in self._accounts.holders(place):
            if copy.state in (State.LEAVING, State.FALLING_ASLEEP):
                freeing.add(copy, copy.state)
        return freeing

    def _being_freed(self, place: str, model: Model) -> Freeing:
        """That, and what copies free that make room once their work is done. What is needed of it, by this model or by
        those that room is made for, stays."""
        rooms = [one for one in self._made if one.place == place]
        needed = {one for coming in (model, *(room.model for room in rooms)) for one in coming.components}
        freeing = self._leaving(place, needed)
        for room in rooms:
            for copy, state in room.in_the_way.items():
                if copy.is_closed and copy.state in (State.ON_DEVICE, State.ASLEEP):
                    freeing.add(copy, state)
        return freeing


def _ends_by_itself(copy: Copy) -> bool:
    """All that it does; what gathers its parts waits for room itself."""
    return all(one.is_at_work and (one.belongs_to or one).is_at_work for one in copy.at_work)
