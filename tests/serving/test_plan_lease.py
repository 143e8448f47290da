"""Invariants 6 and 7 at one gateway: a plan that is followed for a second at most, and never an older one."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from headrace.clock import FixedClock
from headrace.rollout.routing import RoutingTable
from headrace.serving.plan_lease import LEASE_SECONDS, PlanLease
from headrace.store.local import LocalStore
from simulation.disk import Kept
from tests.handoff.simulated_store import MemoryStore
from tests.serving.builders import CANDIDATE, SERVICE, STABLE, HandClock, Plans, TroubledStore


def make_lease(store: object, monotonic: HandClock | None = None) -> PlanLease:
    return PlanLease(cast(Any, store), SERVICE, SERVICE, monotonic=monotonic or HandClock(), clock=FixedClock())


def journal_key(number: int) -> str:
    return f"rollout/{SERVICE}/journal/{number:08d}.json"


def until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20.0
    while not holds():
        assert time.monotonic() < ends, "It does not come to pass."
        time.sleep(0.01)


def test_a_journal_that_was_never_read_gives_no_plan_and_says_why() -> None:
    lease = make_lease(MemoryStore(FixedClock()))
    assert lease.table() is None
    assert not lease.fresh()
    assert "was not read yet" in str(lease.unknown())
    lease.poll()
    assert lease.table() is None
    assert "names no stable set" in str(lease.unknown())


def test_entries_are_followed_in_order_and_each_is_told_before_it_counts() -> None:
    store = MemoryStore(FixedClock())
    plans, lease = Plans(store), make_lease(store)
    plans.initialize()
    lease.poll()
    told: list[tuple[int, int | None]] = []
    lease.watch(lambda table: told.append((table.head, table.cap)))
    plans.start(weight=0.5, cap=3)
    plans.reweight(weight=0.2, cap=9)
    plans.abort()
    lease.poll()
    assert told == [(1, None), (2, 3), (3, 9), (4, None)]
    table = lease.table()
    assert table is not None
    assert (table.head, table.stable, table.candidate) == (4, STABLE, None)
    assert table.evicted == {CANDIDATE}


def test_a_store_whose_entries_have_vanished_is_no_journal_without_news(tmp_path: Path) -> None:
    """A directory that was unmounted has no next entry either."""
    clock, directory = HandClock(), tmp_path / "mounted"
    plans, lease = Plans(LocalStore(directory)), make_lease(LocalStore(directory), clock)
    plans.initialize()
    lease.poll()
    assert lease.fresh()
    directory.rename(tmp_path / "unmounted")
    clock.seconds += LEASE_SECONDS
    lease.poll()
    assert not lease.fresh()
    assert "is gone: the store is not the one that it was" in lease.error


def test_the_lease_runs_from_the_begin_of_the_read_and_not_from_its_end() -> None:
    disk, monotonic = MemoryStore(FixedClock()), HandClock()
    plans = Plans(disk)
    plans.initialize()
    plans.start()

    def abort_meanwhile(operation: str) -> None:
        # The read of a missing entry has been answered; the answer is on its way for 0.9 s, and the abort comes first.
        if operation.endswith(journal_key(3)):
            monotonic.seconds += 0.9

    lease = make_lease(disk.seen_by(abort_meanwhile), monotonic)
    began = monotonic.seconds
    lease.poll()
    assert lease.fresh()
    assert lease.until == began + LEASE_SECONDS
    monotonic.seconds = began + LEASE_SECONDS
    assert not lease.fresh()


def test_a_read_that_takes_longer_than_the_lease_renews_nothing() -> None:
    disk, monotonic = MemoryStore(FixedClock()), HandClock()
    Plans(disk).initialize()

    def hang(operation: str) -> None:
        monotonic.seconds += 30.0

    lease = make_lease(disk.seen_by(hang), monotonic)
    lease.poll()
    assert lease.table() is not None
    assert not lease.fresh()


def test_a_store_that_refuses_lets_the_lease_run_out_and_its_return_renews_it() -> None:
    store, monotonic = TroubledStore(), HandClock()
    Plans(store.store).initialize()
    lease = make_lease(store, monotonic)
    lease.poll()
    monotonic.seconds += 0.9
    store.read_fates.append("refused")
    lease.poll()
    assert lease.fresh()
    assert "503" in lease.error
    monotonic.seconds += 0.2
    assert not lease.fresh()
    assert lease.table() is not None
    lease.poll()
    assert lease.fresh()
    assert lease.error == ""


def test_an_abort_counts_although_the_entry_after_it_cannot_be_read() -> None:
    store = TroubledStore()
    plans, lease = Plans(store.store), make_lease(store)
    plans.initialize()
    plans.start()
    lease.poll()
    plans.abort()
    plans.start("c" * 64)
    store.read_fates.extend(["well", "refused"])
    before = lease.until
    lease.poll()
    table = lease.table()
    assert table is not None
    assert table.head == 3
    assert lease.until == before


def test_a_first_plan_is_not_known_before_the_journals_end_was_seen() -> None:
    store = TroubledStore()
    plans, lease = Plans(store.store), make_lease(store)
    plans.initialize()
    plans.start()
    plans.promote()
    store.read_fates.extend(["well", "refused"])
    lease.poll()
    assert lease.table() is None
    lease.poll()
    table = lease.table()
    assert table is not None
    assert (table.head, table.stable) == (3, CANDIDATE)


def test_an_entry_that_was_edited_is_never_followed() -> None:
    store, monotonic = MemoryStore(FixedClock()), HandClock()
    plans, lease = Plans(store), make_lease(store, monotonic)
    plans.initialize()
    lease.poll()
    plans.start(weight=0.1)
    body, at, _ = store.bodies[journal_key(2)]
    store.bodies[journal_key(2)] = Kept(body.replace(b'"weight":0.1', b'"weight":0.9'), at)
    lease.poll()
    table = lease.table()
    assert table is not None
    assert table.head == 1
    monotonic.seconds += LEASE_SECONDS
    lease.poll()
    assert not lease.fresh()
    assert "00000002.json is damaged" in lease.error


def test_a_journal_that_was_cut_does_not_take_the_plan_back() -> None:
    store = MemoryStore(FixedClock())
    plans, lease = Plans(store), make_lease(store)
    plans.initialize()
    plans.start()
    plans.abort()
    lease.poll()
    del store.bodies[journal_key(3)]
    lease.poll()
    table = lease.table()
    assert table is not None
    assert table.head == 3


def test_a_cap_that_comes_after_a_time_without_one_gives_no_places() -> None:
    store = MemoryStore(FixedClock())
    plans, lease = Plans(store), make_lease(store)
    plans.initialize()
    plans.start(cap=None)
    plans.reweight(weight=0.3, cap=100)
    lease.poll()
    table = lease.table()
    assert table is not None
    assert table.cap == 0
    # The next trial is counted from its begin.
    plans.abort()
    plans.start("c" * 64, cap=7)
    lease.poll()
    table = lease.table()
    assert table is not None
    assert table.cap == 7


def test_two_rounds_at_once_are_one() -> None:
    disk = MemoryStore(FixedClock())
    Plans(disk).initialize()
    num_reads = 0

    def another_round(operation: str) -> None:
        nonlocal num_reads
        num_reads += 1
        lease.poll()

    lease = make_lease(disk.seen_by(another_round))
    lease.poll()
    # The listing, entry 1, what follows it, and whether entry 1 is still there.
    assert num_reads == 4
    assert lease.fresh()


class HangingStore:
    """Reads of one key hang until the test ends; all others are answered."""

    def __init__(self, store: MemoryStore, num_to_hang: int) -> None:
        self._store = store
        self._num_to_hang = num_to_hang
        self.num_hanging = 0
        self.end = threading.Event()
        self._lock = threading.Lock()

    def hang_once(self) -> None:
        with self._lock:
            self._num_to_hang = 1

    def read(self, key: str) -> bytes:
        with self._lock:
            hangs = self._num_to_hang > 0
            self._num_to_hang -= hangs
            self.num_hanging += hangs
        if hangs:
            self.end.wait()
        return self._store.read(key)

    def children(self, prefix: str) -> list[str]:
        return self._store.children(prefix)


@pytest.mark.parametrize("num_to_hang", [1, 3])
def test_a_read_that_hangs_holds_nothing_up(num_to_hang: int) -> None:
    disk = MemoryStore(FixedClock())
    plans = Plans(disk)
    plans.initialize()
    store = HangingStore(disk, num_to_hang)
    lease = PlanLease(cast(Any, store), SERVICE, SERVICE)
    tables: list[RoutingTable] = []
    lease.watch(tables.append)
    lease.start()
    try:
        until(lease.fresh)
        store.hang_once()
        plans.start()
        until(lambda: tables[-1].head == 2)
        # A read that was under way may have found the entry; the next one hangs, and holds nothing up either.
        until(lambda: store.num_hanging == num_to_hang + 1)
        until(lease.fresh)
        assert not store.end.is_set()
    finally:
        lease.close()
        store.end.set()


def test_a_lease_that_is_closed_runs_out() -> None:
    disk = MemoryStore(FixedClock())
    Plans(disk).initialize()
    lease = PlanLease(cast(Any, disk), SERVICE, SERVICE)
    lease.start()
    until(lease.fresh)
    lease.close()
    until(lambda: not lease.fresh())
