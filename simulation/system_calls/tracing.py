"""Kills a process with SIGKILL at the n-th system call that touches a directory, before or after the kernel runs it.

Uses ptrace(2) directly. The traced process is a fork of this one, so a kill costs no imports; its threads are followed.
A call counts if one of its paths, or the file behind one of its descriptors, is below the directory. Points are
numbered 0, 1, 2 …: even ones are a call's entry (a kill there prevents the call), odd ones its exit (the call has
happened, and the process never learns of it).

A `Watcher` gets more of each call than its name.

Linux on x86-64 only. If ptrace is not permitted (a container without SYS_PTRACE, yama at 3), it raises TracingRefused.
"""

import ctypes
import os
import platform
import signal
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

_TRACEME, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
# TRACESYSGOOD, follow fork, vfork and clone; the traced processes die with the tracer.
_OPTIONS = 0x1 | 0x2 | 0x4 | 0x8 | 0x100000
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_ENTRY, _EXIT = 1, 2
_WALL = 0x40000000


@dataclass(frozen=True)
class Call:
    """`paths`, `descriptors`: positions among its arguments; a path relative to a descriptor follows it directly."""

    name: str
    paths: tuple[int, ...] = ()
    descriptors: tuple[int, ...] = ()


# By x86-64 number.
CALLS: dict[int, Call] = {
    1: Call("write", descriptors=(0,)),
    2: Call("open", paths=(0,)),
    3: Call("close", descriptors=(0,)),
    9: Call("mmap"),
    18: Call("pwrite64", descriptors=(0,)),
    20: Call("writev", descriptors=(0,)),
    40: Call("sendfile", descriptors=(0,)),
    74: Call("fsync", descriptors=(0,)),
    75: Call("fdatasync", descriptors=(0,)),
    76: Call("truncate", paths=(0,)),
    77: Call("ftruncate", descriptors=(0,)),
    82: Call("rename", paths=(0, 1)),
    83: Call("mkdir", paths=(0,)),
    84: Call("rmdir", paths=(0,)),
    85: Call("creat", paths=(0,)),
    86: Call("link", paths=(0, 1)),
    87: Call("unlink", paths=(0,)),
    88: Call("symlink", paths=(0, 1)),
    90: Call("chmod", paths=(0,)),
    91: Call("fchmod", descriptors=(0,)),
    217: Call("getdents64", descriptors=(0,)),
    257: Call("openat", paths=(1,), descriptors=(0,)),
    258: Call("mkdirat", paths=(1,), descriptors=(0,)),
    263: Call("unlinkat", paths=(1,), descriptors=(0,)),
    264: Call("renameat", paths=(1, 3), descriptors=(0, 2)),
    265: Call("linkat", paths=(1, 3), descriptors=(0, 2)),
    266: Call("symlinkat", paths=(0, 2), descriptors=(1,)),
    268: Call("fchmodat", paths=(1,), descriptors=(0,)),
    285: Call("fallocate", descriptors=(0,)),
    296: Call("pwritev", descriptors=(0,)),
    316: Call("renameat2", paths=(1, 3), descriptors=(0, 2)),
    326: Call("copy_file_range", descriptors=(0, 2)),
    425: Call("io_uring_setup"),
    437: Call("openat2", paths=(1,), descriptors=(0,)),
}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


class TracingRefused(Exception):
    """This machine does not allow a process to trace another."""


@dataclass
class Traced:
    """How a traced process ended. `calls`: what it did to the directory, in order, two points each."""

    is_killed: bool = False
    exit_status: int = 0
    said: bytes = b""
    calls: list[str] = field(default_factory=list)


class Watcher(Protocol):
    """Gets every system call of the traced process, from all its threads."""

    def entered(self, thread: int, call: Call | None, arguments: list[int]) -> None:
        """`call` None: the call is not in the table."""
        ...

    def left(self, thread: int, returned: int) -> None:
        """`returned`: below zero it is an error's number."""
        ...


