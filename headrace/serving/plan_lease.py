"""The plan that a gateway follows, and how long it may: a lease on the journal's head.

A read of entry N+1 that finds nothing proves that N was the newest entry at some moment after the read began, so the
lease runs for a second from that beginning. A gateway that starts units on a candidate only during the lease therefore
stops at most a second after an abort, whatever happens to the store. Seconds are CLOCK_BOOTTIME's, which continue while
the process is stopped and while the machine sleeps.

Entries are applied in order and never taken back. Reads may hang, so another one is sent after a quarter of a second,
and the first answer counts. No lease can cover a process that is stopped between checking the lease and starting a
unit.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, cast

from headrace.clock import Clock, SystemClock
from headrace.errors import HeadraceError, ObjectMissing, StoreOutage, Transient
from headrace.rollout.journal import Journal
from headrace.rollout.routing import RoutingTable
from headrace.rollout.states import RolloutState, after
from headrace.serving.daemon_threads import DaemonThreads
from headrace.store.chain import key_before
from headrace.store.objects import ObjectStore

R = TypeVar("R")

# How long units may start on a plan after its head was checked.
LEASE_SECONDS = 1.0
# Time between the beginnings of two reads.
READ_SECONDS = 0.25
# A slower read could not renew the lease.
_READ_SECONDS_MAX = 1.0
# Concurrent reads: those that hang, and one or two that do not.
_NUM_READS_MAX = 8
NOT_READ_YET = "its journal was not read yet"


class PlanUnknown(Transient):
    """No unit can be routed: the journal was never read to its end, or has no stable set yet."""


def boot_seconds() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class PlanLease:
    """`start` reads in the background; `poll` is one round of reads, for callers with their own threads.

    `until`: when the lease ends, in `monotonic` seconds. A caller that needs both reads it *before* the table: then the
    table is as new as the lease, or newer.
    """

    def __init__(
        self,
        store: ObjectStore,
        name: str,
        salt: str,
        *,
        monotonic: Callable[[], float] = boot_seconds,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.salt = salt
        self.monotonic = monotonic
        self.until = float("-inf")
        # Why the last round of reads did not reach the journal's end; empty: it did.
        self.error = NOT_READ_YET
        self._table: RoutingTable | None = None
        # The state of `_table`, for people and for preparing sets.
        self._published: RolloutState | None = None
        self._state: RolloutState | None = None
        self._reads = _Reads(store, monotonic)
        self._journal = Journal(cast(ObjectStore, self._reads), name, clock or SystemClock())
        self._num_applied = 0
        # Trials that once had no cap: units that started then were not counted.
        self._uncounted: set[int] = set()
        self._watchers: list[Callable[[RoutingTable], None]] = []
        self._polling = threading.Lock()
        self._publishing = threading.Lock()
        self._ended = threading.Event()

    def table(self) -> RoutingTable | None:
        """The newest plan that was read; None: there is none, or it was not read yet."""
        return self._table

    def state(self) -> RolloutState | None:
        """The rollout's state at the table's journal entry, or for a moment at a newer one."""
        return self._published

    def fresh(self) -> bool:
        """Whether units may start on a candidate."""
        return self.monotonic() < self.until

    def watch(self, watcher: Callable[[RoutingTable], None]) -> None:
        """Calls `watcher` with every new plan before it takes effect, starting with the present one, if any."""
        with self._publishing:
            self._watchers.append(watcher)
            if self._table is not None:
                watcher(self._table)

    def unknown(self) -> PlanUnknown:
        why = self.error or "its journal names no stable set"
        return PlanUnknown(f"The plan of {self.name} is not known: {why}. Send the request again later.")

    def start(self) -> None:
        self._reads.threads = DaemonThreads(_NUM_READS_MAX, f"plan-{self.name}")
        threading.Thread(target=self._run, name=f"plan-lease-{self.name}", daemon=True).start()

    def close(self) -> None:
        """Stops reading: the lease then runs out."""
        self._ended.set()

    def poll(self) -> None:
        """Reads to the journal's end and renews the lease, which runs out on store errors or a corrupt journal."""
        if not self._polling.acquire(blocking=False):
            return
        try:
            self._read_on()
        except (HeadraceError, OSError) as error:
            self.error = f"its journal cannot be read: {error}"
        finally:
            self._polling.release()

    def _read_on(self) -> None:
        while True:
            # An entry takes effect as soon as it is read, since the next read may hang. But the first plan waits for
            # the journal's end, since sets that were stable long ago need not be loaded.
            for entry in self._journal.known[self._num_applied :]:
                self._state = after(self._state, entry)
                self._num_applied = entry.number
                if self._state.candidate is not None and self._state.cap is None:
                    self._uncounted.add(self._state.trial)
            if self._state is not None and self._table is not None:
                self._publish(self._state)
            if self._journal.following() is None:
                break
        if self._state is not None:
            self._publish(self._state)
        # After the table: whoever sees the longer lease must see this plan.
        self.until = max(self.until, self._reads.ended_at + LEASE_SECONDS)
        self.error = ""

    def _publish(self, state: RolloutState) -> None:
        if self._table is not None and self._table.head >= state.head:
            return
        table = RoutingTable.of(state, self.salt, is_counted=state.trial not in self._uncounted)
        with self._publishing:
            self._published, self._table = state, table
            for watcher in self._watchers:
                watcher(table)

    def _run(self) -> None:
        while not self._ended.is_set():
            began = self.monotonic()
            try:
                self.poll()
            except Exception as error:  # noqa: BLE001 (a thread that ends would leave the gateway degraded for good)
                self.error = repr(error)
            self._ended.wait(max(0.0, began + READ_SECONDS - self.monotonic()))


