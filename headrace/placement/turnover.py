"""What left and what came between two tuples that are mostly of the same objects in the same order.

A queue of thousands changes by a run or two from one plan to the next. What stayed is passed over in whole stretches,
at a few nanoseconds an object.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

_One = TypeVar("_One")
_Value = TypeVar("_Value")

_STRETCH = 64
# How far on an object is looked for that is not where it was.
_NEAR = 8


@dataclass
class Turnover(Generic[_One]):
    """Objects of the old tuple that left, and of the new one that came; one that moved far is among both.

    `came_at`: where each is in the new one. `stretches`: what stayed, by its begin in the old one, its begin in the new
    one, and its length.
    """

    gone: list[_One] = field(default_factory=list)
    came: list[_One] = field(default_factory=list)
    came_at: list[int] = field(default_factory=list)
    stretches: list[tuple[int, int, int]] = field(default_factory=list)

    def carried(self, values: Sequence[_Value], came: Sequence[_Value]) -> list[_Value]:
        """Values by place in the new one, of values by place in the old one, and of those that came."""
        found: list[Any] = [None] * (len(came) + sum(length for _, _, length in self.stretches))
        for old, new, length in self.stretches:
            found[new : new + length] = values[old : old + length]
        for place, value in zip(self.came_at, came, strict=True):
            found[place] = value
        return found


def turnover(old: Sequence[_One], new: Sequence[_One]) -> Turnover[_One]:
    """Equal objects count as the same."""
    found: Turnover[_One] = Turnover()
    at_old = at_new = 0
    while True:
        same = _num_same(old, at_old, new, at_new)
        if same:
            found.stretches.append((at_old, at_new, same))
        at_old, at_new = at_old + same, at_new + same
        is_end = at_old == len(old) or at_new == len(new)
        num_gone = num_came = 1
        if is_end:
            num_gone, num_came = len(old) - at_old, len(new) - at_new
        elif (skipped := _place_of(new[at_new], old, at_old)) is not None:
            num_gone, num_came = skipped, 0
        elif (skipped := _place_of(old[at_old], new, at_new)) is not None:
            num_gone, num_came = 0, skipped
        found.gone += old[at_old : at_old + num_gone]
        found.came += new[at_new : at_new + num_came]
        found.came_at += range(at_new, at_new + num_came)
        if is_end:
            return found
        at_old, at_new = at_old + num_gone, at_new + num_came


def _num_same(old: Sequence[_One], at_old: int, new: Sequence[_One], at_new: int) -> int:
    """Of how many both have the same from there on."""
    left = min(len(old) - at_old, len(new) - at_new)
    done, step = 0, _STRETCH
    while done < left:
        one = old[at_old + done : at_old + done + step]
        other = new[at_new + done : at_new + done + step]
        if len(one) == len(other) and one == other:
            done, step = done + step, 4 * step
        elif step <= _NEAR:
            while done < left and old[at_old + done] is new[at_new + done]:
                done += 1
            return done
        else:
            step //= _NEAR
    return min(done, left)


def _place_of(one: _One, among: Sequence[_One], begin: int) -> int | None:
    """How far behind `begin` it is, if it is near."""
    for further, other in enumerate(among[begin + 1 : begin + 1 + _NEAR], 1):
        if other is one:
            return further
    return None
