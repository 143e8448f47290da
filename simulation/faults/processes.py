"""Faults that need processes: limits and full disks, concurrent writers, killed readers.

Each case forks: parent and children share the imports, and a killed child leaves only what it wrote.
"""

import ctypes
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from headrace.clock import SystemClock
from headrace.errors import HandoffCollected, HandoffMissing, PublishConflict, StoreUnavailable
from headrace.handoff.versions import HandoffStore
from headrace.store.leases import CLOCK_SKEW_SECONDS, TTL_SECONDS
from headrace.store.local import LocalStore
from simulation.faults.cases import ASSET, PARTITION, Later, Tally, check_everything, collect_all, is_content, publish

NUM_READERS = 20
# Exit statuses of children, by result.
DONE, REFUSED, CONFLICT, WRONG, FAILED = 0, 3, 4, 5, 6


def full_disk(directory: Path, chance: random.Random, tally: Tally) -> None:
    """A writer with a limit on file size: write(2) fails in the middle of a part or a manifest."""
    limit = chance.randrange(1, 30_000)
    publish(LocalStore(directory), 1, leased=False)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        publish(LocalStore(directory), 2)

    _note_writer(tally, _status(_fork(work)), directory)


def full_file_system(directory: Path, chance: random.Random, tally: Tally) -> None:
    """The same on a small tmpfs that is really full."""
    directory.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "headrace", str(directory)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        tally.kind = "full file system (ENOSPC): skipped, no mount permitted"
        return
    try:
        store = LocalStore(directory / "store")
        publish(store, 1, leased=False)
        free = os.statvfs(directory).f_bavail * os.statvfs(directory).f_bsize
        filler = directory / "filler"
        filler.write_bytes(bytes(max(free - chance.randrange(0, 80_000), 0)))
        status = _status(_fork(lambda: publish(store, 2) and None))
        filler.unlink()
        _note_writer(tally, status, store.directory)
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=False)


def two_writers(directory: Path, chance: random.Random, tally: Tally) -> None:
    """Two processes seal the same version number at once, with different rows or with the same."""
    publish(LocalStore(directory), 1, leased=False)
    start = time.monotonic() + 0.02
    contents = chance.choice(((2, 2), (2, 3), (2, 3)))

    def work(number: int) -> None:
        while time.monotonic() < start:
            pass
        publish(LocalStore(directory), number)

    statuses = [_status(pid) for pid in [_fork(lambda number=number: work(number)) for number in contents]]
    tally.faults += 1
    tally.told += statuses.count(CONFLICT)
    done = [number for number, status in zip(contents, statuses, strict=True) if status == DONE]
    if not done or set(statuses) - {DONE, CONFLICT}:
        tally.wrong("lost", f"writers ended with {statuses}")
    sealed = _contents(directory)
    for number in set(done) - set(sealed):
        tally.wrong("lost", f"content {number} was acknowledged, sealed are {sealed}")
    check_everything(LocalStore(directory), tally, {1: 1}, 91)


def killed_readers(directory: Path, chance: random.Random, tally: Tally) -> None:
    """A killed reader's lease keeps the version until it runs out, and no longer."""
    store = LocalStore(directory)
    publish(store, 1, leased=False)
    opened, tell = os.pipe()

    def read() -> None:
        table = HandoffStore(store).open(ASSET, PARTITION, 1).table()
        os.write(tell, str(table.num_rows).encode())
        time.sleep(600)

    reader = _fork(read)
    os.read(opened, 10)
    for number in (2, 3):
        publish(store, number, leased=False)
    collect_all(store, SystemClock())
    os.kill(reader, signal.SIGKILL)
    os.waitpid(reader, 0)
    os.close(opened)
    os.close(tell)
    tally.faults += 1
    collect_all(store, Later(TTL_SECONDS))
    if 1 not in _contents(directory):
        tally.wrong("lost", "a version was collected while a lease on it was in force")
    collect_all(store, Later(TTL_SECONDS + CLOCK_SKEW_SECONDS + 2))
    if list(_contents(directory)) != [3]:
        tally.wrong("lost", f"{_contents(directory)} are left after the killed reader's lease ran out")
    check_everything(store, tally, {3: 3}, 91)


# Each once, in a new directory.
CASES: Mapping[str, Callable[[Path, random.Random, Tally], None]] = {
    "file size limit (EFBIG)": full_disk,
    "full file system (ENOSPC)": full_file_system,
    "two writers on one version": two_writers,
    "a reader killed": killed_readers,
}


def repeated(name: str, root: Path, num_times: int, seed: int, advance: Callable[[], None]) -> Tally:
    tally, chance = Tally(name), random.Random(seed)
    for index in range(num_times):
        CASES[name](root / f"{index}", chance, tally)
        advance()
    return tally


def beside_readers(root: Path, seconds: float, advance: Callable[[], None], num_readers: int = NUM_READERS) -> Tally:
    """A writer and two collectors that keep one version, beside processes that keep reading the newest."""
    tally = Tally(f"collectors beside {num_readers} readers, reads")
    store = LocalStore(root)
    publish(store, 1, leased=False)
    until = time.monotonic() + seconds
    told, tell = os.pipe()

    def read() -> None:
        reads = 0
        handoffs = HandoffStore(store, verification="off")
        while time.monotonic() < until:
            try:
                handoff = handoffs.open(ASSET, PARTITION)
                if not is_content(handoff, int(handoff.attributes["content"])):
                    os._exit(WRONG)
            except (HandoffCollected, HandoffMissing):
                continue  # as reported: it opens the newest again
            reads += 1
        os.write(tell, f"{reads}\n".encode())

    def write() -> None:
        number = 1
        while time.monotonic() < until:
            number += 1
            publish(store, number)

    def collect() -> None:
        while time.monotonic() < until:
            collect_all(store, SystemClock())

    readers = [_fork(read) for _ in range(num_readers)]
    others = [_fork(write), _fork(collect), _fork(collect)]
    for pid in readers:
        if (status := _status(pid)) != DONE:
            tally.wrong("silent" if status == WRONG else "torn", f"a reader ended with {status}")
    for pid in others:
        if (status := _status(pid)) != DONE:
            tally.wrong("lost", f"a writer or collector ended with {status}")
    os.close(tell)
    with os.fdopen(told) as reads:
        tally.faults = sum(int(line) for line in reads)
    newest = max(_contents(root))
    check_everything(store, tally, {}, newest + 1000)
    advance()
    return tally


def _note_writer(tally: Tally, status: int, directory: Path) -> None:
    """A refused writer must have said so and left nothing visible; another one must have sealed."""
    tally.faults += 1
    tally.told += status == REFUSED
    if status not in (DONE, REFUSED):
        tally.wrong("torn", f"a writer ended with {status}")
    check_everything(LocalStore(directory), tally, {1: 1, **({2: 2} if status == DONE else {})}, 91)


def _contents(directory: Path) -> list[int]:
    handoffs = HandoffStore(LocalStore(directory), leased=False)
    versions = handoffs.versions(ASSET, PARTITION)
    found = []
    for version in versions:
        with suppress(HandoffMissing):
            found.append(int(handoffs.open(ASSET, PARTITION, version).attributes["content"]))
    return found


def _fork(work: Callable[[], object]) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    # Ends with the benchmark, even if that is killed.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    status = FAILED
    try:
        work()
        status = DONE
    except StoreUnavailable:
        status = REFUSED
    except PublishConflict:
        status = CONFLICT
    except BaseException as error:  # noqa: BLE001 (told to the parent by the status)
        with suppress(BaseException):
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
    finally:
        os._exit(status)


def _status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
