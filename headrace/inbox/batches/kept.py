"""A service's batches in the store: their states, and what became of their lines."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from headrace.clock import SystemClock
from headrace.errors import ObjectMissing, Transient
from headrace.handoff.erasures import Erasures
from headrace.inbox.batches.outcomes import SETTLED, Settled
from headrace.inbox.batches.places import BATCH, is_name, open_prefix, tenant_prefix
from headrace.inbox.batches.states import Batch, Counts
from headrace.keys import partition_from_path, partition_path
from headrace.store.chain import Chain
from headrace.store.leases import Lease, Leases
from headrace.store.objects import ObjectStore, new_nonce
from headrace.store.small_objects import Kind, create_object, read_object

BATCH_STATE = Kind("Batch", Batch, "Restore it from a backup of the store; until then the batch stands still.")
_DIGITS = 8
T = TypeVar("T")


@dataclass(frozen=True)
class Kept:
    """A batch at the newest state of its chain that was read. `number`: that state's."""

    tenant: str
    number: int
    batch: Batch


def states_chain(store: ObjectStore, prefix: str, identity: str) -> Chain[Batch]:
    """Args: prefix: the tenant's."""
    return Chain(store=store, prefix=f"{prefix}/states/{identity}", kind=BATCH_STATE, remedy=BATCH_STATE.remedy)


def lines_prefix(prefix: str, identity: str) -> str:
    return f"{prefix}/lines/{identity}"


def settled_key(prefix: str, identity: str, part: int) -> str:
    return f"{lines_prefix(prefix, identity)}/{part + 1:0{_DIGITS}d}.json"


def mark_key(service: str, tenant: str, identity: str) -> str:
    return f"{open_prefix(service)}/{partition_path(tenant)}/{identity}"


class Batches:
    """The batches of one service. Everything does I/O, and raises StoreUnavailable where the store does."""

    def __init__(self, store: ObjectStore, service: str) -> None:
        self._store, self._service = store, service
        self._leases = Leases(store, SystemClock())

    def begin(self) -> "Working":
        """For who works at a batch: an erasure waits for it."""
        return Working(self._leases.hold(new_nonce()), Erasures(self._store))

    def create(self, tenant: str, batch: Batch) -> Kept:
        # The mark first: a batch without it would never be worked off, a mark without a batch is passed over.
        self._store.create(self._mark(tenant, batch.id), b"")
        return Kept(tenant, 1, self._chain(tenant, batch.id).create(1, batch).value)

    def find(self, tenant: str, identity: str) -> Kept | None:
        """None: the tenant has no such batch. Raises: HandoffCorrupt: it is damaged."""
        if not is_name(BATCH, identity):
            return None
        last = self._chain(tenant, identity).last()
        return Kept(tenant, *last) if last else None

    def advance(self, kept: Kept, batch: Batch) -> Kept:
        """Makes `batch` the next state, unless somebody made another one: then that is returned."""
        number = kept.number + 1
        return Kept(kept.tenant, number, self._chain(kept.tenant, batch.id).create(number, batch).value)

    def following(self, kept: Kept) -> Kept:
        """The newest state, by one read if nothing has changed."""
        chain = self._chain(kept.tenant, kept.batch.id)
        while (found := chain.following(kept.number)) is not None:
            kept = Kept(kept.tenant, kept.number + 1, found)
        return kept

    def names(self, tenant: str) -> list[str]:
        """In the order in which they were made."""
        return [name for name in self._store.children(f"{self._prefix(tenant)}/states") if is_name(BATCH, name)]

    def open(self) -> list[tuple[str, str]]:
        """Tenants and names of those that have not ended, the oldest first."""
        prefix = open_prefix(self._service)
        found = [key.removeprefix(f"{prefix}/").split("/") for key in self._store.list(prefix)]
        return sorted(((partition_from_path(tenant), name) for tenant, name in found), key=lambda one: one[1])

    def close(self, tenant: str, identity: str) -> None:
        """Clears away what an ended batch does not need: its lines are in its files."""
        self._store.delete_prefix(self._lines(tenant, identity))
        self._store.delete(self._mark(tenant, identity))

    def forget_before(self, tenant: str, now: int, known: dict[str, int]) -> None:
        """Deletes batches that have ended, once their files have expired.

        Args:
            known: batches that have ended, and when each is to be deleted, so that each is read once.
        """
        for name in self.names(tenant):
            if name not in known:
                kept = self.find(tenant, name)
                if kept is None or kept.batch.ended_at is None:
                    continue
                known[name] = kept.batch.ended_at + kept.batch.output_seconds
            if known[name] <= now:
                self._store.delete_prefix(f"{self._prefix(tenant)}/states/{name}")
                # What a gateway was late with, and was killed.
                self._store.delete_prefix(self._lines(tenant, name))
                del known[name]

    def settled_parts(self, tenant: str, identity: str) -> set[int]:
        names = self._store.children(self._lines(tenant, identity))
        return {int(name.removesuffix(".json")) - 1 for name in names}

    def is_settled(self, tenant: str, identity: str, part: int) -> bool:
        return self._store.exists(self._part(tenant, identity, part))

    def settle(self, tenant: str, identity: str, part: int, settled: Settled) -> Settled:
        """Settles a part, unless it is settled: then what counts is returned."""
        return create_object(self._store, self._part(tenant, identity, part), SETTLED, settled).value

    def settled(self, tenant: str, identity: str, part: int) -> Settled:
        """Raises: ObjectMissing, HandoffCorrupt: it is not there, or damaged."""
        return read_object(self._store, self._part(tenant, identity, part), SETTLED)

    def _prefix(self, tenant: str) -> str:
        return tenant_prefix(self._service, tenant)

    def _mark(self, tenant: str, identity: str) -> str:
        return mark_key(self._service, tenant, identity)

    def _lines(self, tenant: str, identity: str) -> str:
        return lines_prefix(self._prefix(tenant), identity)

    def _part(self, tenant: str, identity: str, part: int) -> str:
        return settled_key(self._prefix(tenant), identity, part)

    def _chain(self, tenant: str, identity: str) -> Chain[Batch]:
        return states_chain(self._store, self._prefix(tenant), identity)