def run_traced(
    work: Callable[[Callable[[bytes], Any]], Any],
    directory: Path,
    kill_at: int | None = None,
    *,
    watched_by: Callable[[int], Watcher] | None = None,
) -> Traced:
    """Runs `work(say)` in a traced fork and kills it at point `kill_at`; None: lets it end.

    Keeps the statements of `work` even if it is killed: it had acknowledged them.

    Args:
        watched_by: makes the watcher, from the inode of the pipe for `work`'s statements.

    Raises:
        TracingRefused
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise TracingRefused(
            f"System calls are traced on Linux x86-64 only, this is {sys.platform} on {platform.machine()}."
        )
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _be_traced(work, writing)
    os.close(writing)
    try:
        watcher = watched_by(os.fstat(reading).st_ino) if watched_by else None
        traced = _trace(pid, os.fsencode(directory), kill_at, watcher)
        with os.fdopen(reading, "rb", closefd=False) as pipe:
            traced.said = pipe.read()
        return traced
    finally:
        os.close(reading)


def _be_traced(work: Callable[[Callable[[bytes], Any]], Any], writing: int) -> NoReturn:
    status = 1
    try:
        if _libc.ptrace(_TRACEME, 0, None, None) != 0:
            os._exit(77)
        os.kill(os.getpid(), signal.SIGSTOP)
        work(lambda text: os.write(writing, text))
        status = 0
    except BaseException as error:  # noqa: BLE001 (reported by the exit status)
        with suppress(BaseException):
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            sys.stderr.flush()
    finally:
        os._exit(status)


def _trace(pid: int, directory: bytes, kill_at: int | None, watcher: Watcher | None) -> Traced:
    traced = Traced()
    _, status = os.waitpid(pid, 0)
    if not os.WIFSTOPPED(status):
        raise TracingRefused("ptrace is not permitted here. Run outside the container, or with --cap-add=SYS_PTRACE.")
    if _libc.ptrace(_SETOPTIONS, pid, None, _OPTIONS) != 0:
        raise TracingRefused(f"ptrace refused its options: {os.strerror(ctypes.get_errno())}.")
    is_inside: dict[int, str | None] = {}
    _go_on(pid, 0)
    while True:
        stopped, status = os.waitpid(-1, _WALL)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if stopped == pid:
                traced.exit_status = os.waitstatus_to_exitcode(status)
                return traced
            continue
        stop = os.WSTOPSIG(status)
        if stop == _SYSCALL_STOP:
            name = _touches(stopped, directory, is_inside, watcher)
            if name:
                if len(traced.calls) == kill_at:
                    traced.is_killed = True
                    os.kill(pid, signal.SIGKILL)
                    _reap(pid, traced)
                    return traced
                traced.calls.append(name)
            _go_on(stopped, 0)
        else:
            # New threads begin with a SIGSTOP, and a SIGTRAP announces clones: neither is for the process itself.
            _go_on(stopped, 0 if stop in (signal.SIGSTOP, signal.SIGTRAP) else stop)


def _reap(pid: int, traced: Traced) -> None:
    while True:
        ended, status = os.waitpid(-1, _WALL)
        if ended == pid and not os.WIFSTOPPED(status):
            traced.exit_status = os.waitstatus_to_exitcode(status)
            return


def _go_on(pid: int, signal_number: int) -> None:
    _libc.ptrace(_SYSCALL, pid, None, signal_number)


def _touches(thread: int, directory: bytes, is_inside: dict[int, str | None], watcher: Watcher | None) -> str | None:
    """The call's name, at its entry and exit, if it concerns something below `directory`."""
    info = ctypes.create_string_buffer(88)
    if _libc.ptrace(_GET_SYSCALL_INFO, thread, ctypes.c_void_p(len(info)), info) <= 0:
        return None
    if info.raw[0] == _EXIT:
        if watcher:
            watcher.left(thread, *struct.unpack_from("<q", info.raw, 24))
        return is_inside.pop(thread, None)
    if info.raw[0] != _ENTRY:
        return None
    number, *arguments = struct.unpack_from("<Q6Q", info.raw, 24)
    call = CALLS.get(number)
    if watcher:
        watcher.entered(thread, call, arguments)
    is_inside[thread] = None
    if call and (
        any(_file_behind(thread, arguments[position]).startswith(directory) for position in call.descriptors)
        or any(text_at(thread, arguments[position]).startswith(directory) for position in call.paths)
    ):
        is_inside[thread] = call.name
    return is_inside[thread]


def _file_behind(thread: int, descriptor: int) -> bytes:
    number = ctypes.c_int(descriptor & 0xFFFFFFFF).value
    if number < 0:
        return b""
    try:
        return os.fsencode(Path(f"/proc/{thread}/fd/{number}").readlink())
    except OSError:
        return b""


def text_at(thread: int, address: int) -> bytes:
    """The text that begins at an address of the traced process."""
    text = b""
    # Page by page, since the page after the text's end may not be mapped.
    while page := memory_at(thread, address + len(text), 4096 - (address + len(text)) % 4096):
        text += page
        if b"\0" in page:
            return text[: text.index(b"\0")]
    return text


def memory_at(thread: int, address: int, num_bytes: int) -> bytes:
    """Bytes of the traced process; empty: it is gone, or they are not mapped."""
    try:
        memory = os.open(f"/proc/{thread}/mem", os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.pread(memory, num_bytes, address)
    except OSError:
        return b""
    finally:
        os.close(memory)
