"""An object store in a directory of a local (or NFS) file system.

A new object is a temporary file, fsynced, then named by link(2), which fails if the name is taken: one writer wins, and
the object is whole or absent. `st_nlink` decides when link(2) reports "exists", since an NFS client that repeats a lost
call gets that answer about its own success. Directory entries are fsynced before any caller, the loser included, gets
the outcome, and before an object counts as deleted.

What this does not know: other machines' page caches. Over NFS a reader may see a new key some seconds late.
"""

import errno
import fcntl
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from headrace.errors import HandoffCorrupt, InvalidInput, ObjectMissing
from headrace.store.objects import Entry, Segment, check_key, new_nonce
from headrace.store.refusals import os_reason, os_refusal

# All begin with a dot, and no key's first segment does.
_TEMPORARY = ".tmp"
_REPLACING = ".replacing"
_NODES = ".nodes"
# Smaller writes are buffered; larger ones go to the kernel without a copy.
_BUFFER_BYTES = 64 * 1024
# A writer touches its temporary file all the time; if it rests this long, its writer was killed.
_LEFTOVER_SECONDS = 24 * 3600
# The object is not there, or not a file that may have one more name; or the key exists.
_NO_LINK = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EEXIST})
# A directory may be deleted between its making and the link into it, as often as others delete there.
_LINK_TRIES = 20


