"""What copies are measured to hold, and what they get of the account for it. Pure.

A copy that holds more than it has gets more, if there is some; else it has outgrown its part. So does one that held
more for a moment between two looks, but for one that comes: what it held is past, and is promised the next time. As
long as its part is a guess at all that it will hold, the components that come to light are paid from it.
"""

from collections.abc import Mapping

from headrace.engines.host.copies import COMING, Component, Copy, Model, State
from headrace.engines.host.holdings import Holdings


class Parts:
    def __init__(self, holdings: Holdings) -> None:
        self._holdings, self._accounts = holdings, holdings.accounts

    def is_rough(self, copy: Copy) -> bool:
        """It has more than its model needs as far as was measured, or that was not measured yet."""
        return not copy.has_answered or copy.reserved_mib > copy.model.measured_part_mib(self._accounts.mib[copy.place])

    def measured(self, copy: Copy, mib: int, components: Mapping[Component, int], most_mib: int | None) -> bool:
        """Whether it has not outgrown its part. Args: mib: for itself, beside the components."""
        copy.own_mib, copy.mapped = mib, components
        copy.most_mib = copy.mib if most_mib is None else max(copy.mib, most_mib)
        if copy.state is State.LEAVING:
            return True
        if copy.state is State.FALLING_ASLEEP:
            # It is still as large as it was, and may have done something since the look before.
            self._learn_held(copy.model, copy)
            return True
        for component, size in components.items():
            copy.seen[component] = max(size, copy.seen.get(component, 0))
        if copy.state is not State.ASLEEP:
            self._learn(copy.model, copy)
        if self._is_given(copy, copy.most_own_mib):
            return True
        return copy.state in COMING and self._is_given(copy, copy.own_mib)

    def asleep(self, copy: Copy, home_mib: int, home_components: Mapping[Component, int]) -> bool:
        """Makes its part what it holds asleep, as measured last; whether it has not outgrown what it has at home."""
        model = copy.model
        model.asleep_mib, model.asleep_components = copy.own_mib, copy.mapped
        copy.seen, copy.let_go_mib = dict(copy.mapped), 0
        part = max(1, model.asleep_part_mib(copy.reserved_mib))
        if self._accounts.more_mib(copy.place, copy, part, copy.mapped) > self._accounts.free(copy.place):
            return False
        self._accounts.give(copy, part, copy.mapped)
        if not copy.home_mib:
            return True
        model.asleep_home_mib, model.asleep_home_components = home_mib, home_components
        home, part = self._accounts.home or "", model.asleep_home_part_mib(0)
        if self._accounts.more_mib(home, copy, part, home_components) > self._accounts.free(home):
            return False
        self._accounts.give_at_home(copy, part, home_components)
        return True

    def begins_to_come(self, copy: Copy) -> None:
        """It has had its part, and components that are expected; what it will hold is measured anew."""
        copy.seen, copy.let_go_mib, copy.has_answered = {}, 0, False

    def has_answered(self, copy: Copy) -> None:
        """What that takes is known now, and the first guess was rough."""
        if not copy.has_answered:
            kept = {one: mib for one, mib in copy.seen.items() if one in copy.mapped}
            copy.let_go_mib = sum(copy.seen.values()) - sum(kept.values())
            copy.has_answered, copy.seen = True, kept
        if not copy.at_work:
            model = copy.model
            wanted = model.measured_part_mib(self._accounts.mib[copy.place]) if model.is_divided else copy.reserved_mib
            self._accounts.give(copy, min(copy.reserved_mib, wanted))

    def outgrown(self, copy: Copy) -> str:
        """Why it ends. What it was expected to hold, and did not, is expected no more."""
        self._expect(copy, copy.seen)
        part_mib = self._accounts.held_mib(copy.place, [copy])
        return f"holds {copy.most_mib} MiB, and its part is {part_mib} MiB"

    def _learn(self, model: Model, copy: Copy) -> None:
        if copy.state in COMING:
            model.coming_mib = max(model.coming_mib, copy.most_mib)
        else:
            self._learn_held(model, copy)
        # Before it has answered, a file may not be in memory yet.
        self._expect(copy, copy.seen if copy.has_answered else {**model.components, **copy.seen})
        self._holdings.least_mib = min(self._holdings.least_mib, model.least_mib)

    def _learn_held(self, model: Model, copy: Copy) -> None:
        model.held_mib = max(model.held_mib, copy.most_mib)
        model.own_mib = max(model.own_mib, copy.most_own_mib)

    def _expect(self, copy: Copy, components: Mapping[Component, int]) -> None:
        """What no place could hold at once is not expected."""
        fits = copy.own_mib + sum(components.values()) <= self._accounts.mib[copy.place]
        copy.model.components = dict(components if fits else copy.mapped)

    def _is_given(self, copy: Copy, own_mib: int) -> bool:
        accounts, place = self._accounts, copy.place
        held = accounts.components(copy, place)
        seen = {one: max(mib, held.get(one, 0)) for one, mib in copy.mapped.items()}
        seen |= {one: mib for one, mib in held.items() if one in copy.seen and one not in seen}
        expected = seen if copy.has_answered else {**held, **seen}
        grown = sum(mib - held.get(one, 0) for one, mib in seen.items())
        whole, paying = max(own_mib, copy.reserved_mib), max(own_mib, copy.reserved_mib - grown)
        choices = [(whole, expected), (paying, expected), (paying, seen)]
        # A guess is one of all that it will hold.
        for part, components in choices if copy.model.is_divided else choices[1:]:
            if accounts.more_mib(place, copy, part, components) <= accounts.free(place):
                accounts.give(copy, part, components)
                return True
        return False
