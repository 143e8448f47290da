"""A directory of this node that its processes share: copies of a remote store's objects, mapped like local files.

An entry is a directory with a lock file. A process that fills or opens an entry holds its lock shared; eviction takes
it exclusively, so it never removes an entry in use. A memory map stays valid after its file is unlinked. Sizes are disk
usage (sparse files count by their blocks).

Nothing is fsynced. Every mark of completeness carries the boot's identity: after another boot, when a power cut may
have lost bytes, they are compared with their digests again before anybody gets them. The directory must be local.
Losing it costs only time.
"""

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from headrace.store.objects import new_nonce
from headrace.store.refusals import os_reason, os_refusal

DEFAULT_BYTES_MAX = 20 * 1000**3
# The time between getting a path and mapping it. Directories are held as long as the process lives.
_GRACE_SECONDS = 30.0
# A process scans the whole directory again after it has added this fraction of the limit.
_LOOK_AGAIN = 64


@dataclass
class Hold:
    """One entry that this process has open, and since when."""

    directory: Path
    descriptor: int
    since: float
    for_life: bool


@dataclass(frozen=True, kw_only=True)
class _Occupant:
    used_at: float
    num_bytes: int
    directory: Path


class NodeCache:
    """`num_bytes_max`: entries in use may exceed it for a while; they are never removed. `offered_at`: this node's
    address, `HOST` or `HOST:PORT`, at which its processes offer tensors to other nodes; None: they do not."""

    def __init__(
        self,
        directory: Path,
        num_bytes_max: int = DEFAULT_BYTES_MAX,
        *,
        grace_seconds: float = _GRACE_SECONDS,
        offered_at: str | None = None,
    ) -> None:
        self.offered_at = offered_at
        self.directory = Path(os.path.abspath(directory))  # noqa: PTH100 (`Path.absolute` keeps `..`)
        self.num_bytes_max = num_bytes_max
        self._grace_seconds = grace_seconds
        self._holds: dict[Path, Hold] = {}
        self._mutex = threading.Lock()
        self._num_bytes_unseen: int | None = None

    def __repr__(self) -> str:
        return f"NodeCache({str(self.directory)!r}, {self.num_bytes_max})"

    @contextmanager
    def entry(self, name: str, *, for_life: bool = False) -> Iterator[Path]:
        """The entry's directory, made if missing; not evicted inside the block, nor for a moment after it.

        Args:
            for_life: not evicted either as long as this process lives.

        Raises:
            StoreUnavailable: the disk refuses it.
        """
        with self.errors(name):
            hold = self._take(self.directory / "entries" / name, for_life=for_life)
            try:
                yield hold.directory
            finally:
                self._keep(hold)

    def make_room(self, num_bytes: int) -> None:
        """Call before `num_bytes` are added: evicts least recently used entries if they would exceed the limit."""
        with self._mutex:
            if self._num_bytes_unseen is not None:
                self._num_bytes_unseen += num_bytes
                if self._num_bytes_unseen < self.num_bytes_max // _LOOK_AGAIN:
                    return
            self._num_bytes_unseen = 0
        self._release_old_holds()
        self._evict(self.num_bytes_max - num_bytes)

    def num_bytes(self) -> int:
        """The disk space that the entries use now."""
        return sum(occupant.num_bytes for occupant in self._occupants())

    @contextmanager
    def errors(self, name: str) -> Iterator[None]:
        """Turns the operating system's refusal into one sentence.

        Raises:
            StoreUnavailable
        """
        try:
            yield
        except OSError as error:
            reason = os_reason(error, variable="HEADRACE_CACHE")
            raise os_refusal(error, f"Node cache {self.directory} cannot keep {name}: {reason}.") from error

    def _take(self, directory: Path, *, for_life: bool) -> Hold:
        while True:
            directory.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:  # evicted in between
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if _is_the_file(descriptor, directory / "lock"):
                    os.utime(descriptor)
                    return Hold(directory, descriptor, time.monotonic(), for_life)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _keep(self, hold: Hold) -> None:
        with self._mutex:
            before = self._holds.pop(hold.directory, None)
            self._holds[hold.directory] = hold
            if before:
                hold.for_life |= before.for_life
                os.close(before.descriptor)
        self._release_old_holds()

    def _release_old_holds(self) -> None:
        until = time.monotonic() - self._grace_seconds
        with self._mutex:
            # Ordered by the time they were handed out: the first one that is young enough ends the search.
            for directory, hold in list(self._holds.items()):
                if hold.since > until:
                    break
                if not hold.for_life:
                    del self._holds[directory]
                    os.close(hold.descriptor)

    def _evict(self, num_bytes_left: int) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        turn = os.open(self.directory / "evicting", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            trash = self.directory / "trash"
            shutil.rmtree(trash, ignore_errors=True)  # left by an evictor that was killed
            trash.mkdir(exist_ok=True)
            occupants = sorted(self._occupants(), key=lambda occupant: occupant.used_at)
            num_bytes = sum(occupant.num_bytes for occupant in occupants)
            for occupant in occupants:
                if num_bytes <= num_bytes_left:
                    return
                if _take_away(occupant.directory, trash / new_nonce()):
                    num_bytes -= occupant.num_bytes
        except BlockingIOError:  # another process is evicting
            pass
        finally:
            os.close(turn)

    def _occupants(self) -> Iterator[_Occupant]:
        with suppress(FileNotFoundError):
            for entry in list(os.scandir(self.directory / "entries")):
                with suppress(FileNotFoundError, NotADirectoryError):
                    used_at = os.stat(f"{entry.path}/lock").st_mtime  # noqa: PTH116
                    yield _Occupant(used_at=used_at, num_bytes=_disk_bytes(entry.path), directory=Path(entry.path))


@cache
def boot_identity() -> str:
    """32 hex characters, unique to this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")


def _take_away(directory: Path, trash: Path) -> bool:
    """Returns False if another process fills or opens it."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # In one step, with the lock file: a process that opens the entry now makes a new one.
        directory.rename(trash)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    shutil.rmtree(trash, ignore_errors=True)
    return True


def _is_the_file(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _disk_bytes(directory: str) -> int:
    num_bytes = 0
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            num_bytes += _disk_bytes(entry.path)
        else:
            num_bytes += entry.stat(follow_symlinks=False).st_blocks * 512
    return num_bytes
