"""Numbered chains of small objects: the newest has number n, and a change creates n + 1.

`create` lets one of several writers that saw n make n + 1; the others read on. A writer whose reply was lost finds its
own nonce in the object and knows that it won. A writer that got no answer at all tries again: then n + 1 exists, made
by itself or by another writer, and it reads on.

After reading n, one read of a missing n + 1 shows that n is the newest. But a missing object is the end only if no
object follows it: a deleted object, or one that a broken restore left out, would undo all later ones (a rollback among
them). So the first read and each append list the chain. A number missing below the highest one is damage: nobody reads
past it or appends behind it. Where several objects prove that a number existed (an attempt and its settlement, an entry
and its mark), all of them count, so the newest object cannot vanish unseen either.

Two kinds of numbers form no chain. Versions of a handoff are manifests with a digest of their own form, one directory
for each number. A writer chooses the number before it writes the parts, so a number that was never sealed is no gap.
Checkpoints are numbered by step and attempt, and the attempt fences them.
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
# How often `head` looks again when the newest object was deleted, or replaced by a newer one, meanwhile.
_NUM_LOOKS = 20


class ChainBroken(HandoffCorrupt):
    """A number below the chain's newest one is missing. The rest may state what it took back."""


@dataclass(frozen=True)
class Head(Generic[T]):
    """`number` 0: the chain is empty. `damage`: why the newest object cannot be read; a next one may follow it."""

    number: int
    value: T | None
    damage: HandoffCorrupt | None = None


@dataclass(frozen=True, kw_only=True)
class Chain(Generic[T]):
    """The objects `<prefix>/<before><number>.json`, numbers from 1 on. Ignores other names below the prefix.

    Attributes:
        digits: numbers are padded to this width.
        tells: other endings (`.settled.json`) whose presence proves that a number was made.
        is_marked: every number gets a mark, `<number>.made`, so that even the newest one cannot vanish unseen. It costs
            one more object for each number. A writer killed in between leaves its number unmarked until the next one is
            made.
        may_lack: `oldest`: numbers may have been deleted, oldest first. `any`: numbers come from elsewhere (a journal's
            entries, one count for several chains), so a gap means nothing and only the newest object counts.
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

        ChainBroken: a number before it is missing.
            ChainBroken: one before it is missing.
        """
        numbers = self.numbers()
        return numbers[-1] if numbers else 0

    def head(self) -> "Head[T]":
        """The newest object: its number, and its value or why it cannot be read. One listing and one read.

        Raises:
            ChainBroken: a number before it is missing.
            FormatTooNew: a newer Headrace wrote it.
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
        """As `head`, but a damaged newest object raises HandoffCorrupt. None: the chain is empty."""
        head = self.head()
        if head.damage:
            raise head.damage
        return None if head.value is None else (head.number, head.value)

    def highest(self) -> int:
        """The highest number that any object proves, even with gaps before it."""
        return max((int(match[1]) for match in self._matches(self.store.children(self.prefix))), default=0)

    def numbers(self) -> Sequence[int]:
        """All numbers, ascending. Raises: as `newest`."""
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
        """The numbers whose objects exist (in a listing of the prefix), gaps or not."""
        names = self.store.children(self.prefix) if names is None else names
        return sorted(int(match[1]) for match in self._matches(names) if match[2] == _ENDING)

    def read(self, number: int) -> T:
        """Raises: ObjectMissing: the object does not exist (any more). HandoffCorrupt: it is damaged."""
        return read_object(self.store, self.key(number), self.kind)

    def following(self, number: int) -> T | None:
        """The object after `number`, which the caller knows to exist; None: there is none yet. One read."""
        try:
            return self.read(number + 1)
        except ObjectMissing:
            return None

    def create(
        self,
        number: int,
        fields: T | Mapping[str, Any],
        *,
        nonce: str | None = None,
        is_listed: bool = False,
        durable: bool = True,
    ) -> Made[T]:
        """Creates `number`, unless another writer has.

        Args:
            is_listed: the caller has just listed the chain and found no gap.
            durable: as `ObjectStore.create`.

        Raises:
            ChainBroken: a number before it is missing; nothing was created.
        """
        if not is_listed and self.may_lack != "any":
            newest = self.newest()
            # A chain that was swept meanwhile may start again at any number.
            if newest < number - 1 and not (self.may_lack == "oldest" and newest == 0):
                raise self._broken(newest + 1, f"{newest + 1} is missing, where number {number} was to be made")
        made = create_object(self.store, self.key(number), self.kind, fields, nonce=nonce, durable=durable)
        if self.is_marked and made.won:
            self.store.create(f"{self.prefix}/{self._name(number)}{MARK}", b"")
        return made

    def give_up(self, number: int) -> None:
        """Records for good that `number` is lost and a later one replaces it, so the number is no longer a gap."""
        self.store.create(f"{self.prefix}/{self._name(number)}{GIVEN_UP}", b"")

    def sweep(self, numbers: Iterable[int]) -> None:
        """Deletes these, oldest first: if the process is killed in between, the chain reads the same."""
        for number in sorted(numbers):
            self.store.delete(self.key(number))

    def key(self, number: int, ending: str = _ENDING) -> str:
        """The key of `number`, or of another object with that number."""
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
    """The key of the number before `key`'s, in a chain of the usual width; None: `key` is the first."""
    prefix, _, name = key.rpartition("/")
    number = int(name.removesuffix(_ENDING)) - 1
    return f"{prefix}/{number:0{_DIGITS}d}{_ENDING}" if number else None
