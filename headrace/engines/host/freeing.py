"""What comes free at a place as copies leave it or fall asleep there. Pure: looks, and changes nothing."""

from collections.abc import Collection

from headrace.engines.host.account import Accounts
from headrace.engines.host.copies import Component, Copy, State


class Freeing:
    """Copies that go together: a component comes free with the last of its holders, so that several which share one
    make room that none of them would make alone. `mib`: what all that were added free."""

    def __init__(self, accounts: Accounts, place: str, needed: Collection[Component] = ()) -> None:
        """Args: needed: components that stay, since who comes holds them."""
        self._accounts, self._place, self._needed = accounts, place, needed
        # Counted already: of copies' parts, and of components' holders.
        self._own: dict[Copy, int] = {}
        self._going: dict[Component, set[Copy]] = {}
        self.mib = 0

    def add(self, copy: Copy, state: State) -> int:
        """MiB more that come free if this copy leaves or falls asleep, too. One that sleeps may leave after that."""
        own, stays = self._let_go(copy, state)
        more = max(0, own - self._own.get(copy, 0))
        self._own[copy] = self._own.get(copy, 0) + more
        for component, mib in self._accounts.components(copy, self._place).items():
            if component in stays or component in self._needed:
                continue
            going = self._going.setdefault(component, set())
            if copy not in going:
                going.add(copy)
                if len(going) == len(self._accounts.holders_of(component, self._place)):
                    more += mib
        self.mib += more
        return more

    def _let_go(self, copy: Copy, state: State) -> tuple[int, Collection[Component]]:
        """Of its part, and the components that it holds on to."""
        if state is State.LEAVING:
            return self._accounts.part(copy, self._place), ()
        if copy.place != self._place:
            # What falls asleep elsewhere has its part here until it is awake.
            return 0, self._accounts.components(copy, self._place)
        return max(0, copy.reserved_mib - copy.model.asleep_part_mib(copy.reserved_mib)), copy.model.asleep_components
