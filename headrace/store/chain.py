"""Numbered chains of small objects: the newest is n, whoever wants to change something makes n + 1.

`create` lets one of several writers that all saw n make n + 1; the others read on. A writer whose reply was lost finds
its own nonce in what it reads, and has won. One that got no answer at all repeats itself: then n + 1 is another's, or
its own, and it reads on as well.

A reader that has read to n needs one read of a missing object to know that n is the newest. But a missing object is the
end only where nothing lies behind it: one that was deleted, or that a broken restore left out, would take everything
after it back (a rollback among them). So the first read lists, and so does each append; a number that is missing before
the highest one is damage, and nothing is read past it or appended behind it. Where more than one object tells of a
number (an attempt and its settlement, an entry and the mark that it was made), all of them count: the newest one cannot
vanish unseen either.

Two kinds of numbers are no chain. Versions of a handoff are manifests with a digest of their own form, below a
directory for each number, which its writer chose before it wrote the parts: a number that nobody sealed is no gap.
Checkpoints are numbered by step and attempt, and fenced by the attempt.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Generic, Literal, TypeVar

from headrace.errors import FormatTooNew, HandoffCorrupt, ObjectMissing
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Kind, Made, create_object, read_object

T = TypeVar("T")

MARK = ".made"
GIVEN_UP = ".lost"
_ENDING = ".json"
_DIGITS = 8
# How often the newest object may be taken away, or replaced by a newer one, while it is looked for.
_NUM_LOOKS = 20


class ChainBroken(HandoffCorrupt):
    """A number is missing before the chain's newest one: what is left may say what was taken back."""


@dataclass(frozen=True)
class Head(Generic[T]):
    """`number` 0: the chain is empty. `damage`: why the newest one cannot be read; the next one may follow it."""

    number: int
    value: T | None
    damage: HandoffCorrupt | None = None


