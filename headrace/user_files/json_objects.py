"""JSON of users' files as Python's values, and which keys stand twice: Python keeps the last value, and tells nobody.

Decides nothing: a reader refuses what it reads, and a key that nobody wants may stand twice.
"""

import json
from collections import Counter
from collections.abc import Iterable

# Python refuses to make an integer of more, and to write one.
_DIGITS_MAX = 4300


class JsonObjects:
    """Reads one text after another; what it tells of keys is of the last one."""

    def __init__(self) -> None:
        # By the id of an object, which is held so that no other gets the same.
        self._repeated: dict[int, tuple[object, set[str]]] = {}
        self._decoder = json.JSONDecoder(object_pairs_hook=self._made, parse_int=_whole_number)

    def read(self, text: str) -> object:
        """A whole number of more digits than Python writes is read as infinite, as one with an exponent is.

        Raises:
            ValueError: the text is not JSON.
            RecursionError: it is nested too deep.
        """
        self._repeated.clear()
        return self._decoder.decode(text)

    @property
    def any_repeated(self) -> bool:
        """Whether a key stands twice in an object of the text, wherever."""
        return bool(self._repeated)

    def repeated_in(self, value: object) -> set[str]:
        """The keys that stand twice in this object itself; none of what is no object."""
        return self._repeated[id(value)][1] if id(value) in self._repeated else set()

    def repeated_within(self, value: object) -> str | None:
        """A key that stands twice in one object, at any depth of `value`."""
        level = [value] if self.any_repeated else []
        while level:
            if found := next(filter(None, map(self.repeated_in, level)), None):
                return min(found)
            level = inner_values(level)
        return None

    def _made(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            self._repeated[id(fields)] = fields, {name for name, count in counts.items() if count > 1}
        return fields


def inner_values(level: Iterable[object]) -> list[object]:
    """What stands in the objects and lists of `level`, one deeper."""
    containers = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
    return [inner for one in containers for inner in one]


def _whole_number(digits: str) -> float:
    return int(digits) if len(digits) <= _DIGITS_MAX else float(digits)
