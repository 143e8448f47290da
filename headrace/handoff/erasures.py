"""What was erased from this store for good, and which rows belong to it. See docs/erasure.md.

An erasure is one object of the chain `erasures/00000001.json`, made by `create` before anything is deleted: who, when
and why, and by its sha256 a list of salted digests (`erasures/digests/…`) that alone says whose data goes. From then on
nobody seals a row that belongs to it: `HandoffStore.publish` looks here once it has its lease, and the erasure waits
for writers that had one before (as readers and collectors do, `headrace.store.tombstones`).

A digest is keyed with the store's own salt. Whoever can read the store can test a guess; nobody else can.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from headrace.errors import HandoffCorrupt, ObjectMissing, Transient
from headrace.keys import ContentPartition, window_of_key
from headrace.store.chain import Chain
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Kind, create_object, read_object

if TYPE_CHECKING:
    import pyarrow as pa

    from headrace.handoff.manifest import Manifest

ROOT = "erasures"
# Attributes of what is left of a version: the content digests of that one and those before it, and the last erasure.
ERASED_FROM, ERASED_BY = "erased_from", "erased_by"
AskedKind = Literal["event", "prompt", "tenant", "call"]
# What a digest may name. A tenant's is for events that no window has yet: those that come later are new. A line is of a
# file of OpenAI's Batch API, by its custom_id; `lines`: the file has such a line.
IdentityKind = Literal["event", "prompt", "row", "text", "tenant", "call", "file", "batch", "lines", "line"]

_DIGEST_BYTES = 16
SALT_KEY = f"{ROOT}/salt.json"
_SALT_BYTES = 32
_EVENTS = {"id", "source", "tenant", "data"}
_PROMPTS = {"prompt_id", "position", "text"}
# Column → what its values name, in any table that has it.
_LINKS: Mapping[str, IdentityKind] = {
    "prompt_id": "prompt",
    "row_id": "row",
    "published_row_id": "row",
    "mirrored_row_id": "row",
    "chosen_row_id": "row",
    "rejected_row_id": "row",
    "call": "call",
}
_REMEDY = (
    "Restore it from a backup of the store: until then nobody can tell what must not come back, and nothing is sealed."
)


class Erased(Transient):
    """Rows belong to what was erased, so nothing of them was sealed: read the newest inputs, then make it again."""


@dataclass(frozen=True, kw_only=True)
class Salt:
    """Keys the digests of this store. `salt`: hexadecimal."""

    salt: str


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """One decision to erase; it names nobody.

    Attributes:
        asked: by what it was asked for; `subject` is the salted digest of that.
        digests: sha256 of the list of salted digests, which is below `erasures/digests`.
        num_events, num_prompts, num_rows, num_calls: how many of each the list names.
        num_files, num_batches, num_lines: the same, of OpenAI's Batch API.
    """

    number: Annotated[int, Ge(1)]
    asked: AskedKind
    subject: str
    campaigns: tuple[str, ...]
    by: str
    reason: str
    at: str
    digests: str
    num_events: Annotated[int, Ge(0)]
    num_prompts: Annotated[int, Ge(0)]
    num_rows: Annotated[int, Ge(0)]
    num_calls: Annotated[int, Ge(0)] = 0
    num_files: Annotated[int, Ge(0)] = 0
    num_batches: Annotated[int, Ge(0)] = 0
    num_lines: Annotated[int, Ge(0)] = 0


SALT = Kind("Salt of erasures", Salt, _REMEDY)
ERASURE = Kind("Erasure", Erasure, _REMEDY)


def erasure_chain(objects: ObjectStore) -> Chain[Erasure]:
    return Chain(store=objects, prefix=ROOT, kind=ERASURE, is_marked=True, remedy=_REMEDY)


def digests_key(sha256: str) -> str:
    return f"{ROOT}/digests/{sha256}"


def store_salt(objects: ObjectStore) -> bytes:
    """Made at the first call in this store; later ones write nothing, so that who may only read asks, too."""
    try:
        salt = read_object(objects, SALT_KEY, SALT)
    except ObjectMissing:
        salt = create_object(objects, SALT_KEY, SALT, Salt(salt=os.urandom(_SALT_BYTES).hex())).value
    return bytes.fromhex(salt.salt)


def identity_digest(salt: bytes, kind: IdentityKind, *parts: str) -> bytes:
    """16 bytes. With the parts' lengths, so that no two names run together."""
    encoded = [part.encode(errors="surrogatepass") for part in (kind, *parts)]
    head = ":".join(str(len(part)) for part in encoded).encode()
    return hashlib.blake2b(b"\0".join([head, *encoded]), key=salt, digest_size=_DIGEST_BYTES).digest()


