"""A run's worker as an operating system process: started in two steps, identified by pid and start time, ended whole.

Knows processes of this machine, and nothing of Dagster. A pid alone identifies nothing: the kernel reuses it, and a
reboot reuses all of them. So `WorkerProcess.started` holds the boot and the start tick, which no clock adjustment
changes.

A run's processes are found in three ways, since each misses some: the environment marker `HEADRACE_RUN_ID` (inherited
by every rank, whatever session torchrun puts it in), the worker's process session, and its children. A process that
wiped its environment, left the session and outlived its parent is not found.
"""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import psutil

from headrace.store.small_objects import Record

RUN_MARKER = "HEADRACE_RUN_ID"
"""Set in every process of a run: the run's id, by which its processes are found."""
_PROC = Path("/proc")
# Survivors of SIGKILL wait for a device or a dead mount; after this time the caller is told.
_KILL_WAIT_SECONDS = 5.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class WorkerProcess:
    """Identity of one worker. `host` is for people: a laptop's name changes with its network."""

    run_id: str
    host: str
    pid: int
    started: str

    @classmethod
    def of(cls, run_id: str, pid: int) -> "WorkerProcess":
        """Raises: ProcessLookupError: the process does not exist."""
        started = process_started(pid)
        if started is None:
            raise ProcessLookupError(f"Process {pid} of run {run_id} is not alive.")
        return cls(run_id=run_id, host=socket.gethostname(), pid=pid, started=started)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def is_alive(self) -> bool:
        return process_started(self.pid) == self.started


WORKER_RECORD = Record("Worker's record", WorkerProcess)


def process_started(pid: int) -> str | None:
    """The start of `pid`, in a form unique among all processes of all boots; None if it is gone or a zombie."""
    if (_PROC / "self/stat").exists():
        try:
            # Fields 3 (state) and 22 (start in clock ticks since boot) follow the name, which may hold blanks and ')'.
            fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else f"{_boot_id()}/{fields[19]}"
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None


def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


class HeldWorker(Protocol):
    """A worker that exists and waits: nothing of its command runs before `release`.

    Its identity is recorded in between. If the caller is killed before `release`, no unrecorded worker remains: what
    the worker waits for ends with its caller, and so does the worker.
    """

    identity: WorkerProcess

    def release(self) -> None:
        """Does nothing if the worker was killed while it waited; `wait` reports that."""
        ...

    def abandon(self) -> None: ...

    def wait(self) -> int | None:
        """The worker's exit code, once it has ended; negative: the signal. None if it is unknown."""
        ...


class ColdWorker:
    """A held worker that starts its command as a new program."""

    def __init__(self, run_id: str, command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as output:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                # `exec` keeps pid and start time, so the record stays true.
                ["/bin/sh", "-c", 'read -r go && exec "$@"', "headrace-run", *command],
                env={**environment, RUN_MARKER: run_id},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Its own session, so that neither Ctrl-C in a terminal nor the daemon's death reaches it.
                start_new_session=True,
            )
        self.identity: WorkerProcess = WorkerProcess.of(run_id, self._process.pid)

    def release(self) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.write(b"go\n")
            self._process.stdin.close()

    def abandon(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def wait(self) -> int | None:
        return self._process.wait()


def processes_of_run(run_id: str, worker: WorkerProcess | None) -> list[psutil.Process]:
    """Every live process of a run on this machine, except the caller's own."""
    session = worker.pid if worker and _session_is_ours(worker) else None
    children = _children(worker) if worker and worker.is_alive() else set()
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            is_ours = (
                process.pid in children
                or (session is not None and os.getsid(process.pid) == session)
                or process.environ().get(RUN_MARKER) == run_id
            )
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, ProcessLookupError, PermissionError):
            continue  # gone meanwhile, or another user's: not started by us
    return found


def _session_is_ours(worker: WorkerProcess) -> bool:
    """Whether session `worker.pid` can be the worker's; not if another process with that pid leads it."""
    return process_started(worker.pid) in (worker.started, None) and worker.started.startswith(_this_boot())


def _this_boot() -> str:
    return _boot_id() if (_PROC / "self/stat").exists() else ""


def _children(worker: WorkerProcess) -> set[int]:
    try:
        return {worker.pid, *(child.pid for child in psutil.Process(worker.pid).children(recursive=True))}
    except psutil.NoSuchProcess:
        return set()


def interrupt(worker: WorkerProcess, *, grace_seconds: float) -> bool:
    """Sends SIGTERM to a live worker, then waits up to `grace_seconds` for it to clean up; True once it is gone."""
    if not worker.is_alive():
        return True
    with suppress(ProcessLookupError):
        os.kill(worker.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while worker.is_alive() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return not worker.is_alive()


def kill_run(run_id: str, worker: WorkerProcess | None) -> tuple[list[int], list[int]]:
    """Kills every process of a run until none is left, so that a later look catches new forks.

    Returns:
        The killed pids, and those that SIGKILL has not ended after 5 seconds.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + _KILL_WAIT_SECONDS
    while survivors := processes_of_run(run_id, worker):
        if time.monotonic() > deadline:
            return sorted(killed), sorted(process.pid for process in survivors)
        for process in survivors:
            with suppress(psutil.NoSuchProcess):
                process.kill()  # psutil compares pid and start time again
                killed.add(process.pid)
        time.sleep(_POLL_SECONDS)
    return sorted(killed), []
