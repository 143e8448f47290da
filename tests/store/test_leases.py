import gc
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headrace.clock import FixedClock
from headrace.errors import HandoffCollected, StoreUnavailable
from headrace.store import leases as leases_module
from headrace.store.leases import CLOCK_SKEW_SECONDS, TTL_SECONDS, Leases, is_leased
from headrace.store.local import LocalStore
from headrace.store.tombstones import Condemned, Tombstone, standing
from tests.handoff.simulated_store import ByHand
from tests.waiting import eventually

WANTED = Condemned(prefix="p", clears=False)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def leases(store: LocalStore, clock: FixedClock) -> Leases:
    return Leases(store, clock, sleep=lambda _: None, renewal=ByHand())  # type: ignore[arg-type]


def test_a_lease_is_there_while_it_is_held_and_gone_when_it_is_released(leases: Leases, store: LocalStore) -> None:
    with leases.hold("n"):
        assert is_leased(store, "n", leases.clock.now())
        assert not is_leased(store, "other", leases.clock.now())
    assert store.list("leases") == []


def test_one_process_makes_one_lease_however_many_share_it(leases: Leases, store: LocalStore) -> None:
    shares = [leases.hold("n") for _ in range(3)]
    assert len(store.list("leases")) == 1
    for share in shares:
        assert store.list("leases")
        share.release()
        share.release()
    assert store.list("leases") == []


def test_a_lease_that_nobody_refers_to_any_more_is_released(leases: Leases, store: LocalStore) -> None:
    leases.hold("n")
    gc.collect()
    leases.renew()
    assert store.list("leases") == []


def test_a_dead_process_s_lease_runs_out_some_minutes_after_its_time(
    leases: Leases, store: LocalStore, clock: FixedClock
) -> None:
    lease = leases.hold("n")
    assert is_leased(store, "n", clock.now() + TTL_SECONDS + CLOCK_SKEW_SECONDS - 2)
    assert not is_leased(store, "n", clock.now() + TTL_SECONDS + CLOCK_SKEW_SECONDS + 2)
    assert lease.is_protected


def test_renewal_leaves_no_moment_without_a_lease_and_no_more_than_two_keys(
    leases: Leases, store: LocalStore, clock: FixedClock
) -> None:
    lease = leases.hold("n")
    seen = store.list("leases")
    for _ in range(6):
        clock.advance(TTL_SECONDS / 3)
        leases.renew()
        assert is_leased(store, "n", clock.now() + TTL_SECONDS - 1)
        # What a listing saw that began before this renewal is still there.
        assert seen[-1] in store.list("leases")
        seen = store.list("leases")
        assert len(seen) <= 2
    lease.release()
    assert store.list("leases") == []


def test_a_reader_that_comes_while_a_collector_decides_waits_for_it(store: LocalStore, clock: FixedClock) -> None:
    tombstone = Tombstone(nonce="n", collector="c")
    tombstone.create(store, WANTED)
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        # Meanwhile its own lease must not be what keeps the version.
        assert not is_leased(store, "n", clock.now())
        naps.append(seconds)
        if len(naps) == 5:
            tombstone.withdraw(store)

    lease = Leases(store, clock, sleep=sleep, renewal=ByHand()).hold("n")  # type: ignore[arg-type]
    assert len(naps) == 5
    assert is_leased(store, "n", clock.now())
    lease.release()


def test_a_reader_that_comes_too_late_is_told_after_two_seconds(store: LocalStore, clock: FixedClock) -> None:
    Tombstone(nonce="n", collector="c").create(store, WANTED)
    naps: list[float] = []
    with pytest.raises(HandoffCollected, match="is about to"):
        Leases(store, clock, sleep=naps.append, renewal=ByHand()).hold("n")  # type: ignore[arg-type]
    assert sum(naps) == pytest.approx(2.0)
    assert store.list("leases") == []


def test_a_reader_of_what_was_decided_does_not_wait(store: LocalStore, clock: FixedClock) -> None:
    tombstone = Tombstone(nonce="n", collector="c")
    tombstone.create(store, WANTED)
    tombstone.decide(store, "collect", at="now")
    naps: list[float] = []
    with pytest.raises(HandoffCollected):
        Leases(store, clock, sleep=naps.append, renewal=ByHand()).hold("n")  # type: ignore[arg-type]
    assert naps == []


def test_a_reader_whose_manifest_went_meanwhile_is_told_although_no_tombstone_is_left(leases: Leases) -> None:
    with pytest.raises(HandoffCollected, match=r"handoff/docs/all/v000001"):
        leases.hold("n", manifest_key="handoff/docs/all/v000001/manifest.json")


def test_a_decision_stands_whoever_comes_second(store: LocalStore) -> None:
    tombstone = Tombstone(nonce="n", collector="c")
    tombstone.create(store, WANTED)
    assert standing(store, "n") == "undecided"
    assert tombstone.decide(store, "spare", at="now") == "spare"
    assert tombstone.decide(store, "collect", at="later") == "spare"
    assert standing(store, "n") == "none"


def test_a_process_that_was_stopped_past_its_lease_is_told_if_the_version_was_taken(
    leases: Leases, store: LocalStore, clock: FixedClock
) -> None:
    lease, other = leases.hold("taken"), leases.hold("kept")
    clock.advance(TTL_SECONDS + 1)
    Tombstone(nonce="taken", collector="c").create(store, WANTED)
    Tombstone(nonce="taken", collector="c").decide(store, "collect", at="now")
    leases.renew()
    for _ in range(2):
        with pytest.raises(HandoffCollected):
            lease.check()
    other.check()
    assert is_leased(store, "kept", clock.now())
    assert not is_leased(store, "taken", clock.now())