class LocalStore:
    """`headrace.store.objects.ObjectStore` states what each method promises."""

    checks_what_it_fetches = False

    def __init__(self, directory: Path) -> None:
        self.directory = Path(os.path.abspath(directory))  # noqa: PTH100 (`Path.absolute` keeps `..`)
        self._root = str(self.directory)
        # Directories whose own entry is on disk, as this process knows. It does not see another process delete and
        # remake one (the inode does not show it: ext4 reuses inodes at once). That is safe: what one process deletes
        # and another writes to (batches of a void claim, parts under a nonce) is never made again.
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

    def replace(self, key: str, body: bytes, *, of: bytes) -> bool:
        with self._temporary(key) as part:
            part.write(body)
            part.seal()
            target = self.local_path(key)
            with self._os_errors(key), (self.directory / _REPLACING).open("ab") as alone:
                # Ends with the file.
                fcntl.flock(alone, fcntl.LOCK_EX)
                if not target.is_file() or target.read_bytes() != of:
                    return False
                part.path.replace(target)
                self._make_durable(target.parent)
                return True

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

    def link(self, key: str, existing: str) -> bool:
        source, target = self.local_path(existing), self.local_path(key)
        with self._os_errors(key):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, target)
            except OSError as error:
                # An NFS client that repeats a lost call is refused by its own success.
                if error.errno != errno.EEXIST or not source.samefile(target):
                    if error.errno in _NO_LINK:
                        return False
                    raise
            self._make_durable(target.parent)
            return True

    def local_path(self, key: str) -> Path:
        return _path_of(self._root, key)

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
                # Also if it was already gone: the process that deleted it may not have synced the directory yet.
                with suppress(FileNotFoundError, NotADirectoryError):
                    _fsync_directory(path.parent)

    def delete_prefix(self, prefix: str) -> None:
        directory = self.local_path(prefix)
        with self._os_errors(prefix):
            # Before, for what is made after the deletion; after, for what was made and deleted during it.
            self._forget(directory)
            _delete_what_is_there(str(directory))
            self._forget(directory)

    def children(self, prefix: str) -> list[str]:
        with self._os_errors(prefix), suppress(FileNotFoundError, NotADirectoryError):
            return sorted(os.listdir(self.local_path(prefix) if prefix else self.directory))  # noqa: PTH208 (names, not paths)
        return []

    def entries(self, prefix: str) -> "list[Entry]":
        found = []
        with self._os_errors(prefix):
            for key, file in _files_below(self.local_path(prefix), prefix):
                with suppress(FileNotFoundError):  # deleted after its directory was read
                    state = file.stat(follow_symlinks=False)
                    found.append(Entry(key=key, num_bytes=state.st_size, modified_at=state.st_mtime))
        return sorted(found, key=lambda entry: entry.key)

    # Last in the class: its name hides the built-in `list` from the annotations that follow it.
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
        # The caller's own errors must pass unchanged.
        try:
            yield part
        finally:
            part.discard()

    def temporary_files(self) -> dict[str, float]:
        """Writers' files, of living and killed ones, that are no objects yet: name → for how many seconds it rests."""
        found: dict[str, float] = {}
        with self._temporary("rests") as own:
            newest = own.path.stat().st_mtime
            for entry in list(os.scandir(own.path.parent)):
                with suppress(FileNotFoundError):
                    if entry.path != str(own.path):
                        found[entry.name] = newest - entry.stat(follow_symlinks=False).st_mtime
        return found

    def drop_temporary_file(self, name: str) -> None:
        """For a file whose writer is known to be gone."""
        with suppress(FileNotFoundError):
            (self.directory / _TEMPORARY / name).unlink()

    def drop_empty_directories(self, prefix: str) -> None:
        """Removes what deleted objects leave below a prefix, and its own directory; another process's objects stay."""
        if self.local_path(prefix).is_symlink():  # it leads out of the store
            return
        for directory, _, _ in os.walk(self.local_path(prefix), topdown=False):
            with suppress(OSError):  # it is not empty, or gone
                os.rmdir(directory)  # noqa: PTH106 (a name)
        self._forget(self.local_path(prefix))

    def _create_volatile(self, key: str, body: bytes) -> bool:
        """Creates without fsync and with few system calls, since each reader of a handoff makes a lease."""
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
                    while view:  # a nearly full disk writes only a part, silently
                        view = view[file.write(view) :]
                return self._link(Path(temporary), key, durable=False)
            finally:
                os.unlink(temporary)  # noqa: PTH108

    def _no_file(self, key: str, error: OSError) -> HandoffCorrupt:
        """The error for a key that is neither missing nor readable: as missing it would end a chain in its middle."""
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
                    "asked for: it is torn. Make it again.",
                    key=key,
                )
            num_read += more
        return view.toreadonly()

    def _link(self, temporary: Path, key: str, *, durable: bool = True) -> bool:
        """True: the temporary file now has the name `key`."""
        target = self.local_path(key)
        with self._os_errors(key):
            won = self._linked(temporary, target, makes_directory=durable)
            if durable:
                self._make_durable(target.parent)
            return won

    def _linked(self, temporary: Path, target: Path, *, makes_directory: bool) -> bool:
        for tries_left in reversed(range(_LINK_TRIES)):
            try:
                if makes_directory:
                    target.parent.mkdir(parents=True, exist_ok=True)
                os.link(temporary, target)
            except FileExistsError:
                if target.parent.is_dir():
                    return temporary.stat().st_nlink > 1
                # From mkdir: another process is deleting a directory of the path; or one is a file, and stays one.
                if not tries_left:
                    raise
            except FileNotFoundError:
                # Not made yet, or another process deleted it after this one saw it.
                self._durable.clear()
                makes_directory = True
                if not tries_left:
                    raise
            else:
                return True
        raise AssertionError("the last try returns or raises")

    def _make_durable(self, directory: Path) -> None:
        """Puts a directory's entries on disk, and its own and its ancestors' up to the store's, others' too."""
        made: list[Path] = []
        # If another process deletes the directory meanwhile, the object goes with it, and nothing is to be kept.
        with suppress(FileNotFoundError):
            _fsync_directory(directory)
            for child in [directory, *directory.parents]:
                if child in self._durable:
                    break
                if child == self.directory:
                    self._make_durable_root()
                    made.append(child)
                    break
                _fsync_directory(child.parent)
                made.append(child)
            # All at once: a known directory stands for its ancestors, too.
            self._durable.update(made)

    def _forget(self, directory: Path) -> None:
        for known in list(self._durable):
            if known.is_relative_to(directory):
                self._durable.discard(known)

    def _make_durable_root(self) -> None:
        """Puts the store's own entry on disk, and those above it on this file system: any process may have made them.

        Runs once a process.
        """
        device = self.directory.stat().st_dev
        for directory in self.directory.parents:
            with suppress(PermissionError):  # directories above the store may belong to others
                _fsync_directory(directory)
            if directory.stat().st_dev != device:
                return

    def _sweep_once(self, own: Path) -> None:
        """Removes killed writers' leftovers at a process's first write.

        Compares ages with this process's own new file, so it depends on the file system's clock alone.
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
        """Turns the operating system's refusal into one sentence.

        Raises:
            StoreUnavailable
        """
        try:
            yield
        except OSError as error:
            raise os_refusal(error, f"Store {self.directory} cannot serve {key}: {os_reason(error)}.") from error


@lru_cache(maxsize=1024)
def _path_of(root: str, key: str) -> Path:
    """Kept, since a reader of a handoff asks twice for each part, and checking a key costs as much as a system call."""
    return Path(f"{root}/{check_key(key)}")


def _delete_what_is_there(name: str, beside: int | None = None) -> None:
    """Deletes a directory with what is listed in it, as in any store: another process's new objects stay, and it may
    delete at once too. `shutil.rmtree` fails beside either.

    Goes by descriptors, so that no link leads out of the store. Args: beside: descriptor of the directory above.
    """
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=beside)
    except FileNotFoundError:
        return
    try:
        with os.scandir(descriptor) as listed:
            entries = list(listed)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _delete_what_is_there(entry.name, descriptor)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(entry.name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    try:
        os.rmdir(name, dir_fd=beside)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
            raise


class LocalPart:
    """A part while it is written: a temporary file that becomes read-only for everybody when sealed."""

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
            # Writing to a memory-mapped file silently gives its readers wrong data: make that hard.
            os.fchmod(self._file.fileno(), os.fstat(self._file.fileno()).st_mode & 0o444)
            os.fsync(self._file.fileno())
            self._file.close()

    def discard(self) -> None:
        with suppress(OSError):  # a last flush of bytes that did not fit before
            self._file.close()
        with suppress(OSError):  # a later sweep removes it
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
