"""Ties a rank's life to its run worker's, so that no rank outlives the run that pays for it.

torchrun starts each rank in a session of its own: killing the worker's process group misses them, and a rank that
lives on holds memory, a GPU and a port. Two ties, since each has a hole. The parent-death signal covers the agent
(torchrun) and is lost if the agent dies first; the watch on the worker's pid covers the worker and needs a thread.
A pid alone may have been given away again, so the worker is known by pid and start time.
"""

import ctypes
import os
import select
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class Worker:
    """The run worker's process: `started` in clock ticks since boot, which no clock adjustment moves."""

    pid: int
    started: int

    @classmethod
    def this_process(cls) -> "Worker":
        pid = os.getpid()
        return cls(pid=pid, started=start_tick(pid) or 0)

    def is_alive(self) -> bool:
        return start_tick(self.pid) == self.started


def start_tick(pid: int) -> int | None:
    """When process `pid` was started; None if it is gone or a zombie."""
    try:
        # Fields 3 (state) and 22 (start) stand behind the name, which may hold blanks and parentheses.
        fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def die_with(worker: Worker) -> None:
    """From now on this process is killed when its parent or `worker` dies. Call before any slow import."""
    die_with_parent(os.getppid())
    try:
        descriptor = os.pidfd_open(worker.pid)
    except ProcessLookupError:
        _die()
    # It may have died before the tie was made.
    if not worker.is_alive():
        _die()
    threading.Thread(target=_watch, args=(descriptor,), name="worker-watch", daemon=True).start()


def die_with_parent(parent: int) -> None:
    """From now on this process is killed when its parent, process `parent`, dies."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        _die()


def _watch(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll()
    _die()


def _die() -> NoReturn:
    # SIGKILL, not exit: a rank inside a collective runs no Python and would never see an exception.
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")
