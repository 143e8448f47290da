"""Describes and checks the ranges that a dataclass's annotations state, as `Annotated[float, Gt(0), Le(1)]`."""

import math
import operator
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from headrace.errors import InvalidInput

_Bounds = dict[str, Any]


@dataclass(frozen=True)
class Because:
    """Beside a range in an annotation: why a value beyond it means nothing; a refusal says so."""

    reason: str


# Attribute of an annotation → its words in a sentence, and the test that a value in range passes.
_WORDS = {
    "ge": ("at least", operator.ge),
    "gt": ("above", operator.gt),
    "le": ("at most", operator.le),
    "lt": ("below", operator.lt),
}


def check_ranges(record: Any) -> None:
    """For a dataclass's `__post_init__`: checks the same ranges for Python callers as for files.

    Raises:
        InvalidInput: "share must be above 0 and at most 1, got 0".
    """
    for name, words, bounds in _ranges_of(type(record)):
        value = getattr(record, name)
        parts = {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        for part, number in parts.items():
            if number is not None and not _is_within(number, bounds):
                raise InvalidInput(f"{part} must be {words}, got {number!r}.")


def range_in_words(cls: type, field: str) -> str:
    """A field's range in words, or the range of its elements: "at least 1", "null or between 0 and 1"."""
    return _in_words(get_type_hints(cls, include_extras=True)[field])


@cache
def _ranges_of(cls: type) -> list[tuple[str, str, _Bounds]]:
    hints = get_type_hints(cls, include_extras=True)
    return [
        (name, _in_words(hint), bounds)
        for name, hint in hints.items()
        for one in (hint, *(get_args(hint) if type(None) in get_args(hint) or get_origin(hint) is dict else ()))
        if (bounds := _bounds(one))
    ]


def _is_within(number: float, bounds: _Bounds) -> bool:
    return math.isfinite(number) and all(_WORDS[name][1](number, bound) for name, bound in bounds.items())


def _bounds(hint: Any) -> _Bounds:
    annotations = getattr(hint, "__metadata__", ())
    return {name: getattr(one, name) for one in annotations for name in _WORDS if hasattr(one, name)}


def _in_words(hint: Any) -> str:
    if not (bounds := _bounds(hint)):
        words = next(filter(None, map(_in_words, get_args(hint))), "")
        return f"null or {words}" if words and type(None) in get_args(hint) else words
    reasons = "".join(f" ({one.reason})" for one in hint.__metadata__ if isinstance(one, Because))
    if bounds.keys() == {"ge", "le"}:
        return f"between {bounds['ge']:,} and {bounds['le']:,}{reasons}"
    words = " and ".join(f"{words} {bounds[name]:,}" for name, (words, _) in _WORDS.items() if name in bounds)
    return words + reasons