class _Reads:
    """The store for the journal: each read has a time limit, and a missing entry is confirmed by its predecessor."""

    def __init__(self, store: ObjectStore, monotonic: Callable[[], float]) -> None:
        self.threads: DaemonThreads | None = None
        # When the read began that found no further entry.
        self.ended_at = float("-inf")
        self._store = store
        self._monotonic = monotonic
        self._hanging: set[Future[Any]] = set()

    def read(self, key: str) -> bytes:
        """Raises: ObjectMissing: `key` did not exist at some moment after `ended_at`."""
        began, body = self._in_time(partial(self._read, key))
        if body is None:
            self.ended_at = began
            raise ObjectMissing(f"{key} does not exist.")
        return body

    def children(self, prefix: str) -> list[str]:
        return self._in_time(partial(self._store.children, prefix))

    def uri(self, key: str) -> str:
        return self._store.uri(key)

    def _read(self, key: str) -> tuple[float, bytes | None]:
        began = self._monotonic()
        try:
            return began, self._store.read(key)
        except ObjectMissing:
            self._check_is_there(key)
            return began, None

    def _check_is_there(self, key: str) -> None:
        """Raises: StoreUnavailable: the previous entry is missing too, as in a directory that was unmounted."""
        if (before := key_before(key)) is None:
            return
        try:
            self._store.read(before)
        except ObjectMissing as error:
            raise StoreOutage(f"{before} is gone: the store is not the one that it was.") from error

    def _in_time(self, ask: Callable[[], R]) -> R:
        """Raises: StoreUnavailable: no answer came in time."""
        if self.threads is None:
            return ask()
        ends = self._monotonic() + _READ_SECONDS_MAX
        self._hanging = {read for read in self._hanging if not read.done()}
        mine: set[Future[R]] = set()
        while self._monotonic() < ends:
            if len(self._hanging) < _NUM_READS_MAX:
                read = self.threads.submit(ask)
                self._hanging.add(read)
                mine.add(read)
            done, _ = wait(mine or self._hanging, timeout=READ_SECONDS, return_when=FIRST_COMPLETED)
            self._hanging -= done
            if answered := done & mine:
                return answered.pop().result()
        for read in mine:
            with suppress(Exception):
                read.cancel()
        raise StoreOutage(f"no answer within {_READ_SECONDS_MAX:g} s")
