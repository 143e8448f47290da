"""An object store in a directory of a local (or NFS) file system.

A new object is a temporary file, fsynced, then given its name by link(2), which fails if the name is taken: one winner,
whole or not at all. `st_nlink` decides when link(2) reports "exists", since an NFS client that repeats a lost call is
told so about its own success. Directory entries are fsynced before anybody is told the outcome, the loser included,
and before an object counts as deleted.

What this does not know: other machines' page caches. Over NFS a reader may see a new key some seconds late.
"""

import os
import shutil
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from headrace.errors import HandoffCorrupt, InvalidInput, ObjectMissing
from headrace.store.objects import Entry, Segment, check_key, new_nonce
from headrace.store.refusals import os_reason, os_refusal

# Both begin with a dot, which no key's first segment does.
_TEMPORARY = ".tmp"
_NODES = ".nodes"
# Small writes are collected; what is larger than this goes to the kernel without a copy.
_BUFFER_BYTES = 64 * 1024
# A writer touches its temporary file all the time; one that rested this long was killed.
_LEFTOVER_SECONDS = 24 * 3600


class LocalStore:
    """What each method promises stands at `headrace.store.objects.ObjectStore`."""

    checks_what_it_fetches = False

    def __init__(self, directory: Path) -> None:
        self.directory = Path(os.path.abspath(directory))  # noqa: PTH100 (`Path.absolute` keeps `..`)
        self._root = str(self.directory)
        # Directories whose own entry this process knows to be on disk. Where another process deletes one and makes it
        # again, this does not see it (not by its inode, which ext4 gives out again at once): what one process deletes
        # and another writes to (batches of a void claim, parts under a nonce) nobody makes again.
        self._durable: set[Path] = set()
        self._swept = threading.Event()

    def __repr__(self) -> str:
        return f"LocalStore({str(self.directory)!r})"

    @property
    def url(self) -> str:
        return self.directory.as_uri()

    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        if not durable:
            return self._create_volatile(key, body)
        with self._temporary(key) as part:
            part.write(body)
            part.seal()
            return self._link(part.path, key)

    def read(self, key: str) -> bytes:
        with self._os_errors(key):
            try:
                return self.local_path(key).read_bytes()
            except FileNotFoundError:
                raise ObjectMissing(f"{self.uri(key)} does not exist.") from None
            except (IsADirectoryError, NotADirectoryError) as error:
                raise self._no_file(key, error) from error

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> "list[memoryview]":
        with self._os_errors(key):
            try:
                descriptor = os.open(self.local_path(key), os.O_RDONLY)
            except FileNotFoundError:
                raise ObjectMissing(f"{self.uri(key)} does not exist.") from None
            except NotADirectoryError as error:
                raise self._no_file(key, error) from error
            try:
                return [self._read_range(descriptor, key, *extent) for extent in ranges]
            except IsADirectoryError as error:
                raise self._no_file(key, error) from error
            finally:
                os.close(descriptor)

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
        return Path(f"{self._root}/{check_key(key)}")

    def local_directory(self, prefix: str) -> Path:
        return self.local_path(prefix)

    def local_segments(self, key: str, *, digest: str, num_bytes: int, segments: Sequence[Segment]) -> Path:
        return self.local_path(key)

    def uri(self, key: str) -> str:
        return "file://" + quote(str(self.local_path(key)))

    def node_directory(self) -> Path:
        return self.directory / _NODES / quote(socket.gethostname(), safe="")

    def delete(self, key: str, *, durable: bool = True) -> None:
        path = self.local_path(key)
        with self._os_errors(key):
            path.unlink(missing_ok=True)
            if durable:
                # Also where it was gone already: whoever took it away may not have come this far.
                with suppress(FileNotFoundError, NotADirectoryError):
                    _fsync_directory(path.parent)

    def delete_prefix(self, prefix: str) -> None:
        directory = self.local_path(prefix)
        with self._os_errors(prefix):
            for known in list(self._durable):
                if known.is_relative_to(directory):
                    self._durable.discard(known)
            # Somebody else who deletes here takes entries away from under us: then again, until nothing is left.
            while directory.exists():
                with suppress(FileNotFoundError):
                    shutil.rmtree(directory)

    def children(self, prefix: str) -> list[str]:
        with self._os_errors(prefix), suppress(FileNotFoundError, NotADirectoryError):
            return sorted(os.listdir(self.local_path(prefix) if prefix else self.directory))  # noqa: PTH208 (names, not paths)
        return []

    def entries(self, prefix: str) -> "list[Entry]":
        found = []
        with self._os_errors(prefix):
            for key, file in _files_below(self.local_path(prefix), prefix):
                with suppress(FileNotFoundError):  # deleted since its directory was read
                    state = file.stat(follow_symlinks=False)
                    found.append(Entry(key=key, num_bytes=state.st_size, modified_at=state.st_mtime))
        return sorted(found, key=lambda entry: entry.key)

    # Last in the class: its name hides the built-in one from the annotations that follow it.
    def list(self, prefix: str) -> list[str]:
        with self._os_errors(prefix):
            return sorted(key for key, _ in _files_below(self.local_path(prefix), prefix))

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

    def _create_volatile(self, key: str, body: bytes) -> bool:
        """Without fsync, and as few system calls as will do: each reader of a handoff makes a lease."""
        check_key(key)
        temporary = f"{self._root}/{_TEMPORARY}/{new_nonce()}"
        with self._os_errors(key):
            try:
                descriptor = _open_new(temporary)
            except FileNotFoundError:
                os.makedirs(f"{self._root}/{_TEMPORARY}", exist_ok=True)  # noqa: PTH103 (paths cost more than the call)
                descriptor = _open_new(temporary)
            try:
                with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 (a descriptor)
                    view = memoryview(body)
                    while view:  # a disk that is nearly full takes a part of it, without an error
                        view = view[file.write(view) :]
                return self._link(Path(temporary), key, durable=False)
            finally:
                os.unlink(temporary)  # noqa: PTH108

    def _no_file(self, key: str, error: OSError) -> HandoffCorrupt:
        """Neither missing nor there: whoever took it for missing would take a chain's middle for its end."""
        what = "a directory" if isinstance(error, IsADirectoryError) else "below a file"
        return HandoffCorrupt(
            f"{self.uri(key)} is {what}, where the store keeps an object: somebody changed files in the store. Move it "
            "away, or restore the object from a backup.",
            key=key,
        )

    def _read_range(self, descriptor: int, key: str, offset: int, num_bytes: int) -> memoryview:
        body = bytearray(num_bytes)
        view, num_read = memoryview(body), 0
        while num_read < num_bytes:  # one call reads at most 2 GiB
            more = os.preadv(descriptor, [view[num_read:]], offset + num_read)
            if more == 0:
                raise HandoffCorrupt(
                    f"{self.uri(key)} ends at byte {offset + num_read}, before byte {offset + num_bytes}, which was "
                    "asked for: it is torn. Make it again."
                )
            num_read += more
        return view.toreadonly()

    def _link(self, temporary: Path, key: str, *, durable: bool = True) -> bool:
        """True: `key` is now a name of the temporary file."""
        target = self.local_path(key)
        tries_left = 2
        with self._os_errors(key):
            while True:
                tries_left -= 1
                try:
                    if durable:
                        self._make_durable_directory(target.parent)
                    elif tries_left < 1:
                        target.parent.mkdir(parents=True, exist_ok=True)
                except FileNotFoundError:
                    # Somebody deletes it just now.
                    if tries_left:
                        continue
                    raise
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
                if durable:
                    _fsync_directory(target.parent)
                return won

    def _make_durable_directory(self, directory: Path) -> None:
        """Makes it and its ancestors up to the store's own, with every entry on disk, whoever made it first."""
        directory.mkdir(parents=True, exist_ok=True)
        for child in [directory, *directory.parents]:
            if child in self._durable:
                return
            if child == self.directory:
                self._make_durable_root()
                self._durable.add(child)
                return
            _fsync_directory(child.parent)
            self._durable.add(child)

    def _make_durable_root(self) -> None:
        """Puts the store's own entry on disk, and those above it on this file system: we or another may have made them.

        Once a process.
        """
        device = self.directory.stat().st_dev
        for directory in self.directory.parents:
            with suppress(PermissionError):  # what lies above the store need not be ours to open
                _fsync_directory(directory)
            if directory.stat().st_dev != device:
                return

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
            raise os_refusal(error, f"Store {self.directory} cannot serve {key}: {os_reason(error)}.") from error


class LocalPart:
    """A part that is being written: a temporary file, read-only for everybody once sealed."""

    def __init__(self, store: LocalStore, key: str, path: Path) -> None:
        self.path = path
        self.num_bytes = 0
        self._store = store
        self._key = key
        self._file = path.open("xb", buffering=_BUFFER_BYTES)

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


def _open_new(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)


def _files_below(directory: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    try:
        entries = list(os.scandir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        key = f"{prefix}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(directory / entry.name, key)
        else:
            yield key, entry


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
