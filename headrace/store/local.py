"""An object store in a directory of a local (or NFS) file system.

A new object is a temporary file, fsynced, then given its name by link(2), which fails if the name is taken: one winner,
whole or not at all. `st_nlink` decides when link(2) reports "exists", since an NFS client that repeats a lost call is
told so about its own success. Directory entries are fsynced before anybody is told the outcome, the loser included.

What this does not know: other machines' page caches. Over NFS a reader may see a new key some seconds late.
"""

import errno
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from headrace.errors import InvalidInput, ObjectMissing, StoreUnavailable
from headrace.store.objects import check_key, new_nonce

# Both begin with a dot, which no key's first segment does.
_TEMPORARY = ".tmp"
_NODES = ".nodes"
# A writer touches its temporary file all the time; one that rested this long was killed.
_LEFTOVER_SECONDS = 24 * 3600

_REASONS = {
    errno.ENOSPC: "the disk is full. Free some space, then run it again",
    errno.EDQUOT: "the disk quota is used up. Free some space, then run it again",
    errno.EFBIG: "the file would be larger than the file size limit. Raise it (ulimit -f), then run it again",
    errno.EACCES: "permission is denied. Give this user read and write access",
    errno.EPERM: "the operation is not permitted. Check the owner, and that the file system has hard links",
    errno.EROFS: "the file system is read-only. Mount it writable, or set HEADRACE_STORE to another directory",
    errno.EMFILE: "this process has too many open files. Raise the limit (ulimit -n)",
    errno.EIO: "the disk reports an input/output error. Check its health before you write more",
    errno.ESTALE: "the network mount is gone. Mount it again",
    errno.ENOTDIR: "a part of the path is a file. Move it away, or set HEADRACE_STORE to another directory",
    errno.EEXIST: "a part of the path is a file. Move it away, or set HEADRACE_STORE to another directory",
}


