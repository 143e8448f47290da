"""Files of a service's clients: what batches are made of, and what comes of them.

A file's bytes stream into a part of the store; the file is there once its object is, which names the part. So an upload
that was killed is no file, and its part is swept.
"""

from collections.abc import Iterator, Set
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge

from headrace.clock import Clock, SystemClock
from headrace.errors import ObjectMissing
from headrace.inbox.batches.places import FILE, is_name, tenant_prefix, tenants_prefix
from headrace.keys import partition_from_path
from headrace.store.leases import Lease, Leases
from headrace.store.objects import ObjectStore, PartWriter, new_nonce
from headrace.store.small_objects import Kind, create_object, read_object

Purpose = Literal["batch", "batch_output"]
PIECE_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class File:
    """Attributes:
    num_lines: how many lines it has, blank ones too.
    created_at, expires_at: whole seconds since the epoch.
    part: the last segment of the key of its bytes.
    """

    id: str
    filename: str
    purpose: Purpose
    num_bytes: Annotated[int, Ge(0)]
    num_lines: Annotated[int, Ge(0)]
    created_at: int
    expires_at: int
    part: str


KEPT_FILE = Kind("File of a batch", File, "Restore it from a backup of the store, or have its client send it again.")


def file_key(prefix: str, identity: str) -> str:
    """Args: prefix: the tenant's."""
    return f"{prefix}/files/{identity}.json"


def part_key(prefix: str, part: str) -> str:
    return f"{prefix}/parts/{part}"


class NewFile:
    """A file that is being written, piece by piece; `seal` makes it, and leaving the block without that leaves nothing.

    Used by one thread at a time.
    """

    def __init__(self, store: ObjectStore, prefix: str, identity: str, lease: Lease) -> None:
        """Args: lease: an erasure waits for it, so that it finds the file."""
        self.id = identity
        self._lease = lease
        self.num_bytes = self._num_ends = 0
        self._last = b"\n"
        self._store, self._prefix = store, prefix
        self._part = f"{identity}-{new_nonce()[:8]}"
        self._opened: AbstractContextManager[PartWriter] = store.write_part(part_key(prefix, self._part))
        self._writer = self._opened.__enter__()
        self._is_open = True

    @property
    def num_lines(self) -> int:
        return self._num_ends + (self._last != b"\n")

    def write(self, piece: bytes) -> None:
        """Raises: StoreUnavailable."""
        if piece:
            self._writer.write(piece)
            self.num_bytes += len(piece)
            self._num_ends += piece.count(b"\n")
            self._last = piece[-1:]

    def seal(self, filename: str, purpose: Purpose, *, created_at: int, expires_at: int) -> File:
        """Makes the file, durably. Whoever made one of this name before has made the file, and it is returned.

        Raises: StoreUnavailable: nobody can tell whether the file is there.
        """
        self._is_open = False
        self._opened.__exit__(None, None, None)
        file = File(
            id=self.id,
            filename=filename,
            purpose=purpose,
            num_bytes=self.num_bytes,
            num_lines=self.num_lines,
            created_at=created_at,
            expires_at=expires_at,
            part=self._part,
        )
        made = create_object(self._store, file_key(self._prefix, self.id), KEPT_FILE, file)
        if not made.won:
            self._store.delete(part_key(self._prefix, self._part))
        self._lease.release()
        return made.value

    def discard(self) -> None:
        """Leaves nothing of a file that is not sealed."""
        if self._is_open:
            self._is_open = False
            given_up = _GivenUp()
            with suppress(_GivenUp):
                self._opened.__exit__(_GivenUp, given_up, None)
        self._lease.release()


class _GivenUp(Exception):
    pass


@dataclass
class Swept:
    """What a sweep leaves for the next. `files`: those that it read; `orphans`: parts that nobody names or uses."""

    files: dict[tuple[str, str], File] = field(default_factory=dict)
    orphans: set[str] = field(default_factory=set)


