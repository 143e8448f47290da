"""Records what a traced process asks of the files below a directory, as `simulation.power_loss.crash_states` wants it.

Inodes are followed through links and renames: a file is what it is, whatever it is called. Calls that change files in a
way that is not recorded (a shared writable mapping, io_uring, symbolic links) are refused, never passed over.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulation.power_loss.crash_states import ROOT, Named, Said, Sized, Synced, Trace, Written
from simulation.system_calls.tracing import Traced, memory_at, run_traced, text_at

_AT_FDCWD = -100
_O_CREAT, _O_TRUNC, _O_APPEND = os.O_CREAT, os.O_TRUNC, os.O_APPEND
_PROT_WRITE, _MAP_PRIVATE = 0x2, 0x2


class NotRecorded(Exception):
    """The traced process changed files in a way that the record does not know."""


@dataclass
class Recorded:
    trace: Trace
    traced: Traced


def record(work: Callable[[Callable[[bytes], Any]], Any], directory: Path) -> Recorded:
    """Runs `work(say)` to its end and keeps everything that it did below `directory`.

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
class _Call:
    number: int
    arguments: list[int]
    paths: tuple[str, ...] = ()
    # Of the file that is written to: where the next byte goes.
    position: int = 0
    existed: bool = False


class _Recorder:
    """A watcher of `run_traced`."""

    def __init__(self, directory: Path, pipe_inode: int) -> None:
        self.trace = Trace()
        self.refused = ""
        self._directory = str(directory)
        self._pipe = pipe_inode
        # (device, inode) → our own number: the kernel's are given out again.
        self._numbers: dict[tuple[int, int], int] = {}
        self._num_inodes = ROOT + 1
        self._entries: dict[tuple[int, str], int] = {}
        self._calls: dict[int, _Call] = {}
        state = directory.stat()
        self._numbers[state.st_dev, state.st_ino] = ROOT
        self._take_stock(directory, ROOT)
        self.trace.entries = dict(self._entries)

    def entered(self, thread: int, number: int, arguments: list[int]) -> None:
        self._calls.pop(thread, None)
        if number in _RECORDED:
            call = self._calls[thread] = _Call(number, arguments)
            _RECORDED[number][0](self, thread, call)

    def left(self, thread: int, returned: int) -> None:
        call = self._calls.pop(thread, None)
        if call is not None and returned >= 0:
            _RECORDED[call.number][1](self, thread, call, returned)

    # What each kind of call needs to be asked before it happens.

    def _nothing(self, thread: int, call: _Call) -> None:
        pass

    def _note_path(self, thread: int, call: _Call) -> None:
        at = 1 if call.number in _AT_CALLS else 0
        call.paths = (self._path(thread, call, at),)
        call.existed = os.path.lexists(call.paths[0])

    def _note_two_paths(self, thread: int, call: _Call) -> None:
        places = (1, 3) if call.number in _AT_CALLS else (0, 1)
        call.paths = tuple(self._path(thread, call, at) for at in places)

    def _note_position(self, thread: int, call: _Call) -> None:
        descriptor = _signed(call.arguments[2 if call.number == 326 else 0])
        if self._inode_of(thread, descriptor) is None:
            return
        with open(f"/proc/{thread}/fdinfo/{descriptor}", encoding="ascii") as info:  # noqa: PTH123
            fields = dict(line.split(":", 1) for line in info if ":" in line)
        call.position = int(fields["pos"])
        if int(fields["flags"], 8) & _O_APPEND:
            call.position = os.stat(f"/proc/{thread}/fd/{descriptor}").st_size  # noqa: PTH116

    # What each call did.

    def _opened(self, thread: int, call: _Call, descriptor: int) -> None:
        flags = call.arguments[2 if call.number == 257 else 1]
        if call.number == 85:
            flags = _O_CREAT | _O_TRUNC
        path = call.paths[0]
        if not self._is_below(path):
            return
        if flags & _O_CREAT and not call.existed:
            self._named(path, self._made(os.stat(f"/proc/{thread}/fd/{descriptor}")))  # noqa: PTH116
        elif flags & _O_TRUNC and (inode := self._inode_of(thread, descriptor)) is not None:
            self.trace.operations.append(Sized(inode, 0))

    def _wrote(self, thread: int, call: _Call, num_bytes: int) -> None:
        number, arguments = call.number, call.arguments
        descriptor = _signed(arguments[2 if number == 326 else 0])
        if number == 1 and self._is_the_pipe(thread, descriptor):
            self.trace.operations.append(Said(memory_at(thread, arguments[1], num_bytes).decode()))
            return
        if (inode := self._inode_of(thread, descriptor)) is None or not num_bytes:
            return
        offset = arguments[3] if number in (18, 296) else call.position
        if number == 326 and arguments[3]:
            offset = int.from_bytes(memory_at(thread, arguments[3], 8), "little") - num_bytes
        body = memory_at(thread, arguments[1], num_bytes) if number in (1, 18) else None
        if body is None:
            with open(f"/proc/{thread}/fd/{descriptor}", "rb") as file:  # noqa: PTH123
                body = os.pread(file.fileno(), num_bytes, offset)
        self.trace.operations.append(Written(inode, offset, body))

    def _sized(self, thread: int, call: _Call, _: int) -> None:
        if call.number == 76:
            inode = self._entry(call.paths[0]) if self._is_below(call.paths[0]) else None
            num_bytes = call.arguments[1]
        else:
            inode = self._inode_of(thread, _signed(call.arguments[0]))
            num_bytes = call.arguments[1]
            if call.number == 285:  # fallocate: may only make it larger
                if inode is not None and call.arguments[1]:
                    self.refused = f"fallocate with mode {call.arguments[1]}"
                state = os.stat(f"/proc/{thread}/fd/{_signed(call.arguments[0])}")  # noqa: PTH116
                num_bytes = state.st_size
        if inode is not None:
            self.trace.operations.append(Sized(inode, num_bytes))

    def _synced(self, thread: int, call: _Call, _: int) -> None:
        if (inode := self._inode_of(thread, _signed(call.arguments[0]))) is not None:
            self.trace.operations.append(Synced(inode))

    def _made_directory(self, thread: int, call: _Call, _: int) -> None:
        if self._is_below(path := call.paths[0]):
            inode = self._made(os.lstat(path))
            self.trace.directories.add(inode)
            self._named(path, inode)

    def _linked(self, thread: int, call: _Call, _: int) -> None:
        old, new = call.paths
        if self._is_below(new):
            inode = self._entry(old) if self._is_below(old) else None
            if inode is None:
                self.refused = f"link of {old} from outside"
            else:
                self._named(new, inode)

    def _renamed(self, thread: int, call: _Call, _: int) -> None:
        old, new = call.paths
        if call.number == 316 and call.arguments[4] & ~1:
            self.refused = f"renameat2 with flags {call.arguments[4]}"
        if self._is_below(old) != self._is_below(new):
            self.refused = f"rename of {old} to {new}, of which one is outside"
        elif self._is_below(new) and old != new:
            place = self._place(old)
            self._named(new, self._entries.pop(place), moved_from=place)

    def _unlinked(self, thread: int, call: _Call, _: int) -> None:
        if self._is_below(path := call.paths[0]):
            place = self._place(path)
            del self._entries[place]
            self.trace.operations.append(Named(*place, None))

    def _mapped(self, thread: int, call: _Call, _: int) -> None:
        _, _, protection, flags, descriptor, _ = call.arguments
        if (
            protection & _PROT_WRITE
            and flags & 0xF != _MAP_PRIVATE
            and self._inode_of(thread, _signed(descriptor)) is not None
        ):
            self.refused = "a file was mapped to be written to"

    def _refuse(self, thread: int, call: _Call, _: int) -> None:
        if call.number == 425 or any(map(self._is_below, call.paths)):
            self.refused = f"system call {call.number} is not recorded"

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

    def _path(self, thread: int, call: _Call, at: int) -> str:
        """The path at argument `at`; calls whose names end in "at" have its directory's descriptor before it."""
        path = os.fsdecode(text_at(thread, call.arguments[at]))
        if not path.startswith("/"):
            base = _signed(call.arguments[at - 1]) if call.number in _AT_CALLS else _AT_FDCWD
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
_AT_CALLS = {257, 258, 263, 264, 265, 266, 316, 437}
# x86-64 number: what is asked before the call, and what it did.
_RECORDED: dict[int, tuple[Callable[..., None], Callable[..., None]]] = {
    1: (_R._note_position, _R._wrote),  # write
    2: (_R._note_path, _R._opened),  # open
    9: (_R._nothing, _R._mapped),  # mmap
    18: (_R._nothing, _R._wrote),  # pwrite64
    20: (_R._note_position, _R._wrote),  # writev
    40: (_R._note_position, _R._wrote),  # sendfile
    74: (_R._nothing, _R._synced),  # fsync
    75: (_R._nothing, _R._synced),  # fdatasync
    76: (_R._note_path, _R._sized),  # truncate
    77: (_R._nothing, _R._sized),  # ftruncate
    82: (_R._note_two_paths, _R._renamed),  # rename
    83: (_R._note_path, _R._made_directory),  # mkdir
    84: (_R._note_path, _R._unlinked),  # rmdir
    85: (_R._note_path, _R._opened),  # creat
    86: (_R._note_two_paths, _R._linked),  # link
    87: (_R._note_path, _R._unlinked),  # unlink
    88: (_R._note_two_paths, _R._refuse),  # symlink
    257: (_R._note_path, _R._opened),  # openat
    258: (_R._note_path, _R._made_directory),  # mkdirat
    263: (_R._note_path, _R._unlinked),  # unlinkat
    264: (_R._note_two_paths, _R._renamed),  # renameat
    265: (_R._note_two_paths, _R._linked),  # linkat
    285: (_R._nothing, _R._sized),  # fallocate
    296: (_R._nothing, _R._wrote),  # pwritev
    316: (_R._note_two_paths, _R._renamed),  # renameat2
    326: (_R._note_position, _R._wrote),  # copy_file_range
    425: (_R._nothing, _R._refuse),  # io_uring_setup
    437: (_R._note_path, _R._refuse),  # openat2
}
