"""Of many windows that wait for something, which to ask for in one look: nobody lists them all each time.

Windows are worked off in about their order, so the oldest are asked for at every look; the others take turns, so that
old ones that are never made hide none.
"""

from collections.abc import Hashable
from typing import Any, TypeVar

_NUM_OLDEST, _NUM_TURNS = 25, 25
_Name = TypeVar("_Name", bound=Hashable)


def in_turn(waiting: dict[_Name, Any]) -> list[_Name]:
    """Fifty at most. Puts those whose turn it was behind the others."""
    names = list(waiting)
    taken = names[_NUM_OLDEST : _NUM_OLDEST + _NUM_TURNS]
    for name in taken:
        waiting[name] = waiting.pop(name)
    return [*names[:_NUM_OLDEST], *taken]
