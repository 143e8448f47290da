"""Accounts of memory: what each place has for models, and which copy has which part of it. Sizes are in MiB. Pure.

All parts are given and taken in one method, which gives no more than there is.
"""

from collections.abc import Callable, Mapping

from headrace.engines.host.copies import Copy, State


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

    def at(self, place: str) -> list[Copy]:
        return list(self._copies[place].values())

    def holders(self, place: str) -> list[Copy]:
        """All that have a part of its account: copies there, and those that sleep elsewhere."""
        return [*self.at(place), *(self._guests if place == self.home else ())]

    def places_of(self, copy: Copy) -> tuple[str, ...]:
        """Whose accounts it has parts of."""
        return (copy.place, self.home) if copy.home_mib and self.home is not None else (copy.place,)

    def part(self, copy: Copy, place: str) -> int:
        """What the copy has of a place's account."""
        return copy.reserved_mib if copy.place == place else copy.home_mib if place == self.home else 0

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
        still_to_grow = sum(max(0, one.reserved_mib - one.mib) for one in self._copies[place].values())
        return min(free, self._available_mib(place) - still_to_grow)

    def give(self, copy: Copy, mib: int) -> None:
        """Makes this the copy's part; 0: it is gone."""
        self._change(copy.place, mib - copy.reserved_mib)
        copy.reserved_mib = mib
        if mib:
            self._copies[copy.place][copy.model.key] = copy
        else:
            self._copies[copy.place].pop(copy.model.key, None)

    def give_at_home(self, copy: Copy, mib: int) -> None:
        """Makes this the part that the copy has at home beside its own; 0: none."""
        if self.home is None or copy.place == self.home:
            return
        self._change(self.home, mib - copy.home_mib)
        copy.home_mib = mib
        if mib:
            self._guests[copy] = None
        else:
            self._guests.pop(copy, None)

    def _change(self, place: str, more_mib: int) -> None:
        reserved = self._reserved[place] + more_mib
        assert 0 <= reserved <= self.mib[place], "more is promised than there is"
        self._reserved[place] = reserved

    def leaving(self, place: str) -> int:
        """What comes free by itself."""
        return sum(self.part(one, place) for one in self.holders(place) if one.state is State.LEAVING) + sum(
            max(0, one.reserved_mib - one.model.asleep_part_mib(one.reserved_mib))
            for one in self._copies[place].values()
            if one.state is State.FALLING_ASLEEP
        )
