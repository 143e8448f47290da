"""The rollout journal: an append-only list of events in the store, the only authority on which set is stable.

`create` makes entry N+1, so of several writers that saw entry N exactly one appends its event; the others must read and
decide again. Each entry carries the digest of the one before it, so the next read detects an entry that was edited,
replaced or copied from another journal. A reader's first read and each append also detect a missing entry
(`headrace.store.chain`), even the newest one, since each append leaves a mark beside its entry. A journal with a gap
assigns nothing and accepts no entry. Only one loss goes unnoticed: the newest entry together with its mark.

Times in entries are for people; numbers give the order, so clock jumps change nothing.
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

# The digest before entry 1; no entry has it.
GENESIS = "0" * 64
_REMEDY = (
    "Restore it from a backup of the store. Until then nobody gets a version set from this journal, no unit starts on "
    "a candidate, and nothing is appended."
)


class JournalCorrupt(HandoffCorrupt):
    """An entry is missing, or differs from what was appended. Never decide by the rest."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One event. `digest` covers everything else and the journal's name; `prev` is the preceding digest."""

    number: Annotated[int, Ge(1)]
    event: str
    fields: Mapping[str, Any]
    at: float
    prev: str
    nonce: str
    digest: str


ENTRY = Kind("Entry", Entry, _REMEDY)


class Journal:
    """The journal of one campaign or service. Entries are immutable, so those read once are kept."""

    def __init__(self, store: ObjectStore, name: str, clock: Clock) -> None:
        self.name = name
        self._store = store
        self._clock = clock
        self._prefix = rollout_prefix(name, "journal")
        self._chain = Chain(store=store, prefix=self._prefix, kind=ENTRY, is_marked=True, remedy=_REMEDY)
        self._entries: list[Entry] = []
        # The newest entry when this reader began; None: it has not begun.
        self._num_listed: int | None = None

    def entries(self) -> tuple[Entry, ...]:
        """All entries up to now. Without news this reads one missing object; the first call also lists once.

        Raises:
            JournalCorrupt: an entry is missing, or does not fit the chain.
        """
        while self.following() is not None:
            pass
        return tuple(self._entries)

    def following(self) -> Entry | None:
        """Reads one further entry. None: there was none when this read began.

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
        """The entries read so far."""
        return self._entries

    def head(self) -> int:
        """The newest entry's number; 0: the journal is empty."""
        return len(self.entries())

    def append(self, event: str, fields: Mapping[str, Any], *, expected: int) -> Entry:
        """Adds entry `expected + 1`, if `expected` is still the head.

        If the writer is killed at any point, the entry exists whole or not at all; repeating the append then raises
        `JournalConflict`, and reading shows that the event was added.

        Raises:
            JournalConflict: the head is no longer `expected`.
            JournalCorrupt: an entry is missing or damaged; nothing was appended.
        """
        head = self.head()
        if head != expected:
            raise JournalConflict(self._conflict(expected, head), rollout=self.name, expected=expected, head=head)
        number, nonce = expected + 1, new_nonce()
        entry = Entry(
            number=number,
            event=event,
            # Through JSON and back, so that the writer holds what readers will get (tuples become lists).
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
        """Reads everything again, ignoring what this reader holds. Returns the number of entries.

        Raises:
            JournalCorrupt: an entry was changed or is missing, or a foreign file lies beside it.
        """
        # Names that begin with a dot belong to a file system or a desktop (`.nfs…`), and mean nothing.
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
    """Raises: InvalidInput: a field has no unique JSON form (NaN), or no JSON form."""
    try:
        return canonical_json(body)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"A journal entry takes JSON values only: {error}.") from error
