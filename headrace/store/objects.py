"""What Headrace needs of a store: objects that exactly one writer creates, and large parts that stream.

Every decision (manifest, claim, commit, journal entry) is one small object made by `create`, which succeeds for exactly
one writer, whole or not at all. Large data are parts, under keys that carry their writer's nonce, so two writers never
meet there. A part means nothing until an object that names it exists.

Keys are `/`-separated; a prefix is whole segments (`a/b` holds `a/b/c`, not `a/bc`). There is no rename, and no
overwrite but an erasure's (`replace`). The price: every change needs a new key, and killed writers leave parts that
only a sweep removes.
"""

import json
import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from headrace.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One object as a listing shows it. `modified_at`: seconds since the Unix epoch, by the store's clock."""

    key: str
    num_bytes: int
    modified_at: float


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Consecutive bytes of an object and their digest (32 hex characters)."""

    offset: int
    num_bytes: int
    xxh3_128: str

    @property
    def digest(self) -> str:
        return self.xxh3_128


class PartWriter(Protocol):
    """An open part, with the methods that Arrow and `shutil` need of a file that is written from front to back."""

    @property
    def num_bytes(self) -> int: ...

    @property
    def closed(self) -> bool: ...

    def write(self, body: bytes | bytearray | memoryview, /) -> int: ...

    def flush(self) -> None: ...


class ObjectStore(Protocol):
    @property
    def checks_what_it_fetches(self) -> bool:
        """True: `local_segments` returns bytes that were compared with their digests when they were fetched."""
        ...

    @property
    def url(self) -> str:
        """The URL by which `headrace.store.opening.open_store` opens this store in another process."""
        ...

    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        """True: this call made the object, durably. False: the key existed before, and is unchanged.

        Without `durable` the object may vanish when its machine loses power, but is never partial: for leases.
        """
        ...

    def replace(self, key: str, body: bytes, *, of: bytes) -> bool:
        """Gives an object another content, durably: a reader finds the one or the other.

        False: its content is not `of`, or there is none; nothing was changed. Of several replacements one wins.
        For erasures alone, and objects that are read whole: everybody takes it for granted that no object changes.
        """
        ...

    def read(self, key: str) -> bytes:
        """Raises: ObjectMissing: the key does not exist."""
        ...

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> "list[memoryview]":
        """The bytes at each (offset, num_bytes), in the order asked for; read in parallel where that pays.

        Raises:
            ObjectMissing: the key does not exist.
            HandoffCorrupt: the object ends before a range does.
        """
        ...

    def exists(self, key: str) -> bool: ...

    def children(self, prefix: str) -> list[str]:
        """The distinct segments that follow `prefix`, sorted, like a directory listing. "" lists the store's root."""
        ...

    def write_part(self, key: str) -> AbstractContextManager[PartWriter]:
        """Streams one large object; durable and visible only when the block ends without an exception.

        Raises:
            InvalidInput: at the end of the block, if the key exists already: part keys must be unique.
        """
        ...

    def link(self, key: str, existing: str) -> bool:
        """Gives an object a second name, durably; each name is deleted by itself. Processes that map either hold the
        object in memory once.

        False: nothing was made: there is no such object, the key exists, or this store cannot. Write a copy.
        """
        ...

    def local_path(self, key: str) -> Path:
        """The object as a file of this machine, to map or read, never to write. Fetches a remote object whole.

        A store on this machine returns the path without checking that it exists.

        Raises:
            ObjectMissing: a remote store has no such key.
        """
        ...

    def local_directory(self, prefix: str) -> Path:
        """A directory of this machine with every object below `prefix` under the rest of its key, fetched whole.

        The prefix must be complete: objects that are added later may not appear.
        """
        ...

    def local_segments(self, key: str, *, digest: str, num_bytes: int, segments: Sequence[Segment]) -> Path:
        """A file of this machine, `num_bytes` long, whose bytes at `segments` are the object's. Never write there.

        The other bytes of the file are unspecified. `digest` names the whole object's content: keys with the same
        digest share one file.

        Raises:
            ObjectMissing: a remote store has no such key.
            HandoffCorrupt: a remote segment differs from its digest, twice.
        """
        ...

    def delete(self, key: str, *, durable: bool = True) -> None:
        """Deletes the object; does nothing if there is none. Open memory maps of it stay valid.

        Without `durable` it may reappear when its machine loses power, even if later deletions hold: for leases.
        """
        ...

    def delete_prefix(self, prefix: str) -> None:
        """Objects may reappear when the machine loses power: first delete the object that gives them their meaning."""
        ...

    def uri(self, key: str) -> str: ...

    def node_directory(self) -> Path:
        """A place for data that only this machine needs and may lose; created at the first write."""
        ...

    def entries(self, prefix: str) -> "list[Entry]":
        """Like `list`, with sizes and times; sorted by key."""
        ...

    # Last in the class: its name hides the built-in `list` from the annotations that follow it.
    def list(self, prefix: str) -> list[str]:
        """Every key below `prefix`, sorted; an empty list if there is none."""
        ...


@dataclass(frozen=True, kw_only=True)
class Created:
    """The outcome of a race for one key: whether this writer won, and the object's present content."""

    won: bool
    body: dict[str, Any]


def new_nonce() -> str:
    """32 hex characters, unique to one writer."""
    return os.urandom(16).hex()


def create_json(store: ObjectStore, key: str, body: dict[str, Any], *, nonce: str | None = None) -> Created:
    """Creates `key` with `body` plus a writer's `nonce`; a writer that gets "already there" reads the object back.

    If it finds its own nonce, it has won: stores over a network retry a write whose reply was lost, and then refuse the
    retry.
    """
    written = {**body, "nonce": nonce or new_nonce()}
    if store.create(key, canonical_json(written)):
        return Created(won=True, body=written)
    present = json.loads(store.read(key))
    return Created(won=present.get("nonce") == written["nonce"], body=present)


def canonical_json(body: Any) -> bytes:
    """One spelling for each value: sorted keys, no spaces, UTF-8. Digests are computed over it."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def check_key(key: str) -> str:
    """Raises: InvalidInput: `key` is no relative path of plain segments (a first one with a dot is the store's own)."""
    try:
        is_long = len(key) > 60 and any(len(segment.encode()) > 255 for segment in key.split("/"))
        is_wrong = is_long or not _KEY.fullmatch(key) or (not key.isascii() and not key.encode())
    except UnicodeEncodeError:  # half a surrogate
        is_wrong = True
    if is_wrong:
        raise InvalidInput(
            f"Store key must be '/'-separated names of 1 to 255 bytes without '.', '..' or a leading dot, got {key!r}."
        )
    return key


# Segments that are neither empty nor "." nor "..", the first one without a dot in front.
_KEY = re.compile(r"(?!\.)(?:(?!\.{1,2}(?:/|\Z))[^/\0]+/)*(?!\.{1,2}\Z)[^/\0]+")
