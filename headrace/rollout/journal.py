"""The rollout journal: an append-only list of events in the store, the one truth about who is stable.

Entry N+1 is made by `create`, so exactly one of several writers that all saw entry N gets its event in; the others
are told to read and decide again. Each entry carries the digest of the one before it: an entry that was edited,
replaced or copied from another journal is found by the next read. One that is missing is found too, by a reader's
first read and by each append (`headrace.store.chain`): the mark that each append leaves beside its entry tells of the
newest one as well. From a journal with a gap nothing is assigned, and nothing is appended to it. What no reader can
know is that the newest entry and its mark are gone together.

Times in entries are for people; order comes from numbers, so a clock that jumps changes nothing.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

from annotated_types import Ge

from headrace.clock import Clock
from headrace.errors import FormatTooNew, HandoffCorrupt, InvalidInput, JournalConflict
from headrace.rollout.layout import rollout_prefix
from headrace.store.chain import MARK, Chain
from headrace.store.objects import ObjectStore, canonical_json, new_nonce
from headrace.store.small_objects import Kind

# What entry 1 chains to: no entry has this digest.
GENESIS = "0" * 64
_REMEDY = (
    "Restore it from a backup of the store. Until then nobody gets a version set from this journal, no unit starts on "
    "a candidate, and nothing is appended."
)


class JournalCorrupt(HandoffCorrupt):
    """An entry is missing, or is not what was appended: never decide on what is left."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One event. `digest` is over everything else and over the journal's name; `prev` is the digest before it."""

    number: Annotated[int, Ge(1)]
    event: str
    fields: Mapping[str, Any]
    at: float
    prev: str
    nonce: str
    digest: str


ENTRY = Kind("Entry", Entry, _REMEDY)


class Journal:
    """One campaign's or service's journal. Entries are immutable, so what was read once is kept."""

    def __init__(self, store: ObjectStore, name: str, clock: Clock) -> None:
        self.name = name
        self._store = store
        self._clock = clock
        self._prefix = rollout_prefix(name, "journal")
        self._chain = Chain(store=store, prefix=self._prefix, kind=ENTRY, is_marked=True, remedy=_REMEDY)
        self._entries: list[Entry] = []
        # The newest entry when this reader began; None: it has not yet.
        self._num_listed: int | None = None

    def entries(self) -> tuple[Entry, ...]:
        """All entries up to now; costs one read of a missing object when nothing is new, and one listing at first.

        Raises:
            JournalCorrupt: an entry is missing, or does not fit the chain.
        """
        while self.following() is not None:
            pass
        return tuple(self._entries)

    def following(self) -> Entry | None:
        """Reads one entry further. None: what was read is all, as of the moment in which this read began.

        Raises:
            JournalCorrupt: the entry is missing, or does not fit the chain.
        """
        number = len(self._entries) + 1
        try:
            if self._num_listed is None:
                self._num_listed = self._chain.newest()
            entry = self._chain.following(number - 1)
        except FormatTooNew:
            raise
        except HandoffCorrupt as error:
            raise JournalCorrupt(f"Journal {self.name} cannot be believed. {error}", key=error.key) from error
        if entry is not None:
            self._entries.append(self._checked(number, entry))
        elif number <= self._num_listed:
            raise self._corrupt(number, f"lacks entry {number}, which was there when it was listed.")
        return entry

    @property
    def known(self) -> Sequence[Entry]:
        """What was read up to now."""
        return self._entries

    def head(self) -> int:
        """The newest entry's number; 0: the journal is empty."""
        return len(self.entries())

    def append(self, event: str, fields: Mapping[str, Any], *, expected: int) -> Entry:
        """Add entry `expected + 1`, provided that `expected` is still the head.

        Killed at any point, the entry is there whole or not at all; whoever repeats the append then gets a
        `JournalConflict`, reads, and sees its own event done.

        Raises:
            JournalConflict: the head is another than `expected`.
            JournalCorrupt: an entry is missing or damaged; nothing was appended.
        """
        head = self.head()
        if head != expected:
            raise JournalConflict(self._conflict(expected, head))
        number, nonce = expected + 1, new_nonce()
        entry = Entry(
            number=number,
            event=event,
            # Through JSON and back: what a writer holds is what every reader will see (tuples become lists).
            fields=json.loads(_canonical(dict(fields))),
            at=float(self._clock.now()),
            prev=self._head_digest(),
            nonce=nonce,
            digest="",
        )
        entry = replace(entry, digest=self._digest(entry))
        try:
            won = self._chain.create(number, entry, nonce=nonce).won
        except HandoffCorrupt as error:
            raise JournalCorrupt(f"Journal {self.name} takes no entry. {error}", key=error.key) from error
        if not won:
            raise JournalConflict(self._conflict(expected, self.head()))
        return self.entries()[number - 1]

    def verify(self) -> int:
        """Read everything anew, past what this reader holds. Returns the number of entries.

        Raises:
            JournalCorrupt: an entry was changed, is missing, or has a foreign file beside it.
        """
        # Names that begin with a dot are a file system's or a desktop's (`.nfs…`), and say nothing.
        names = [name for name in self._store.children(self._prefix) if not name.startswith(".")]
        made = {self._chain.key(number).rpartition("/")[2] for number in range(1, len(names) + 1)}
        marks = {name.removesuffix(".json") + MARK for name in made}
        if foreign := [name for name in names if name not in made | marks]:
            self._refuse_gap()
            raise JournalCorrupt(
                f"Journal {self.name} has objects that no append made: {', '.join(foreign)}. Move them away.",
                key=f"{self._prefix}/{foreign[0]}",
            )
        afresh = Journal(self._store, self.name, self._clock)
        entries = afresh.entries()
        if list(entries[: len(self._entries)]) != self._entries:
            raise self._corrupt(len(entries) + 1, "is not the one that was read before: it was cut or rewritten.")
        return len(entries)

    def _refuse_gap(self) -> None:
        try:
            self._chain.newest()
        except HandoffCorrupt as error:
            raise JournalCorrupt(f"Journal {self.name} cannot be believed. {error}", key=error.key) from error

    def _checked(self, number: int, entry: Entry) -> Entry:
        if entry.digest != (wanted := self._digest(entry)):
            raise self._corrupt(
                number,
                f"has an entry {number} that was edited: its content has digest {wanted[:12]}, it says "
                f"{entry.digest[:12]}.",
            )
        prev = self._head_digest()
        if entry.number != number or entry.prev != prev:
            raise self._corrupt(
                number,
                f"has an entry {number} that does not follow entry {number - 1}: it is number {entry.number} after "
                f"{entry.prev[:12]}, the entry before has digest {prev[:12]}.",
            )
        return entry

    def _corrupt(self, number: int, what: str) -> JournalCorrupt:
        return JournalCorrupt(f"Journal {self.name} {what} {_REMEDY}", key=self._chain.key(number))

    def _digest(self, entry: Entry) -> str:
        body = asdict(entry)
        del body["digest"]
        return hashlib.sha256(_canonical({"journal": self.name, **body})).hexdigest()

    def _head_digest(self) -> str:
        return self._entries[-1].digest if self._entries else GENESIS

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