def keep_digests(objects: ObjectStore, digests: Iterable[bytes]) -> str:
    """Writes the list, under its sha256, which is returned."""
    body = b"".join(sorted(set(digests)))
    sha256 = hashlib.sha256(body).hexdigest()
    objects.create(digests_key(sha256), body)
    return sha256


@dataclass(frozen=True)
class ErasedData:
    """Which rows belong to one erasure, or to several: a test of their digests."""

    salt: bytes
    digests: frozenset[bytes]

    def has(self, kind: IdentityKind, *parts: str) -> bool:
        return identity_digest(self.salt, kind, *parts) in self.digests

    def rows_in(
        self,
        asset: str,
        partition: str,
        table: "pa.Table | pa.RecordBatch",
        *,
        names: Sequence[str] | None = None,
    ) -> set[int]:
        """The places of rows that belong to it; reads the columns alone by which rows name events, prompts and rows.

        Args: names: all columns of a table of which `table` has those alone.
        """
        found: set[int] = set()
        if not self.digests:
            return found
        for kind, linked in links_of(asset, names or table.schema.names):
            scope = scope_of(asset, partition) if kind in ("event", "text") else ()
            columns = [table.column(table.schema.get_field_index(name)).to_pylist() for name in linked]
            seen: dict[tuple[str, ...], bool] = {}
            for place, parts in enumerate(zip(*columns, strict=True)):
                if None in parts:
                    continue
                if (is_erased := seen.get(parts)) is None:
                    is_erased = seen[parts] = self.has(kind, *scope, *parts)
                if is_erased:
                    found.add(place)
        return found

    def checked(self, asset: str, partition: str, batches: "Iterable[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
        """The same batches. Raises: Erased: a row of one belongs to what was erased."""
        for batch in batches:
            if found := self.rows_in(asset, partition, batch):
                raise Erased(
                    f"{asset}[{partition}] was not sealed: {len(found)} of its rows belong to what was erased from "
                    "this store (`headrace erase --list`). Run it again: it then starts from inputs without them.",
                    asset=asset,
                    partition=partition,
                )
            yield batch


def links_of(asset: str, names: Sequence[str]) -> list[tuple[IdentityKind, tuple[str, ...]]]:
    """By which columns a table's rows name what they belong to."""
    there = set(names)
    found: list[tuple[IdentityKind, tuple[str, ...]]] = [(_LINKS[name], (name,)) for name in names if name in _LINKS]
    if {"event_source", "event_id"} <= there:
        found.append(("event", ("event_source", "event_id")))
    if there >= _EVENTS:
        found.append(("event", ("source", "id")))
    if there >= _PROMPTS:
        found.append(("text", ("text",)))
    return found


def scope_of(asset: str, partition: str) -> tuple[str, ...]:
    """The campaign within which an event's or a text's name means something; () where the partition names none."""
    if found := ContentPartition.find(partition):
        return (found.campaign,)
    window = window_of_key(partition)
    return (window[0],) if window else ()


def erased_contents(manifest: "Manifest") -> list[str]:
    """Content digests of the versions from which this one was left, the oldest first."""
    return manifest.attributes.get(ERASED_FROM, "").split()


class Erasures:
    """All erasures of a store, read once and again when there are more. One listing a question."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._known = 0
        self._digests: frozenset[bytes] = frozenset()

    def all(self) -> ErasedData:
        """Raises: HandoffCorrupt: an erasure or its list is missing or damaged."""
        self.more()
        return ErasedData(self._salt if self._known else b"", self._digests)

    def more(self) -> ErasedData:
        """What was erased since the last question. Raises: as `all`."""
        if (newest := erasure_chain(self._objects).newest()) <= self._known:
            return ErasedData(b"", frozenset())
        found = frozenset[bytes]().union(
            *(data_of(self._objects, number).digests for number in range(self._known + 1, newest + 1))
        )
        self._digests, self._known = self._digests | found, newest
        return ErasedData(self._salt, found)

    @cached_property
    def _salt(self) -> bytes:
        return store_salt(self._objects)


def data_of(objects: ObjectStore, number: int) -> ErasedData:
    """What one erasure names.

    Raises:
        HandoffCorrupt: it, the salt or its list is missing or damaged.
    """
    erasure = erasure_chain(objects).read(number)
    key = digests_key(erasure.digests)
    try:
        body = objects.read(key)
        salt = read_object(objects, SALT_KEY, SALT)
    except ObjectMissing as error:
        raise HandoffCorrupt(f"Erasure {number} has lost what it names: {error} {_REMEDY}", key=key) from error
    if hashlib.sha256(body).hexdigest() != erasure.digests:
        raise HandoffCorrupt(f"The list {objects.uri(key)} of erasure {number} is damaged. {_REMEDY}", key=key)
    parts = (body[start : start + _DIGEST_BYTES] for start in range(0, len(body), _DIGEST_BYTES))
    return ErasedData(bytes.fromhex(salt.salt), frozenset(parts))
