"""Accounts of memory: what each place has for models, and which copy has which part of it. Sizes are in MiB. Pure.

A copy's part is its own; beside it a copy holds components, files that its process maps: what several hold is in memory
once, and is in the account once, by the largest figure told. All is given and taken in one method, which gives no more
than there is.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from headrace.engines.host.copies import Component, Copy


@dataclass(eq=False, kw_only=True)
class _Held:
    """A component at a place, and the copies that hold it."""

    mib: int = 0
    holders: dict[Copy, None] = field(default_factory=dict)


class Accounts:
    def __init__(
        self, mib: Mapping[str, int], available_mib: Callable[[str], int] | None = None, home: str | None = None
    ) -> None:
        """Args:
        mib: place → what it has for all of its models together.
        available_mib: what a place really has free now, whoever holds the rest; None: its whole account is the host's.
        home: the place whose memory a copy has that sleeps at another; None: there is no such account.
        """
        self.home = home
        # Copies that sleep at other places.
        self._guests: dict[Copy, None] = {}
        self.mib = dict(mib)
        # Of the smallest place.
        self.least_mib = min(mib.values(), default=0)
        self._available_mib = available_mib
        self._reserved = dict.fromkeys(mib, 0)
        self._copies: dict[str, dict[str, Copy]] = {place: {} for place in mib}
        self._components: dict[str, dict[Component, _Held]] = {place: {} for place in mib}

    def at(self, place: str) -> list[Copy]:
        return list(self._copies[place].values())

    def holders(self, place: str) -> list[Copy]:
        """All that have a part of its account: copies there, and those that sleep elsewhere."""
        return [*self.at(place), *(self._guests if place == self.home else ())]

    def places_of(self, copy: Copy) -> tuple[str, ...]:
        """Whose accounts it has parts of."""
        return (copy.place, self.home) if copy.home_mib and self.home is not None else (copy.place,)

    def part(self, copy: Copy, place: str) -> int:
        """What the copy has of a place's account for itself."""
        return copy.reserved_mib if copy.place == place else copy.home_mib if place == self.home else 0

    def components(self, copy: Copy, place: str) -> Mapping[Component, int]:
        """Those that the copy holds there."""
        held = copy.components if copy.place == place else copy.home_components if place == self.home else ()
        there = self._components[place]
        return {one: there[one].mib for one in held}

    def component_mib(self, component: Component, place: str) -> int:
        """0: it is not there."""
        held = self._components[place].get(component)
        return held.mib if held else 0

    def holders_of(self, component: Component, place: str) -> Collection[Copy]:
        return self._components[place][component].holders

    def share(self, copy: Copy, place: str) -> int:
        """Its part, and of what it holds with others as much as falls to each."""
        held = copy.components if copy.place == place else copy.home_components
        there = self._components[place]
        return self.part(copy, place) + sum(there[one].mib // len(there[one].holders) for one in held)

    def share_freed_by_sleep(self, copy: Copy) -> int:
        """Of its share, what it lets go when it falls asleep."""
        there, stays = self._components[copy.place], copy.model.asleep_components
        own = max(0, copy.reserved_mib - copy.model.asleep_part_mib(copy.reserved_mib))
        return own + sum(there[one].mib // len(there[one].holders) for one in copy.components if one not in stays)

    def held_mib(self, place: str, copies: Iterable[Copy], *, beside: Collection[Component] = ()) -> int:
        """By these copies together, each component once; `beside`: components that do not count."""
        own_mib, components = 0, dict[Component, int]()
        for copy in copies:
            own_mib += self.part(copy, place)
            components.update(self.components(copy, place))
        return own_mib + sum(mib for one, mib in components.items() if one not in beside)

    def reserved(self, place: str) -> int:
        return self._reserved[place]

    def free(self, place: str) -> int:
        return self.mib[place] - self._reserved[place]

    def could_hold(self, mib: int) -> set[str]:
        """Places that could without anybody making room; also those of which nothing is promised, since what is
        larger than them is so by a guess."""
        return {
            place for place, reserved in self._reserved.items() if not reserved or self.mib[place] - reserved >= mib
        }

    def most_free(self) -> float:
        """At any place; a place of which nothing is promised could hold anything."""
        return max(
            (self.mib[place] - reserved if reserved else float("inf") for place, reserved in self._reserved.items()),
            default=0.0,
        )

    def free_now(self, place: str) -> int:
        """Of the account, and of what others have left of the place. Alone, a model is tried all the same."""
        free = self.free(place)
        if self._available_mib is None or not self._copies[place]:
            return free
        still_to_grow = sum(max(0, one.reserved_mib - one.own_mib) for one in self._copies[place].values())
        still_to_grow += sum(
            held.mib
            for component, held in self._components[place].items()
            if not any(component in one.mapped for one in held.holders)
        )
        return min(free, self._available_mib(place) - still_to_grow)

    def more_mib(self, place: str, copy: Copy | None, mib: int, components: Mapping[Component, int]) -> int:
        """What the account would have to give for the copy, None: one that is not there yet, to have this."""
        there = self._components[place]
        more = mib - (self.part(copy, place) if copy else 0)
        for component, size in components.items():
            more += max(0, size - (there[component].mib if component in there else 0))
        if copy is not None:
            for component, size in self.components(copy, place).items():
                if component not in components and len(there[component].holders) == 1:
                    more -= size
        return more

    def give(self, copy: Copy, mib: int, components: Mapping[Component, int] | None = None) -> None:
        """Makes these the copy's part and components; 0: it is gone. None: the components that it holds."""
        copy.components = self._set(copy.place, copy, mib, components)
        copy.reserved_mib = mib
        if mib:
            self._copies[copy.place][copy.model.key] = copy
        else:
            self._copies[copy.place].pop(copy.model.key, None)

    def give_at_home(self, copy: Copy, mib: int, components: Mapping[Component, int] | None = None) -> None:
        """Makes these what the copy has at home beside its own; 0: nothing."""
        if self.home is None or copy.place == self.home:
            return
        copy.home_components = self._set(self.home, copy, mib, components)
        copy.home_mib = mib
        if mib:
            self._guests[copy] = None
        else:
            self._guests.pop(copy, None)

    def _set(
        self, place: str, copy: Copy, mib: int, components: Mapping[Component, int] | None
    ) -> frozenset[Component]:
        before, there = self.components(copy, place), self._components[place]
        after = {} if not mib else before if components is None else components
        reserved = self._reserved[place] + self.more_mib(place, copy, mib, after)
        assert 0 <= reserved <= self.mib[place], "more is promised than there is"
        self._reserved[place] = reserved
        for component in before.keys() - after.keys():
            held = there[component]
            del held.holders[copy]
            if not held.holders:
                del there[component]
        for component, size in after.items():
            held = there.setdefault(component, _Held())
            held.mib = max(held.mib, size)
            held.holders[copy] = None
        return frozenset(after)