class Files:
    """The files of one service's clients. Everything does I/O, and raises StoreUnavailable where the store does."""

    def __init__(self, store: ObjectStore, service: str, clock: Clock) -> None:
        self._store, self._service, self._clock = store, service, clock
        self._leases = Leases(store, SystemClock())

    def new(self, tenant: str, identity: str) -> NewFile:
        return NewFile(self._store, self._prefix(tenant), identity, self._leases.hold(new_nonce()))

    def find(self, tenant: str, identity: str) -> File | None:
        """None: the tenant has no such file, or no longer. Raises: HandoffCorrupt: its object is damaged."""
        if not is_name(FILE, identity):
            return None
        try:
            file = read_object(self._store, self._key(tenant, identity), KEPT_FILE)
        except ObjectMissing:
            return None
        return None if file.expires_at <= self._clock.now() else file

    def names(self, tenant: str) -> list[str]:
        """In the order in which they were made, expired ones too."""
        found = self._store.children(f"{self._prefix(tenant)}/files")
        return [name.removesuffix(".json") for name in found if name.endswith(".json")]

    def num_bytes_kept(self, tenant: str) -> int:
        return sum(entry.num_bytes for entry in self._store.entries(f"{self._prefix(tenant)}/parts"))

    def read(self, tenant: str, file: File, offset: int, num_bytes: int) -> bytes:
        """Raises: ObjectMissing: it was deleted."""
        [piece] = self._store.read_ranges(self._part_key(tenant, file), [(offset, num_bytes)])
        return bytes(piece)

    def pieces(self, tenant: str, file: File, start: int = 0) -> Iterator[bytes]:
        """Its bytes from `start` on, at most `PIECE_BYTES` at once. Raises: as `read`."""
        for offset in range(start, file.num_bytes, PIECE_BYTES):
            yield self.read(tenant, file, offset, min(PIECE_BYTES, file.num_bytes - offset))

    def delete(self, tenant: str, identity: str) -> None:
        """From now on nobody finds it. Its bytes go at a later `sweep`: a batch may be made of them just now."""
        self._store.delete(self._key(tenant, identity))

    def tenants(self) -> list[str]:
        return sorted(map(partition_from_path, self._store.children(tenants_prefix(self._service))))

    def sweep(self, used: Set[str], known: "Swept") -> int:
        """Deletes files whose time is over, and bytes that were nobody's at the sweep before, too. Returns how many.

        Args:
            used: parts that batches under way are made of.
            known: what the sweep before has found, and this one leaves for the next.
        """
        now, expiries, orphans, num_deleted = self._clock.now(), dict[tuple[str, str], File](), set[str](), 0
        for tenant in self.tenants():
            named: set[str] = set()
            for name in self.names(tenant):
                try:
                    file = known.files.get((tenant, name)) or read_object(
                        self._store, self._key(tenant, name), KEPT_FILE
                    )
                except ObjectMissing:
                    continue
                if file.expires_at <= now:
                    self.delete(tenant, name)
                    num_deleted += 1
                else:
                    expiries[tenant, name] = file
                    named.add(file.part)
            prefix = f"{self._prefix(tenant)}/parts"
            for part in self._store.children(prefix):
                if part in named or part in used:
                    continue
                owner = expiries.get((tenant, part.rpartition("-")[0]))
                if owner is not None and self._is_in_place_of(tenant, owner, part):
                    del expiries[tenant, owner.id]  # read anew by the next sweep
                    continue
                if part in known.orphans:
                    self._store.delete(f"{prefix}/{part}")
                else:
                    orphans.add(part)
        known.files, known.orphans = expiries, orphans
        return num_deleted

    def _is_in_place_of(self, tenant: str, file: File, part: str) -> bool:
        """Whether an erasure has put it in place of the part that the file had."""
        with suppress(ObjectMissing):
            return read_object(self._store, self._key(tenant, file.id), KEPT_FILE).part == part
        return False

    def _prefix(self, tenant: str) -> str:
        return tenant_prefix(self._service, tenant)

    def _key(self, tenant: str, identity: str) -> str:
        return file_key(self._prefix(tenant), identity)

    def _part_key(self, tenant: str, file: File) -> str:
        return part_key(self._prefix(tenant), file.part)
