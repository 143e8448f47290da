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

    def __init__(self, state: CallState, keep: Keep, *, clock: Clock, num_items_max: int, characters_max: int) -> None:
        """Args: characters_max: of all items' texts: a call is in memory, kept, and asked of engines as a whole."""
        self.state = state
        self._keep, self._clock = keep, clock
        self._num_items_max, self._characters_max = num_items_max, characters_max

    def happened(self, *events: TurnEvent) -> Awaitable[None]:
        """Applies events before it returns; what it returns waits until they are kept. With too many items, or
        too much text, the first ones go."""
        now = self._clock.now()
        stamped = [replace(event, at=now) for event in events]
        state = applied(self.state, stamped)
        if (extra := self._num_extra(state, events)) > 0:
            gone = [TurnEvent(kind="removed", at=now, item=item.id) for item in state.items[:extra]]
            stamped += gone
            state = applied(state, gone)
        self.state = state
        return self._keep(stamped, state)

    def _num_extra(self, state: CallState, events: Sequence[TurnEvent]) -> int:
        """How many items, from the first on, are too many. The last one stays, however long it is."""
        num = max(len(state.items) - self._num_items_max, 0)
        if not any(event.text for event in events):
            return num
        lengths = [len(one.text) + sum(len(sentence.text) for sentence in one.sentences) for one in state.items]
        left = sum(lengths[num:])
        while left > self._characters_max and num < len(lengths) - 1:
            left -= lengths[num]
            num += 1
        return num


def new_item() -> str:
    """A name for an item."""
    return f"item_{os.urandom(8).hex()}"