class LocalStore:
    """What each method promises stands at `headrace.store.objects.ObjectStore`."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(os.path.abspath(directory))  # noqa: PTH100 (`Path.absolute` keeps `..`)
        # Directories whose own entry this process knows to be on disk.
        self._durable: set[Path] = set()
        self._swept = threading.Event()

    def __repr__(self) -> str:
        return f"LocalStore({str(self.directory)!r})"

    def create(self, key: str, body: bytes) -> bool:
        with self._temporary(key) as part:
            part.write(body)
            part.seal()
            return self._link(part.path, key)

    def read(self, key: str) -> bytes:
        with self._os_errors(key):
            try:
                return self.local_path(key).read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                raise ObjectMissing(f"{self.uri(key)} does not exist.") from None

    def exists(self, key: str) -> bool:
        with self._os_errors(key):
            return self.local_path(key).is_file()

    @contextmanager
    def write_part(self, key: str) -> Iterator["LocalPart"]:
        with self._temporary(key) as part:
            yield part
            part.seal()
            if not self._link(part.path, key):
                raise InvalidInput(f"Part {key} is already there. Part keys must be unique: put a nonce into them.")

    def local_path(self, key: str) -> Path:
        return self.directory / check_key(key)

    def uri(self, key: str) -> str:
        return "file://" + quote(str(self.local_path(key)))

    def node_directory(self) -> Path:
        return self.directory / _NODES / quote(socket.gethostname(), safe="")

    def delete(self, key: str) -> None:
        with self._os_errors(key):
            self.local_path(key).unlink(missing_ok=True)

    def delete_prefix(self, prefix: str) -> None:
        with self._os_errors(prefix), suppress(FileNotFoundError):
            shutil.rmtree(self.local_path(prefix))

    def children(self, prefix: str) -> list[str]:
        with self._os_errors(prefix), suppress(FileNotFoundError, NotADirectoryError):
            return sorted(os.listdir(self.local_path(prefix)))  # noqa: PTH208 (names, not paths)
        return []

    # Last in the class: its name hides the built-in one from the annotations that follow it.
    def list(self, prefix: str) -> list[str]:
        with self._os_errors(prefix):
            return sorted(_keys_below(self.local_path(prefix), prefix))

    @contextmanager
    def _temporary(self, key: str) -> Iterator["LocalPart"]:
        check_key(key)
        with self._os_errors(key):
            directory = self.directory / _TEMPORARY
            directory.mkdir(parents=True, exist_ok=True)
            part = LocalPart(self, key, directory / new_nonce())
            self._sweep_once(part.path)
        # The caller's own errors pass through here as they are.
        try:
            yield part
        finally:
            part.discard()

    def _link(self, temporary: Path, key: str) -> bool:
        """True: `key` is now a name of the temporary file."""
        target = self.local_path(key)
        tries_left = 2
        with self._os_errors(key):
            while True:
                self._make_durable_directory(target.parent)
                tries_left -= 1
                try:
                    os.link(temporary, target)
                    won = True
                except FileExistsError:
                    won = temporary.stat().st_nlink > 1
                except FileNotFoundError:
                    # Somebody deleted the directory since this process saw it.
                    self._durable.clear()
                    if tries_left:
                        continue
                    raise
                _fsync_directory(target.parent)
                return won

    def _make_durable_directory(self, directory: Path) -> None:
        """Makes it and its ancestors up to the store's own, with every entry on disk, whoever made it first."""
        directory.mkdir(parents=True, exist_ok=True)
        for child in [directory, *directory.parents]:
            if child in self._durable:
                return
            if child == self.directory:
                with suppress(PermissionError):  # what lies above the store need not be ours to open
                    _fsync_directory(child.parent)
                self._durable.add(child)
                return
            _fsync_directory(child.parent)
            self._durable.add(child)

    def _sweep_once(self, own: Path) -> None:
        """Removes what killed writers left, at a process's first write.

        Compares with the age of this process's own new file, so that no clock but the file system's is asked.
        """
        if self._swept.is_set():
            return
        self._swept.set()
        newest = own.stat().st_mtime
        for entry in list(os.scandir(own.parent)):
            with suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime < newest - _LEFTOVER_SECONDS:
                    os.unlink(entry.path)  # noqa: PTH108

    @contextmanager
    def _os_errors(self, key: str) -> Iterator[None]:
        """Says in one sentence what the operating system refused.

        Raises:
            StoreUnavailable
        """
        try:
            yield
        except OSError as error:
            reason = _REASONS.get(error.errno or 0, f"{error.strerror or error}")
            raise StoreUnavailable(f"Store {self.directory} cannot serve {key}: {reason}.") from error


class LocalPart:
    """A part that is being written: a temporary file, read-only for everybody once sealed."""

    def __init__(self, store: LocalStore, key: str, path: Path) -> None:
        self.path = path
        self.num_bytes = 0
        self._store = store
        self._key = key
        self._file = path.open("xb", buffering=1024 * 1024)

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, body: bytes | bytearray | memoryview, /) -> int:
        with self._store._os_errors(self._key):
            num_bytes = self._file.write(body)
        self.num_bytes += num_bytes
        return num_bytes

    def flush(self) -> None:
        with self._store._os_errors(self._key):
            self._file.flush()

    def seal(self) -> None:
        with self._store._os_errors(self._key):
            self._file.flush()
            # A memory-mapped file that is written to is silently wrong data for its readers: make that hard.
            os.fchmod(self._file.fileno(), os.fstat(self._file.fileno()).st_mode & 0o444)
            os.fsync(self._file.fileno())
            self._file.close()

    def discard(self) -> None:
        with suppress(OSError):  # a last flush of what did not fit before
            self._file.close()
        with suppress(OSError):  # swept later
            self.path.unlink(missing_ok=True)


def _keys_below(directory: Path, prefix: str) -> Iterator[str]:
    try:
        entries = list(os.scandir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        key = f"{prefix}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _keys_below(directory / entry.name, key)
        else:
            yield key


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
