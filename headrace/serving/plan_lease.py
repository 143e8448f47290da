"""The plan that a gateway follows, and until when it may: a lease on the journal's head.

A read of entry N+1 that finds nothing says that N was the newest entry at some moment after the read began, so the
lease runs for a second from that beginning. Whoever starts units on a candidate only while the lease runs has stopped a
second after an abort at the latest, whatever becomes of the store. Seconds are CLOCK_BOOTTIME's, which go on while the
process is stopped and while the machine sleeps.

Entries are applied in order and never taken back. Reads may hang: another one is sent after a quarter of a second, and
what comes back first counts. What a stopped process does between looking at the lease and starting a unit, no lease
can see.
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

# How long units may start on a plan whose head was looked at.
LEASE_SECONDS = 1.0
# From one read's begin to the next one's.
READ_SECONDS = 0.25
# A read that takes longer could not renew the lease any more.
_READ_SECONDS_MAX = 1.0
# Reads under way at once: those that hang, and one or two that do not.
_NUM_READS_MAX = 8
NOT_READ_YET = "its journal was not read yet"


class PlanUnknown(Transient):
    """No unit can be routed: the journal was never read to its end, or names no stable set yet."""


def boot_seconds() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class PlanLease:
    """`start` reads in the background; `poll` is one round of reads, for whoever has threads of his own.

    `until`: when the lease ends, in `monotonic` seconds. Who needs both reads it *before* the table: the table that is
    seen then is as new as the lease, or newer.
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
        # Why the last round of reads did not come to the journal's end; empty: it did.
        self.error = NOT_READ_YET
        self._table: RoutingTable | None = None
        # As `_table`, for people and for who prepares sets.
        self._published: RolloutState | None = None
        self._state: RolloutState | None = None
        self._reads = _Reads(store, monotonic)
        self._journal = Journal(cast(ObjectStore, self._reads), name, clock or SystemClock())
        self._num_applied = 0
        # Trials that had no cap at some time: units that started then were not counted.
        self._uncounted: set[int] = set()
        self._watchers: list[Callable[[RoutingTable], None]] = []
        self._polling = threading.Lock()
        self._publishing = threading.Lock()
        self._ended = threading.Event()

    def table(self) -> RoutingTable | None:
        """The newest plan that was read; None: none was, or there is none."""
        return self._table

    def state(self) -> RolloutState | None:
        """The rollout's state of the same journal entry as the table, or of a newer one in this moment."""
        return self._published

    def fresh(self) -> bool:
        """Whether units may start on a candidate."""
        return self.monotonic() < self.until

    def watch(self, watcher: Callable[[RoutingTable], None]) -> None:
        """Call `watcher` with every new plan before it counts, beginning with the present one, if there is one."""
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
        """Read no more: the lease runs out by itself."""
        self._ended.set()

    def poll(self) -> None:
        """Read on to the journal's end and renew the lease. Store errors and a corrupt journal leave it to run out."""
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
            # An entry counts as soon as it is read: the next read may hang. Until the first plan is known, units wait
            # for the journal's end, since sets that were stable long ago need not be loaded anywhere.
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
    """The store as the journal sees it: what is asked ends in time, and a missing entry was looked for twice."""

    def __init__(self, store: ObjectStore, monotonic: Callable[[], float]) -> None:
        self.threads: DaemonThreads | None = None
        # When the read began that found no further entry.
        self.ended_at = float("-inf")
        self._store = store
        self._monotonic = monotonic
        self._hanging: set[Future[Any]] = set()

    def read(self, key: str) -> bytes:
        """Raises: ObjectMissing: `key` was not there at some moment after `ended_at`."""
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
        """Raises: StoreUnavailable: the entry before is missing too, as in a directory that was unmounted."""
        if (before := key_before(key)) is None:
            return
        try:
            self._store.read(before)
        except ObjectMissing as error:
            raise StoreOutage(f"{before} is gone: the store is not the one that it was.") from error

    def _in_time(self, ask: Callable[[], R]) -> R:
        """Raises: StoreUnavailable: no answer came back in time."""
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
