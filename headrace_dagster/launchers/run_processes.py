"""Finds the runs that have processes on this machine, whatever their status, by one look at /proc for all runs.

A process belongs to the run whose marker its environment carries. One without a marker belongs to the run of its
session's leader or of its parent, even after those have ended. A marker that names no run says that its process, such
as an engine host that a run has started, is nobody's. A process that wiped its environment, left the session and lost
its parent before anybody looked is not found.

Results are remembered by pid and start time, so a look reads one `stat` for each process. A process without a marker
may still get one for a moment after its start: between fork and exec it has its parent's environment.
"""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import psutil

from headrace_dagster.launchers.worker_process import RUN_MARKER

_PROC = Path("/proc")
_HAS_PROC = (_PROC / "self/stat").exists()
_PREFIX = f"{RUN_MARKER}=".encode()
# Fork to exec takes milliseconds; on a swapping machine, seconds.
_SETTLED_SECONDS = 10.0
_NO_RUN = ""


@dataclass(frozen=True, kw_only=True)
class LiveProcess:
    """`started`: clock ticks since boot; with the pid, an identity until the next boot."""

    pid: int
    started: int
    parent: int
    session: int

    @property
    def key(self) -> tuple[int, int]:
        return (self.pid, self.started)


class RunProcesses:
    """Remembers what it saw, so keep one as long as the process lives. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._markers: dict[tuple[int, int], str | None] = {}
        # Those whose marker will not change any more.
        self._settled: set[tuple[int, int]] = set()
        self._adopted: dict[tuple[int, int], str] = {}
        self._sessions: dict[int, str] = {}

    def by_run(self) -> dict[str, frozenset[tuple[int, int]]]:
        """(pid, start) of every live process of each run, without the caller's own and zombies."""
        if not _HAS_PROC:
            return _by_run_from_psutil()
        with self._lock:
            processes = {process.pid: process for process in _live_processes()}
            self._forget({process.key for process in processes.values()}, {p.session for p in processes.values()})
            for process in processes.values():
                run_id = self._marker(process)
                if run_id and process.session == process.pid:
                    self._sessions[process.pid] = run_id
            found: dict[str, set[tuple[int, int]]] = {}
            for process in processes.values():
                run_id = self._run_of(process, processes)
                if run_id and process.pid != os.getpid():
                    found.setdefault(run_id, set()).add(process.key)
        return {run_id: frozenset(keys) for run_id, keys in found.items()}

    def _run_of(self, process: LiveProcess, processes: Mapping[int, LiveProcess]) -> str | None:
        marker = self._markers.get(process.key)
        run_id = marker or self._adopted.get(process.key)
        if run_id or marker == _NO_RUN:
            return run_id or None
        run_id = self._sessions.get(process.session)
        parent = processes.get(process.parent)
        if run_id is None and parent is not None:
            run_id = self._run_of(parent, processes)
        if run_id:
            self._adopted[process.key] = run_id
        return run_id

    def _marker(self, process: LiveProcess) -> str | None:
        """The run's id; `_NO_RUN`: it says that it is none's; None: it has none, and follows its session or parent."""
        if process.key in self._settled:
            return self._markers[process.key]
        marker = self._markers[process.key] = _read_marker(process.pid)
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - process.started / os.sysconf("SC_CLK_TCK")
        if marker or age > _SETTLED_SECONDS:
            self._settled.add(process.key)
        return marker

    def _forget(self, keys: set[tuple[int, int]], sessions: set[int]) -> None:
        self._markers = {key: marker for key, marker in self._markers.items() if key in keys}
        self._settled &= keys
        self._adopted = {key: run_id for key, run_id in self._adopted.items() if key in keys}
        # A session's id is not reused while the session has a process.
        self._sessions = {session: run_id for session, run_id in self._sessions.items() if session in sessions}


def is_run_id(marker: str) -> bool:
    """Whether a marker names a run: a worker template's marker is dashes, as room for a later run id."""
    return bool(marker) and not marker.startswith("-")


def _live_processes() -> list[LiveProcess]:
    found = []
    for name in os.listdir(_PROC):  # noqa: PTH208 (a Path for each process of the machine costs as much as its `stat`)
        if not name.isdigit():
            continue
        try:
            stat = _read(f"/proc/{name}/stat")
        except OSError:
            continue  # gone meanwhile
        fields = stat[stat.rindex(b")") + 2 :].split()
        if fields[0] not in (b"Z", b"X"):
            found.append(
                LiveProcess(pid=int(name), started=int(fields[19]), parent=int(fields[1]), session=int(fields[3]))
            )
    return found


def _read_marker(pid: int) -> str | None:
    with suppress(OSError):  # gone meanwhile, or another user's: not started by us
        for entry in _read(f"/proc/{pid}/environ").split(b"\0"):
            if entry.startswith(_PREFIX):
                marker = entry[len(_PREFIX) :].decode(errors="replace")
                return marker if is_run_id(marker) else _NO_RUN
    return None


def _read(path: str) -> bytes:
    # Half the cost of `open`; this is read for every process on the machine.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        content = b""
        while chunk := os.read(descriptor, 1 << 16):
            content += chunk
        return content
    finally:
        os.close(descriptor)


def _by_run_from_psutil() -> dict[str, frozenset[tuple[int, int]]]:
    found: dict[str, set[tuple[int, int]]] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            marker = process.environ().get(RUN_MARKER, "")
            if is_run_id(marker) and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.setdefault(marker, set()).add((process.pid, int(process.create_time())))
    return {run_id: frozenset(keys) for run_id, keys in found.items()}