@dataclass(frozen=True, kw_only=True)
class Chain(Generic[T]):
    """The objects `<prefix>/<before><number>.json`, numbers from 1 on. Foreign names beside them are passed over.

    Attributes:
        digits: to which numbers are padded.
        tells: what else may follow a number in a name (`.settled.json`), and so tells that the number was made.
        is_marked: every number gets a mark, `<number>.made`, so that even the newest one cannot vanish unseen. Costs
            one more object each; whoever is killed in between leaves a number without, until the next is made.
        may_lack: `oldest`: these may have been deleted, oldest first. `any`: numbers come from elsewhere (a journal's
            entries, one count for several chains), so that a gap says nothing and the newest object alone counts.
        remedy: what to do about a gap.
    """

    store: ObjectStore
    prefix: str
    kind: Kind[T]
    digits: int = _DIGITS
    before: str = ""
    tells: tuple[str, ...] = ()
    is_marked: bool = False
    may_lack: Literal["nothing", "oldest", "any"] = "nothing"
    remedy: str

    def newest(self) -> int:
        """The highest number; 0: there is none. One listing.

        Raises:
            ChainBroken: one before it is missing.
        """
        numbers = self.numbers()
        return numbers[-1] if numbers else 0

    def head(self) -> "Head[T]":
        """The newest one: its number, and what it says or why it cannot be read. One listing and one read.

        Raises:
            ChainBroken: one before it is missing.
            FormatTooNew: a newer Headrace goes on with the chain.
        """
        for _ in range(_NUM_LOOKS):
            if not (number := self.newest()):
                break
            try:
                return Head(number, self.read(number))
            except ObjectMissing:
                if self.may_lack == "nothing":
                    raise
            except FormatTooNew:
                raise
            except HandoffCorrupt as error:
                return Head(number, None, error)
        return Head(0, None)

    def last(self) -> tuple[int, T] | None:
        """As `head`, for who needs it whole; None: there is none. Raises: HandoffCorrupt: it is damaged, too."""
        head = self.head()
        if head.damage:
            raise head.damage
        return None if head.value is None else (head.number, head.value)

    def highest(self) -> int:
        """The highest number that anything tells of, whatever is missing before it."""
        return max((int(match[1]) for match in self._matches(self.store.children(self.prefix))), default=0)

    def numbers(self) -> Sequence[int]:
        """All numbers, ascending. Raises: as of `newest`."""
        made, told, given_up = set(), set(), set()
        for match in self._matches(self.store.children(self.prefix)):
            ending = {_ENDING: made, GIVEN_UP: given_up}.get(match[2], told)
            ending.add(int(match[1]))
        known = made | given_up
        last = max(known | told, default=0)
        first = 1 if self.may_lack == "nothing" else min(known, default=1)
        if self.may_lack != "any" and len(known) != last - first + 1:
            missing = list(islice((number for number in range(first, last + 1) if number not in known), 4))
            shown = ", ".join(map(str, missing[:3])) + (" …" if len(missing) > 3 else "")
            raise self._broken(missing[0], f"{shown} is missing, though number {last} was made")
        return sorted(made)

    def made(self, names: Iterable[str] | None = None) -> Sequence[int]:
        """The numbers that are there (in a listing of the prefix), whatever is missing between them."""
        names = self.store.children(self.prefix) if names is None else names
        return sorted(int(match[1]) for match in self._matches(names) if match[2] == _ENDING)

    def read(self, number: int) -> T:
        """Raises: ObjectMissing: it is not there (any more). HandoffCorrupt: it is damaged."""
        return read_object(self.store, self.key(number), self.kind)

    def following(self, number: int) -> T | None:
        """What was made after `number`, which the caller knows to be there; None: nothing. One read."""
        try:
            return self.read(number + 1)
        except ObjectMissing:
            return None

    def create(
        self, number: int, fields: T | Mapping[str, Any], *, nonce: str | None = None, is_listed: bool = False
    ) -> Made[T]:
        """Makes `number`, unless somebody else has.

        Args:
            is_listed: the caller knows from a listing right before this call that nothing is missing.

        Raises:
            ChainBroken: one before it is missing; nothing was made.
        """
        if not is_listed and self.may_lack != "any":
            newest = self.newest()
            # A chain that was swept meanwhile begins anew, wherever.
            if newest < number - 1 and not (self.may_lack == "oldest" and newest == 0):
                raise self._broken(newest + 1, f"{newest + 1} is missing, where number {number} was to be made")
        made = create_object(self.store, self.key(number), self.kind, fields, nonce=nonce)
        if self.is_marked and made.won:
            self.store.create(f"{self.prefix}/{self._name(number)}{MARK}", b"")
        return made

    def give_up(self, number: int) -> None:
        """Says for good that `number` is lost, and that a later one stands for it: it is no gap any more."""
        self.store.create(f"{self.prefix}/{self._name(number)}{GIVEN_UP}", b"")

    def sweep(self, numbers: Iterable[int]) -> None:
        """Deletes these, the oldest first: killed in between, it leaves a chain that reads the same."""
        for number in sorted(numbers):
            self.store.delete(self.key(number))

    def key(self, number: int, ending: str = _ENDING) -> str:
        """Of `number`, or of what else tells of it."""
        return f"{self.prefix}/{self._name(number)}{ending}"

    def _name(self, number: int) -> str:
        return f"{self.before}{number:0{self.digits}d}"

    def _broken(self, missing: int, what: str) -> ChainBroken:
        where = self.store.uri(self.prefix)
        return ChainBroken(f"{self.kind.noun} {what} below {where}. {self.remedy}", key=self.key(missing))

    def _matches(self, names: Iterable[str]) -> Iterable[re.Match[str]]:
        return filter(None, map(self._pattern.fullmatch, names))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        endings = "|".join(map(re.escape, (_ENDING, MARK, GIVEN_UP, *self.tells)))
        return re.compile(rf"{re.escape(self.before)}(\d{{{self.digits}}}|[1-9]\d{{{self.digits},}})({endings})")


def key_before(key: str) -> str | None:
    """Of a chain with the usual digits, the key of the number before the one of `key`; None: it is the first one's."""
    prefix, _, name = key.rpartition("/")
    number = int(name.removesuffix(_ENDING)) - 1
    return f"{prefix}/{number:0{_DIGITS}d}{_ENDING}" if number else None
