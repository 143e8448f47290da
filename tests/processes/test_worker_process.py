"""A worker's identity, its two-step start and its end, on real processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from headrace_dagster.launchers.worker_process import (
    RUN_MARKER,
    WORKER_RECORD,
    ColdWorker,
    WorkerProcess,
    interrupt,
    kill_run,
    process_started,
    processes_of_run,
)
from tests.waiting import eventually

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(SLEEP, start_new_session=True, env={**os.environ, RUN_MARKER: "sleeper"})
    yield process
    process.kill()
    process.wait()


def test_a_recorded_worker_is_recognized_again(sleeper: subprocess.Popen[bytes]) -> None:
    worker = WorkerProcess.of("sleeper", sleeper.pid)

    assert WORKER_RECORD.checked(worker.to_json()) == worker
    assert worker.is_alive()


def test_another_process_of_the_same_pid_is_not_the_worker(sleeper: subprocess.Popen[bytes]) -> None:
    worker = WorkerProcess.of("sleeper", sleeper.pid)
    boot, _, tick = worker.started.partition("/")

    assert not replace(worker, started=f"{boot}/{int(tick) - 1}").is_alive(), "the pid was given away again"
    assert not replace(worker, started=f"another-boot/{tick}").is_alive(), "the machine was restarted"


def test_a_zombie_is_dead(sleeper: subprocess.Popen[bytes]) -> None:
    worker = WorkerProcess.of("sleeper", sleeper.pid)

    os.kill(sleeper.pid, signal.SIGKILL)

    eventually(lambda: not worker.is_alive(), "the killed child counts as dead though nobody has waited for it")
    assert Path(f"/proc/{sleeper.pid}").exists()


@pytest.mark.parametrize("text", ["", "4711", "[]", '{"pid": 4711}', '{"run_id": "a", "host": "b", "pid": "x"}'])
def test_a_record_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Input should be|Field required|Invalid JSON"):
        WORKER_RECORD.checked(text)


def test_a_held_worker_runs_nothing_until_it_is_released(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    held = ColdWorker("held", ["/bin/sh", "-c", f"echo $$ > {proof}"], environment=os.environ, log=tmp_path / "log")
    assert held.identity.is_alive()
    assert not proof.exists()

    held.release()

    assert held.wait() == 0
    assert int(proof.read_text()) == held.identity.pid, "the command runs as the process that was recorded"


def test_a_release_that_comes_too_late_does_no_harm(tmp_path: Path) -> None:
    held = ColdWorker("held", ["/bin/true"], environment=os.environ, log=tmp_path / "log")
    os.kill(held.identity.pid, signal.SIGKILL)
    eventually(lambda: not held.identity.is_alive(), "the held worker has ended")

    held.release()

    assert held.wait() == -signal.SIGKILL


def test_a_launcher_that_is_killed_before_the_release_leaves_no_worker(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    launcher = f"""
import os, signal, pathlib
from headrace_dagster.launchers.worker_process import ColdWorker
command = ["/bin/sh", "-c", "touch {proof}"]
held = ColdWorker("held", command, environment=os.environ, log=pathlib.Path("{tmp_path}/log"))
print(held.identity.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", launcher], capture_output=True, text=True, check=False)

    assert killed.returncode == -signal.SIGKILL
    eventually(lambda: process_started(int(killed.stdout)) is None, "the held worker has ended")
    assert not proof.exists()


def test_a_run_is_killed_in_every_session_and_nothing_else_is(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    # One child in the worker's session without the marker, one with the marker in a session of its own.
    script = f"""
import os, subprocess, time
with open({str(tmp_path / "pids")!r}, "w") as pids:
    bare = subprocess.Popen({SLEEP!r}, env={{}})
    far = subprocess.Popen({SLEEP!r}, start_new_session=True)
    pids.write(f"{{bare.pid}} {{far.pid}}")
os.rename({str(tmp_path / "pids")!r}, {str(tmp_path / "pids.whole")!r})
time.sleep(600)
"""
    held = ColdWorker("doomed", [sys.executable, "-c", script], environment=os.environ, log=tmp_path / "log")
    held.release()
    eventually((tmp_path / "pids.whole").exists, "both children have started")
    children = [int(pid) for pid in (tmp_path / "pids.whole").read_text().split()]
    # The worker dies first: what it leaves behind has no parent to be found by.
    os.kill(held.identity.pid, signal.SIGKILL)
    held.wait()

    killed, survivors = kill_run("doomed", held.identity)

    assert killed == sorted(children)
    assert survivors == []
    assert processes_of_run("doomed", held.identity) == []
    assert sleeper.poll() is None


def test_a_worker_that_stops_when_asked_is_not_waited_for_longer(sleeper: subprocess.Popen[bytes]) -> None:
    assert interrupt(WorkerProcess.of("sleeper", sleeper.pid), grace_seconds=60)
    assert sleeper.wait() == -signal.SIGTERM
