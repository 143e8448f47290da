"""Processes that a variable of their environment marks: found, and ended, wherever they have gone.

What a process starts has its variables, in whatever session, and after its parent has ended. One that wiped its
environment is not found.
"""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

_KILL_SECONDS_MAX = 10.0


def marked(name: str, is_meant: Callable[[str], bool]) -> Iterator[psutil.Process]:
    """Those whose variable of this name is meant, but for this one; milliseconds for each hundred processes."""
    prefix = f"{name}=".encode()
    for process in psutil.process_iter():
        with suppress(OSError):
            environment = (Path("/proc") / str(process.pid) / "environ").read_bytes()
            values = [one[len(prefix) :] for one in environment.split(b"\0") if one.startswith(prefix)]
            if process.pid != os.getpid() and any(is_meant(os.fsdecode(value)) for value in values):
                yield process


def kill_marked(name: str, is_meant: Callable[[str], bool]) -> list[int]:
    """Kills them, and waits until they are gone; their pids.

    Looks until it finds none, because a second look finds processes that were starting during the first.
    """
    killed: list[int] = []
    while found := kill_all(marked(name, is_meant)):
        killed += found
    return killed


def kill_all(processes: Iterable[psutil.Process]) -> list[int]:
    """Kills those that live, and waits a while until they are gone; their pids."""
    alive: list[psutil.Process] = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                process.send_signal(signal.SIGKILL)
                alive.append(process)
    psutil.wait_procs(alive, timeout=_KILL_SECONDS_MAX)
    return [process.pid for process in alive]
