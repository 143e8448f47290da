"""A process that has imported Dagster once and forks a run's worker on request.

Importing Dagster costs 1.5 CPU seconds, most of a short run; here each daemon pays it once. Only Dagster and its
database layer are loaded, all Python on a single thread. Each worker imports the project's code, Arrow and models
itself, so an edit reaches the next run, and no thread, lock or CUDA context is ever forked. A template that has a
second thread refuses to serve. After an upgrade of Dagster restart the daemon, whose workers still have the old
version.

Run as `python -m headrace_dagster.launchers.worker_template`: requests on stdin, answers on stdout, lines of JSON.

    {"start": {"arguments": […], "environment": {…}, "shown": […], "directory": "…", "log": "…"}}  →  {"started": PID}
    {"release": PID}, {"abandon": PID}  →  once it has ended: {"ended": PID, "exit_code": N}

/proc shows the environment with which a process was started, and for a fork its template's. So the variables named in
`shown` are written over it, into room that the first of them reserves in the template's environment. Otherwise
processes that a worker forks could not be recognised as its run's.

A started worker waits for its release in its own session. If the template ends, held workers end with it; released ones
continue.
"""

import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_REQUESTS, _ANSWERS = 0, 1
# The worker's command line, and the storage that its instance will open.
_PRELOADED = ("dagster._cli", "dagster._core.storage.runs", "dagster._core.storage.schedules", "alembic.command")
_EXIT_NOT_RELEASED = 0


class Template:
    """The serving side. `serve` returns only in workers; the template itself leaves by SystemExit."""

    def __init__(self) -> None:
        self._unread = b""
        self._held: dict[int, int] = {}  # pid → the pipe whose first byte releases it
        self._wake_up, self._ring = os.pipe()
        os.set_blocking(self._ring, False)

    def serve(self) -> Sequence[str]:
        """Forks on request, forever.

        Returns:
            In a released worker: its command line arguments.
        """
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._ring, warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(_REQUESTS, selectors.EVENT_READ)
            selector.register(self._wake_up, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fd == self._wake_up:
                        os.read(self._wake_up, 4096)
                        self._report_ends()
                        continue
                    arguments = self._take_requests()
                    if arguments is not None:
                        return arguments

    def _take_requests(self) -> Sequence[str] | None:
        received = os.read(_REQUESTS, 1 << 16)
        if not received:
            raise SystemExit(0)  # the daemon is gone
        *lines, self._unread = (self._unread + received).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if "start" in request:
                arguments = self._fork(request["start"])
                if arguments is not None:
                    return arguments
            elif "release" in request:
                self._let_go(request["release"], b"go")
            else:
                self._let_go(request["abandon"], b"")
        return None

    def _let_go(self, pid: int, word: bytes) -> None:
        pipe = self._held.pop(pid, None)
        if pipe is not None:  # otherwise it was killed while it waited, which may also happen now
            with suppress(BrokenPipeError):
                os.write(pipe, word)
            os.close(pipe)

    def _fork(self, worker: Mapping[str, Any]) -> Sequence[str] | None:
        gate, opener = os.pipe()
        pid = os.fork()
        if pid:
            os.close(gate)
            self._held[pid] = opener
            _answer({"started": pid})
            return None
        os.close(opener)
        self._become_worker(gate, worker)
        return worker["arguments"]

    def _become_worker(self, gate: int, worker: Mapping[str, Any]) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Whatever signals the daemon ignores, a worker can be interrupted.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        _show(worker["shown"], worker["environment"])
        for pipe in (self._wake_up, self._ring, *self._held.values()):
            os.close(pipe)
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(worker["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.close(nothing)
        os.close(log)
        if not os.read(gate, 1):
            os._exit(_EXIT_NOT_RELEASED)
        os.close(gate)
        os.environ.clear()
        os.environ.update(worker["environment"])
        os.chdir(worker["directory"])

    def _report_ends(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            pipe = self._held.pop(pid, None)
            if pipe is not None:
                os.close(pipe)
            _answer({"ended": pid, "exit_code": os.waitstatus_to_exitcode(status)})


def _show(names: Sequence[str], environment: Mapping[str, str]) -> None:
    """Runs before `os.environ` is changed, since the C library then keeps copies elsewhere."""
    first, *others = names
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    address = getenv(first.encode())
    room = len(ctypes.string_at(address)) if address else 0
    entries = [environment[first], *(f"{name}={environment[name]}" for name in others if name in environment)]
    while entries:
        text = "\0".join(entries).encode() + b"\0"
        if len(text) <= room:
            ctypes.memmove(address, text, len(text))
            return
        entries.pop()


def _answer(answer: Mapping[str, object]) -> None:
    os.write(_ANSWERS, json.dumps(answer).encode() + b"\n")


def main() -> None:
    for module in _PRELOADED:
        importlib.import_module(module)
    num_threads = len(list(Path("/proc/self/task").iterdir()))
    if num_threads > 1:
        raise SystemExit(
            f"{num_threads} threads after importing {', '.join(_PRELOADED)}: a fork would lose their locks."
        )
    # Existing objects are never garbage; examining them would copy their pages in every worker.
    gc.collect()
    gc.freeze()
    arguments = Template().serve()

    # In the worker: the template has nothing of ours, so that an edit reaches the next run.
    from dagster._cli import cli

    from headrace.cycles import look_for_cycles_rarely

    look_for_cycles_rarely()

    sys.argv = ["dagster", *arguments]
    cli(auto_envvar_prefix="DAGSTER_CLI")


if __name__ == "__main__":
    main()
