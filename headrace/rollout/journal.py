"""The rollout journal: an append-only list of events in the store, the one truth about who is stable.

Entry N+1 is made by `create`, so exactly one of several writers that all saw entry N gets its event in; the others
are told to read and decide again. Each entry carries the digest of the one before it: an entry that was edited,
replaced, removed from the middle or copied from another journal is found by the next read. A journal cut at its end
is not found by the chain alone; a reader that saw the cut entries notices on its next append.

Times in entries are for people; order comes from numbers, so a clock that jumps changes nothing.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.clock import Clock
from headrace.errors import HeadraceError, InvalidInput, JournalConflict, ObjectMissing
from headrace.store.objects import ObjectStore, canonical_json, create_json, new_nonce

# What entry 1 chains to: no entry has this digest.
GENESIS = "0" * 64
_KEY = re.compile(r"(\d{8})\.json")


class JournalCorrupt(HeadraceError):
    """An entry is not what was appended: never decide on it."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One event. `digest` is over everything else and over the journal's name; `prev` is the digest before it."""

    number: int
    event: str
    fields: Mapping[str, Any]
    at: float
    prev: str
    nonce: str
    digest: str


class Journal:
    """One campaign's or service's journal. Entries are immutable, so what was read once is kept."""

    def __init__(self, store: ObjectStore, name: str, clock: Clock) -> None:
        self.name = name
        self._store = store
        self._clock = clock
        self._entries: list[Entry] = []

    def entries(self) -> tuple[Entry, ...]:
        """All entries up to now; costs one read of a missing object when nothing is new.

        Raises:
            JournalCorrupt: an entry does not fit the chain.
        """
        while True:
            number = len(self._entries) + 1
            try:
                body = self._store.read(self._key(number))
            except ObjectMissing:
                return tuple(self._entries)
            self._entries.append(self._checked(number, body, prev=self._head_digest()))

    def head(self) -> int:
        """The newest entry's number; 0: the journal is empty."""
        return len(self.entries())

    def append(self, event: str, fields: Mapping[str, Any], *, expected: int) -> Entry:
        """Add entry `expected + 1`, provided that `expected` is still the head.

        Killed at any point, the entry is there whole or not at all; whoever repeats the append then gets a
        `JournalConflict`, reads, and sees its own event done.

        Raises:
            JournalConflict: the head is another than `expected`.
        """
        head = self.head()
        if head != expected:
            raise JournalConflict(self._conflict(expected, head))
        number = expected + 1
        body = {
            "number": number,
            "event": event,
            # Through JSON and back: what a writer holds is what every reader will see (tuples become lists).
            "fields": json.loads(_canonical(dict(fields))),
            "at": self._clock.now(),
            "prev": self._head_digest(),
            "nonce": new_nonce(),
        }
        body["digest"] = self._digest(body)
        if not create_json(self._store, self._key(number), body, nonce=body["nonce"]).won:
            raise JournalConflict(self._conflict(expected, self.head()))
        return self.entries()[number - 1]

    def verify(self) -> int:
        """Read everything anew, past what this reader holds. Returns the number of entries.

        Raises:
            JournalCorrupt: an entry was changed, is missing in the middle, or has a foreign file beside it.
        """
        names = self._store.children(f"rollout/{self.name}/journal")
        if foreign := [name for name in names if not _KEY.fullmatch(name)]:
            raise JournalCorrupt(f"Journal {self.name} has objects that no append made: {', '.join(foreign)}.")
        numbers = sorted(int(name[:8]) for name in names)
        if numbers != list(range(1, len(numbers) + 1)):
            missing = sorted(set(range(1, max(numbers) + 1)) - set(numbers))
            raise JournalCorrupt(f"Journal {self.name} lacks entries {missing} before entry {max(numbers)}.")
        afresh = Journal(self._store, self.name, self._clock)
        entries = afresh.entries()
        if list(entries[: len(self._entries)]) != self._entries:
            raise JournalCorrupt(f"Journal {self.name} is not the one that was read before: it was cut or rewritten.")
        return len(entries)

    def _checked(self, number: int, raw: bytes, *, prev: str) -> Entry:
        where = f"Entry {number} of journal {self.name}"
        try:
            body = json.loads(raw)
            digest = body.pop("digest")
            entry = Entry(**body, digest=digest)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise JournalCorrupt(f"{where} cannot be read: {error!r}.") from error
        if entry.digest != (wanted := self._digest(body)):
            raise JournalCorrupt(f"{where} was edited: its content has digest {wanted[:12]}, it says {digest[:12]}.")
        if entry.number != number or entry.prev != prev:
            raise JournalCorrupt(
                f"{where} does not follow entry {number - 1}: it is number {entry.number} after {entry.prev[:12]}, "
                f"the entry before has digest {prev[:12]}."
            )
        return entry

    def _digest(self, body: Mapping[str, Any]) -> str:
        return hashlib.sha256(_canonical({"journal": self.name, **body})).hexdigest()

    def _head_digest(self) -> str:
        return self._entries[-1].digest if self._entries else GENESIS

    def _key(self, number: int) -> str:
        return f"rollout/{self.name}/journal/{number:08d}.json"

    def _conflict(self, expected: int, head: int) -> str:
        return (
            f"Journal {self.name}: an event decided at entry {expected} came too late, the head is entry {head}. "
            "Read the journal again and decide again."
        )


def _canonical(body: Mapping[str, Any]) -> bytes:
    """Raises: InvalidInput: a field has no one JSON form (NaN, or not JSON at all)."""
    try:
        return canonical_json(body)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"A journal entry takes JSON values only: {error}.") from error
