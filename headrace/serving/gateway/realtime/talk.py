"""What has been said in a call, and how something more is: applied at once, then kept."""

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from headrace.clock import Clock
from headrace.voice.turns import CallState, TurnEvent, applied

Keep = Callable[[Sequence[TurnEvent], CallState], Awaitable[None]]
"""Takes events, and the call after them; what it returns waits until they are kept. They are kept in the order in which
it is called."""


class Talk:
    """Attributes: state: the call as it is now."""

    def __init__(self, state: CallState, keep: Keep, *, clock: Clock, num_items_max: int) -> None:
        self.state = state
        self._keep, self._clock, self._num_items_max = keep, clock, num_items_max

    def happened(self, *events: TurnEvent) -> Awaitable[None]:
        """Applies events before it returns; what it returns waits until they are kept. With too many items, the first
        ones go."""
        now = self._clock.now()
        stamped = [replace(event, at=now) for event in events]
        state = applied(self.state, stamped)
        if (extra := len(state.items) - self._num_items_max) > 0:
            gone = [TurnEvent(kind="removed", at=now, item=item.id) for item in state.items[:extra]]
            stamped += gone
            state = applied(state, gone)
        self.state = state
        return self._keep(stamped, state)


def new_item() -> str:
    """A name for an item."""
    return f"item_{os.urandom(8).hex()}"
