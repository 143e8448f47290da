"""Workers forked from a template (`worker_template`), from the daemon's side."""

import json
import os
import queue
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Condition, Lock, Thread

from headrace_dagster.launchers.device_environment import SHOWN
from headrace_dagster.launchers.worker_process import RUN_MARKER, WorkerProcess

# Importing Dagster takes 1.5 s of CPU, and ten times that on a machine that is busy with a training.
_START_WAIT_SECONDS = 120.0
_SHOWN = (RUN_MARKER, *SHOWN)
# Room for a run's id and the UUIDs of 16 MIG slices.
_ROOM = "-" * 2000


class TemplateGone(Exception):
    """The template does not answer: killed, or unable to import Dagster. Its log says why."""


class WarmWorkers:
    """One template process, started when first needed and again if it was killed."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._lock = Lock()
        self._template: _Template | None = None

    def hold(self, run_id: str, arguments: Sequence[str], *, environment: Mapping[str, str], log: Path) -> "WarmWorker":
        """A worker that waits for its release to execute `dagster ARGUMENTS`.

        Raises:
            TemplateGone: the template cannot be started.
        """
        with self._lock:
            if self._template is None or not self._template.is_alive():
                self._template = _Template(self._log)
            template = self._template
            pid = template.start(
                {
                    "arguments": list(arguments),
                    "environment": {**environment, RUN_MARKER: run_id},
                    "shown": _SHOWN,
                    "directory": str(Path.cwd()),
                    "log": str(log),
                }
            )
        return WarmWorker(template, WorkerProcess.of(run_id, pid))

    def close(self) -> None:
        """Ends the template; released workers continue."""
        with self._lock:
            if self._template:
                self._template.close()
                self._template = None


class WarmWorker:
    def __init__(self, template: "_Template", identity: WorkerProcess) -> None:
        self._template = template
        self.identity: WorkerProcess = identity

    def release(self) -> None:
        with suppress(BrokenPipeError):  # a dead template has taken this worker along
            self._template.send({"release": self.identity.pid})

    def abandon(self) -> None:
        with suppress(BrokenPipeError):
            self._template.send({"abandon": self.identity.pid})
        self.wait()

    def wait(self) -> int | None:
        return self._template.wait_for_end(self.identity.pid)


class _Template:
    def __init__(self, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                [sys.executable, "-m", "headrace_dagster.launchers.worker_template"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                # The room comes last; the daemon's own values of these names would be seen before the worker's.
                env={**{name: value for name, value in os.environ.items() if name not in _SHOWN}, RUN_MARKER: _ROOM},
                start_new_session=True,
            )
        self._log = log
        self._sending = Lock()
        self._started: queue.Queue[int | None] = queue.Queue()
        self._exit_codes: dict[int, int] = {}
        self._changed = Condition()
        self._is_gone = False
        Thread(target=self._listen, name="worker-template", daemon=True).start()

    def is_alive(self) -> bool:
        return not self._is_gone and self._process.poll() is None

    def start(self, worker: Mapping[str, object]) -> int:
        try:
            self.send({"start": worker})
            pid = self._started.get(timeout=_START_WAIT_SECONDS)
        except (BrokenPipeError, queue.Empty):
            pid = None
        if pid is None:
            self._process.kill()
            raise TemplateGone(f"The workers' template {self._process.pid} does not answer. Its log: {self._log}")
        return pid

    def send(self, request: Mapping[str, object]) -> None:
        assert self._process.stdin
        with self._sending:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    def wait_for_end(self, pid: int) -> int | None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_gone or pid in self._exit_codes)
            return self._exit_codes.pop(pid, None)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            answer = json.loads(line)
            if "started" in answer:
                self._started.put(answer["started"])
                continue
            with self._changed:
                self._exit_codes[answer["ended"]] = answer["exit_code"]
                self._changed.notify_all()
        self._process.wait()
        with self._changed:
            self._is_gone = True
            self._changed.notify_all()
        self._started.put(None)