class Working:
    """Who works at a batch, in several threads: its lease ends with the last call, however the work itself ended.

    Attributes: erasures: to be asked for once there is the lease.
    """

    def __init__(self, lease: Lease, erasures: Erasures) -> None:
        self.erasures = erasures
        self._lease = lease
        self._lock = threading.Lock()
        # The work as a whole, and each call that is under way.
        self._num_shares = 1

    def call(self, call: Callable[..., T], *arguments: Any) -> T:
        """Raises: Transient: the work has ended, and nobody waits for this any more."""
        with self._lock:
            if not self._num_shares:
                raise Transient("The work at this batch has ended.")
            self._num_shares += 1
        try:
            return call(*arguments)
        finally:
            self.end()

    def end(self) -> None:
        with self._lock:
            self._num_shares -= 1
            is_last = not self._num_shares
        if is_last:
            self._lease.release()


class CountsSoFar:
    """Outcomes of batches that are under way, each part read once."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._known: dict[str, dict[int, Counts]] = {}

    def note(self, identity: str, part: int, counts: Counts) -> None:
        self._known.setdefault(identity, {})[part] = counts

    def forget(self, identity: str) -> None:
        self._known.pop(identity, None)

    def known(self, identity: str) -> Counts:
        """Of the parts that were read or settled here."""
        total = Counts()
        for counts in list(self._known.get(identity, {}).values()):
            total = total.plus(counts)
        return total

    def of(self, tenant: str, identity: str) -> Counts:
        """Raises: StoreUnavailable, HandoffCorrupt."""
        parts = self._batches.settled_parts(tenant, identity)
        known = self._known.setdefault(identity, {})
        for part in parts - known.keys():
            try:
                known[part] = self._batches.settled(tenant, identity, part).counts
            except ObjectMissing:  # it has ended meanwhile
                continue
        return self.known(identity)
