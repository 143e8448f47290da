"""Ties a rank's life to its run worker's, so that no rank outlives its run.

torchrun starts each rank in its own session, so killing the worker's process group misses it; a surviving rank would
hold memory, a GPU and a port. There are two ties, since each has a gap. The parent-death signal covers the agent
(torchrun), and is lost if the agent dies first. The watch on the worker's pid covers the worker, and needs a thread. A
pid may be reused, so the worker is identified by pid and start time.
"""

import os
import select
import threading
from dataclasses import dataclass
from pathlib import Path

from headrace.parent_death import die, die_with_parent


@dataclass(frozen=True, kw_only=True)
class Worker:
    """The run worker's process: `started` in clock ticks since boot, which clock adjustments do not change."""

    pid: int
    started: int

    @classmethod
    def this_process(cls) -> "Worker":
        pid = os.getpid()
        return cls(pid=pid, started=start_tick(pid) or 0)

    def is_alive(self) -> bool:
        return start_tick(self.pid) == self.started


def start_tick(pid: int) -> int | None:
    """The start time of process `pid`; None if it is gone or a zombie."""
    try:
        # Fields 3 (state) and 22 (start) follow the name, which may hold blanks, parentheses and half a character.
        fields = (Path("/proc") / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def die_with(worker: Worker) -> None:
    """Makes the kernel kill this process when its parent or `worker` dies. Call before any slow import."""
    die_with_parent(os.getppid())
    try:
        descriptor = os.pidfd_open(worker.pid)
    except ProcessLookupError:
        die()
    # It may have died before the tie existed.
    if not worker.is_alive():
        die()
    threading.Thread(target=_watch, args=(descriptor,), name="worker-watch", daemon=True).start()


def _watch(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll()
    die()
