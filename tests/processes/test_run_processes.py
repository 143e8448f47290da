"""Which runs count as having processes, on real processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace_dagster.launchers.device_environment import VISIBLE_DEVICES
from headrace_dagster.launchers.run_processes import RunProcesses
from headrace_dagster.launchers.warm_worker import WarmWorkers
from headrace_dagster.launchers.worker_process import RUN_MARKER
from tests.waiting import eventually

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def run_id(request: pytest.FixtureRequest) -> str:
    return f"run-{os.getpid()}-{request.node.name}"


@pytest.fixture
def sleeper(run_id: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(SLEEP, start_new_session=True, env={**os.environ, RUN_MARKER: run_id})
    yield process
    process.kill()
    process.wait()


def pids(processes: RunProcesses, run_id: str) -> set[int]:
    return {pid for pid, _ in processes.by_run().get(run_id, frozenset())}


def test_a_run_counts_until_its_last_process_has_ended_and_a_zombie_has(
    run_id: str, sleeper: subprocess.Popen[bytes]
) -> None:
    processes = RunProcesses()
    eventually(lambda: pids(processes, run_id) == {sleeper.pid}, "the process is found")

    os.kill(sleeper.pid, signal.SIGKILL)

    eventually(lambda: run_id not in processes.by_run(), "the zombie does not count")
    assert Path(f"/proc/{sleeper.pid}").exists()


def test_a_process_is_found_that_gets_its_marker_only_after_it_was_looked_at(run_id: str, tmp_path: Path) -> None:
    """As between fork and exec, where it has its parent's environment."""
    processes = RunProcesses()
    program = 'read go; exec env "$0=$1" sleep 600'
    late = subprocess.Popen(["/bin/sh", "-c", program, RUN_MARKER, run_id], stdin=subprocess.PIPE)
    assert late.stdin
    try:
        assert run_id not in processes.by_run()
        late.stdin.write(b"go\n")
        late.stdin.close()

        eventually(lambda: pids(processes, run_id) == {late.pid}, "the process is found")
    finally:
        late.kill()
        late.wait()


def test_a_child_without_environment_stays_its_runs_after_its_parent_has_ended(run_id: str, tmp_path: Path) -> None:
    """One in the worker's session, one in a session of its own."""
    script = f"""
import os, subprocess, sys, time
near = subprocess.Popen({SLEEP!r}, env={{}})
far = subprocess.Popen({SLEEP!r}, env={{}}, start_new_session=True)
print(near.pid, far.pid, flush=True)
time.sleep(600)
"""
    processes = RunProcesses()
    environment = {**os.environ, RUN_MARKER: run_id}
    parent = subprocess.Popen(
        [sys.executable, "-c", script], start_new_session=True, env=environment, stdout=subprocess.PIPE
    )
    assert parent.stdout
    children = {int(pid) for pid in parent.stdout.readline().split()}
    try:
        assert pids(processes, run_id) == {parent.pid, *children}

        parent.kill()
        parent.wait()

        assert pids(processes, run_id) == children
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.process
def test_a_warm_worker_shows_its_run_and_devices_and_its_template_shows_none(run_id: str, tmp_path: Path) -> None:
    processes = RunProcesses()
    workers = WarmWorkers(tmp_path / "template.log")
    environment = {**os.environ, VISIBLE_DEVICES: "MIG-0"}
    try:
        held = workers.hold(run_id, ["--version"], environment=environment, log=tmp_path / "log")
        eventually(lambda: pids(processes, run_id) == {held.identity.pid}, "the worker is found, its template is not")
        shown = Path(f"/proc/{held.identity.pid}/environ").read_bytes().split(b"\0")
        assert b"CUDA_VISIBLE_DEVICES=MIG-0" in shown
        assert f"{RUN_MARKER}={run_id}".encode() in shown

        held.abandon()

        assert run_id not in processes.by_run()
    finally:
        workers.close()


def test_a_process_that_says_it_is_no_runs_counts_for_none_although_a_run_started_it(run_id: str) -> None:
    """As an engine host that outlives its run."""
    script = f"""
import os, subprocess, time
both = [subprocess.Popen({SLEEP!r}, env={{**os.environ, {RUN_MARKER!r}: marker}}) for marker in ("-nobody", {run_id!r})]
print(*(one.pid for one in both), flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        start_new_session=True,
        env={**os.environ, RUN_MARKER: run_id},
        stdout=subprocess.PIPE,
    )
    assert parent.stdout
    nobodys, runs = map(int, parent.stdout.readline().split())
    try:
        found = pids(RunProcesses(), run_id)
        assert found == {parent.pid, runs}
    finally:
        for pid in (parent.pid, nobodys, runs):
            os.kill(pid, signal.SIGKILL)
        parent.communicate()