def test_a_check_notices_by_itself_that_the_lease_ran_out(leases: Leases, store: LocalStore, clock: FixedClock) -> None:
    lease = leases.hold("n")
    lease.check()
    clock.advance(TTL_SECONDS + 1)
    Tombstone(nonce="n", collector="c").create(store, WANTED)
    with pytest.raises(HandoffCollected):
        lease.check()


def test_a_writer_is_told_before_it_tells_anybody(leases: Leases, store: LocalStore) -> None:
    store.create("manifest", b"")
    with leases.hold("n") as lease:
        lease.confirm("manifest")
        Tombstone(nonce="n", collector="c").create(store, WANTED)
        with pytest.raises(HandoffCollected):
            lease.confirm("manifest")


class ReadOnlyStore(LocalStore):
    """As a read-only mount answers; root may write to whatever has permissions alone."""

    is_writable = False

    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        if not self.is_writable:
            raise StoreUnavailable(f"Store {self.directory} cannot serve {key}: the file system is read-only.")
        return super().create(key, body, durable=durable)


def test_reading_goes_on_in_a_read_only_store_with_one_warning(
    tmp_path: Path, clock: FixedClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = ReadOnlyStore(tmp_path)
    leases = Leases(store, clock, renewal=ByHand())  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        held = [leases.hold(nonce) for nonce in "abc"]
        clock.advance(10 * TTL_SECONDS)
        for lease in held:
            lease.check()
            assert not lease.is_protected
    assert [record.message for record in caplog.records] == [
        f"Reading goes on without leases: collect no garbage meanwhile. Store {tmp_path} cannot serve "
        f"{caplog.records[0].message.partition('cannot serve ')[2]}"
    ]
    # Mounted writable again, what is held gets its lease at the next renewal.
    store.is_writable = True
    leases.renew()
    assert all(lease.is_protected for lease in held)


def test_a_renewal_that_fails_is_made_up_for_before_the_lease_runs_out(tmp_path: Path, clock: FixedClock) -> None:
    store = ReadOnlyStore(tmp_path)
    store.is_writable = True
    leases = Leases(store, clock, renewal=ByHand())  # type: ignore[arg-type]
    lease = leases.hold("n")
    store.is_writable = False
    clock.advance(TTL_SECONDS * 0.4)
    leases.renew()
    lease.check()
    store.is_writable = True
    clock.advance(TTL_SECONDS * 0.4)
    leases.renew()
    assert is_leased(store, "n", clock.now() + TTL_SECONDS - 2)


HOLDER = """
import os, sys, time
from pathlib import Path
from headrace.clock import SystemClock
from headrace.store.leases import Leases
from headrace.store.local import LocalStore
leases = Leases(LocalStore(Path(sys.argv[1])), SystemClock(), ttl_seconds=float(sys.argv[2]))
"""


def start(code: str, directory: Path, ttl_seconds: float) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER + code, str(directory), str(ttl_seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    return process.stdout.readline().strip()


@pytest.mark.process
def test_a_process_that_ends_leaves_no_lease_and_is_not_kept_alive_by_its_renewal(store: LocalStore) -> None:
    process = start("lease = leases.hold('n'); print(len(os.listdir(sys.argv[1] + '/leases/n')))", store.directory, 900)
    assert said(process) == "1"
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert store.list("leases") == []


@pytest.mark.process
def test_a_running_process_renews_and_a_killed_one_does_not(store: LocalStore) -> None:
    process = start("lease = leases.hold('n'); print('held', flush=True); time.sleep(600)", store.directory, 1.0)
    assert said(process) == "held"
    first = store.list("leases")
    eventually(lambda: not set(first) & set(store.list("leases")))
    assert len(store.list("leases")) in (1, 2)
    process.kill()
    process.wait()
    last = store.list("leases")
    assert last
    assert store.list("leases") == last
    assert not is_leased(store, "n", time.time() + 1.0 + CLOCK_SKEW_SECONDS + 2)


@pytest.mark.process
def test_a_stopped_process_finds_out_when_it_goes_on(store: LocalStore) -> None:
    process = start(
        """
from headrace.errors import HandoffCollected
lease = leases.hold('n'); print('held', flush=True); sys.stdin.readline()
try: lease.check(); print('in force', flush=True)
except HandoffCollected: print('told', flush=True)
""",
        store.directory,
        1.0,
    )
    assert said(process) == "held"
    os.kill(process.pid, signal.SIGSTOP)
    end = max(leases_module.expires_at(key) for key in store.list("leases"))
    eventually(lambda: time.time() > end + 0.1)
    tombstone = Tombstone(nonce="n", collector="c")
    tombstone.create(store, WANTED)
    tombstone.decide(store, "collect", at="now")
    os.kill(process.pid, signal.SIGCONT)
    out, _ = process.communicate("go\n", timeout=60)
    assert out.strip() == "told"


@pytest.mark.process
def test_a_forked_child_takes_a_lease_of_its_own_and_leaves_its_parent_s(store: LocalStore) -> None:
    process = start(
        """
lease = leases.hold('n')
count = lambda: len(os.listdir(sys.argv[1] + '/leases/n'))
pid = os.fork()
if pid == 0:
    before = count()
    lease.check()
    with leases.hold('n'):
        print(before, count(), flush=True)
    lease.release()
    print(count(), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
lease.check()
print(count(), flush=True)
""",
        store.directory,
        900,
    )
    out, _ = process.communicate(timeout=60)
    assert out.split("\n")[:3] == ["1 2", "1", "1"]
    assert process.returncode == 0
    assert store.list("leases") == []


def test_importing_starts_no_thread() -> None:
    code = "import threading, headrace.store.leases; print(threading.active_count())"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "1\n"
