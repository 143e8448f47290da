"""Records a traced process's file operations below a directory, for `simulation.power_loss.crash_states`.

Inodes are followed through links and renames, since a file stays the same under any name. Calls that change files in a
way that is not recorded (a shared writable mapping, io_uring, symbolic links) are refused, never ignored.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulation.power_loss.crash_states import ROOT, Named, Said, Sized, Synced, Trace, Written
from simulation.system_calls.tracing import Call, Traced, memory_at, run_traced, text_at

_AT_FDCWD = -100
_O_CREAT, _O_TRUNC, _O_APPEND = os.O_CREAT, os.O_TRUNC, os.O_APPEND
_PROT_WRITE, _MAP_PRIVATE = 0x2, 0x2


class NotRecorded(Exception):
    """The traced process changed files in an unknown way."""


@dataclass
class Recorded:
    trace: Trace
    traced: Traced


def record(work: Callable[[Callable[[bytes], Any]], Any], directory: Path) -> Recorded:
    """Runs `work(say)` to its end and records everything that it did below `directory`.

    Raises:
        TracingRefused
        NotRecorded
    """
    directory = directory.resolve()
    recorders: list[_Recorder] = []

    def watcher(pipe_inode: int) -> _Recorder:
        recorders.append(_Recorder(directory, pipe_inode))
        return recorders[0]

    traced = run_traced(work, directory, watched_by=watcher)
    if recorders[0].refused:
        raise NotRecorded(f"Below {directory}: {recorders[0].refused}.")
    return Recorded(recorders[0].trace, traced)


@dataclass
class _Asked:
    call: Call
    arguments: list[int]
    paths: tuple[str, ...] = ()
    # The write position of an open file.
    position: int = 0
    existed: bool = False


class _Recorder:
    """A watcher of `run_traced`."""

    def __init__(self, directory: Path, pipe_inode: int) -> None:
        self.trace = Trace()
        self.refused = ""
        self._directory = str(directory)
        self._pipe = pipe_inode
        # (device, inode) → our own number, since the kernel reuses its inodes.
        self._numbers: dict[tuple[int, int], int] = {}
        self._num_inodes = ROOT + 1
        self._entries: dict[tuple[int, str], int] = {}
        self._asked: dict[int, _Asked] = {}
        state = directory.stat()
        self._numbers[state.st_dev, state.st_ino] = ROOT
        self._take_stock(directory, ROOT)
        self.trace.entries = dict(self._entries)

    def entered(self, thread: int, call: Call | None, arguments: list[int]) -> None:
        self._asked.pop(thread, None)
        if call and call.name in _RECORDED:
            asked = self._asked[thread] = _Asked(call, arguments)
            asked.paths = tuple(self._path(thread, asked, at) for at in call.paths)
            asked.existed = bool(asked.paths) and os.path.lexists(asked.paths[0])
            if call.name in _FROM_A_POSITION:
                self._note_position(thread, asked)

    def left(self, thread: int, returned: int) -> None:
        asked = self._asked.pop(thread, None)
        if asked is not None and returned >= 0:
            _RECORDED[asked.call.name](self, thread, asked, returned)

    def _note_position(self, thread: int, asked: _Asked) -> None:
        descriptor = _signed(asked.arguments[asked.call.descriptors[-1]])
        if self._inode_of(thread, descriptor) is None:
            return
        with open(f"/proc/{thread}/fdinfo/{descriptor}", encoding="ascii") as info:  # noqa: PTH123
            fields = dict(line.split(":", 1) for line in info if ":" in line)
        asked.position = int(fields["pos"])
        if int(fields["flags"], 8) & _O_APPEND:
            asked.position = os.stat(f"/proc/{thread}/fd/{descriptor}").st_size  # noqa: PTH116

    # The effect of each call.

    def _opened(self, thread: int, asked: _Asked, descriptor: int) -> None:
        flags = _O_CREAT | _O_TRUNC if asked.call.name == "creat" else asked.arguments[asked.call.paths[0] + 1]
        path = asked.paths[0]
        if not self._is_below(path):
            return
        if flags & _O_CREAT and not asked.existed:
            self._named(path, self._made(os.stat(f"/proc/{thread}/fd/{descriptor}")))  # noqa: PTH116
        elif flags & _O_TRUNC and (inode := self._inode_of(thread, descriptor)) is not None:
            self.trace.operations.append(Sized(inode, 0))

    def _wrote(self, thread: int, asked: _Asked, num_bytes: int) -> None:
        name, arguments = asked.call.name, asked.arguments
        descriptor = _signed(arguments[asked.call.descriptors[-1]])
        if name == "write" and self._is_the_pipe(thread, descriptor):
            self.trace.operations.append(Said(memory_at(thread, arguments[1], num_bytes).decode()))
            return
        if (inode := self._inode_of(thread, descriptor)) is None or not num_bytes:
            return
        offset = arguments[3] if name in ("pwrite64", "pwritev") else asked.position
        if name == "copy_file_range" and arguments[3]:
            offset = int.from_bytes(memory_at(thread, arguments[3], 8), "little") - num_bytes
        body = memory_at(thread, arguments[1], num_bytes) if name in ("write", "pwrite64") else None
        if body is None:
            with open(f"/proc/{thread}/fd/{descriptor}", "rb") as file:  # noqa: PTH123
                body = os.pread(file.fileno(), num_bytes, offset)
        self.trace.operations.append(Written(inode, offset, body))

    def _sized(self, thread: int, asked: _Asked, _: int) -> None:
        num_bytes = asked.arguments[1]
        if asked.call.name == "truncate":
            inode = self._entry(asked.paths[0]) if self._is_below(asked.paths[0]) else None
        else:
            descriptor = _signed(asked.arguments[0])
            inode = self._inode_of(thread, descriptor)
            if asked.call.name == "fallocate":  # can only make it larger
                if inode is not None and asked.arguments[1]:
                    self.refused = f"fallocate with mode {asked.arguments[1]}"
                num_bytes = os.stat(f"/proc/{thread}/fd/{descriptor}").st_size  # noqa: PTH116
        if inode is not None:
            self.trace.operations.append(Sized(inode, num_bytes))

    def _synced(self, thread: int, asked: _Asked, _: int) -> None:
        if (inode := self._inode_of(thread, _signed(asked.arguments[0]))) is not None:
            self.trace.operations.append(Synced(inode))

    def _made_directory(self, thread: int, asked: _Asked, _: int) -> None:
        if self._is_below(path := asked.paths[0]):
            inode = self._made(os.lstat(path))
            self.trace.directories.add(inode)
            self._named(path, inode)

    def _linked(self, thread: int, asked: _Asked, _: int) -> None:
        old, new = asked.paths
        if self._is_below(new):
            inode = self._entry(old) if self._is_below(old) else None
            if inode is None:
                self.refused = f"link of {old} from outside"
            else:
                self._named(new, inode)

    def _renamed(self, thread: int, asked: _Asked, _: int) -> None:
        old, new = asked.paths
        if asked.call.name == "renameat2" and asked.arguments[4] & ~1:
            self.refused = f"renameat2 with flags {asked.arguments[4]}"
        if self._is_below(old) != self._is_below(new):
            self.refused = f"rename of {old} to {new}, of which one is outside"
        elif self._is_below(new) and old != new:
            place = self._place(old)
            self._named(new, self._entries.pop(place), moved_from=place)

    def _unlinked(self, thread: int, asked: _Asked, _: int) -> None:
        if self._is_below(path := asked.paths[0]):
            place = self._place(path)
            del self._entries[place]
            self.trace.operations.append(Named(*place, None))

    def _mapped(self, thread: int, asked: _Asked, _: int) -> None:
        _, _, protection, flags, descriptor, _ = asked.arguments
        if (
            protection & _PROT_WRITE
            and flags & 0xF != _MAP_PRIVATE
            and self._inode_of(thread, _signed(descriptor)) is not None
        ):
            self.refused = "a file was mapped to be written to"

    def _refuse(self, thread: int, asked: _Asked, _: int) -> None:
        if not asked.paths or any(map(self._is_below, asked.paths)):
            self.refused = f"system call {asked.call.name} is not recorded"

    # Names and inodes.

    def _named(self, path: str, inode: int, moved_from: tuple[int, str] | None = None) -> None:
        place = self._place(path)
        self._entries[place] = inode
        self.trace.operations.append(Named(*place, inode, moved_from))

    def _made(self, state: os.stat_result) -> int:
        self._numbers[state.st_dev, state.st_ino] = self._num_inodes
        self._num_inodes += 1
        return self._num_inodes - 1

    def _place(self, path: str) -> tuple[int, str]:
        parent, name = os.path.split(path)
        return self._entry(parent), name

    def _entry(self, path: str) -> int:
        inode = ROOT
        for name in Path(path).relative_to(self._directory).parts:
            inode = self._entries[inode, name]
        return inode

    def _is_below(self, path: str) -> bool:
        return path.startswith(self._directory + "/")

    def _inode_of(self, thread: int, descriptor: int) -> int | None:
        try:
            state = os.stat(f"/proc/{thread}/fd/{descriptor}")  # noqa: PTH116
        except OSError:
            return None
        return self._numbers.get((state.st_dev, state.st_ino))

    def _is_the_pipe(self, thread: int, descriptor: int) -> bool:
        state = os.stat(f"/proc/{thread}/fd/{descriptor}")  # noqa: PTH116
        return stat.S_ISFIFO(state.st_mode) and state.st_ino == self._pipe

    def _path(self, thread: int, asked: _Asked, at: int) -> str:
        """The path at argument `at`, as the process sees it."""
        path = os.fsdecode(text_at(thread, asked.arguments[at]))
        if not path.startswith("/"):
            base = _signed(asked.arguments[at - 1]) if at - 1 in asked.call.descriptors else _AT_FDCWD
            link = f"/proc/{thread}/cwd" if base == _AT_FDCWD else f"/proc/{thread}/fd/{base}"
            path = os.path.join(os.readlink(link), path)  # noqa: PTH115, PTH118
        return os.path.normpath(path)

    def _take_stock(self, directory: Path, number: int) -> None:
        for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
            state = entry.stat(follow_symlinks=False)
            known = self._numbers.get((state.st_dev, state.st_ino))
            inode = self._entries[number, entry.name] = self._made(state) if known is None else known
            if entry.is_dir(follow_symlinks=False):
                self.trace.directories.add(inode)
                self._take_stock(Path(entry.path), inode)
            elif known is None:
                self.trace.contents[inode] = Path(entry.path).read_bytes()


def _signed(number: int) -> int:
    return (number & 0xFFFFFFFF) - (1 << 32 if number & 0x80000000 else 0)


_R = _Recorder
# Calls whose effect depends on the file's write position.
_FROM_A_POSITION = {"write", "writev", "sendfile", "copy_file_range"}
# The effect of each call.
_RECORDED: dict[str, Callable[..., None]] = {
    **dict.fromkeys(("write", "pwrite64", "writev", "pwritev", "sendfile", "copy_file_range"), _R._wrote),
    **dict.fromkeys(("open", "openat", "creat"), _R._opened),
    **dict.fromkeys(("fsync", "fdatasync"), _R._synced),
    **dict.fromkeys(("truncate", "ftruncate", "fallocate"), _R._sized),
    **dict.fromkeys(("rename", "renameat", "renameat2"), _R._renamed),
    **dict.fromkeys(("mkdir", "mkdirat"), _R._made_directory),
    **dict.fromkeys(("rmdir", "unlink", "unlinkat"), _R._unlinked),
    **dict.fromkeys(("link", "linkat"), _R._linked),
    **dict.fromkeys(("symlink", "symlinkat", "openat2", "io_uring_setup"), _R._refuse),
    "mmap": _R._mapped,
}
