"""A worker that lives and does nothing is told from one that works: real processes, a made-up clock."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from headrace_dagster.launchers.signs_of_life import SignsOfLife
from headrace_dagster.launchers.worker_process import WorkerProcess
from tests.waiting import eventually

SLEEPS = "import time; print(flush=True); time.sleep(600)"
# A burst of work for each line it is sent, in CPU time: however fast or busy the machine is.
WORKS = """
import sys, time
print(flush=True)
for _ in sys.stdin:
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    print(flush=True)
"""


@contextmanager
def worker(code: str) -> Iterator[tuple[WorkerProcess, subprocess.Popen[str]]]:
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            yield WorkerProcess.of("a-run", process.pid), process
        finally:
            process.kill()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_worker_that_sleeps_for_minutes_is_silent_since_it_last_worked(clock: Clock) -> None:
    signs = SignsOfLife(600, clock=clock)
    with worker(SLEEPS) as (sleeper, _):
        for clock.now in (1000.0, 1300.0, 1599.0):
            assert signs.silence_of("a-run", sleeper) is None
        clock.now = 1640.0
        silence = signs.silence_of("a-run", sleeper)

    assert silence
    assert silence.since == 1000.0
    assert silence.what == f"worker process {sleeper.pid} sleeps"


def test_a_worker_that_works_now_and_then_is_not(clock: Clock) -> None:
    signs = SignsOfLife(60, clock=clock)
    with worker(WORKS) as (busy, process):
        assert process.stdin
        assert process.stdout
        for clock.now in (1000.0, 1050.0, 1100.0, 1150.0):
            assert signs.silence_of("a-run", busy) is None
            process.stdin.write("\n")
            process.stdin.flush()
            process.stdout.readline()


def test_a_stopped_worker_is_silent_at_once_and_says_what_lets_it_go_on(clock: Clock) -> None:
    signs = SignsOfLife(600, clock=clock)
    with worker(WORKS) as (stopped, process):
        os.kill(stopped.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
        silence = signs.silence_of("a-run", stopped)
        assert silence
        assert silence.what == (f"worker process {stopped.pid} is stopped (kill -CONT {stopped.pid} lets it go on)")

        os.kill(stopped.pid, signal.SIGCONT)
        assert process.stdin
        assert process.stdout
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        clock.now += 60
        eventually(lambda: signs.silence_of("a-run", stopped) is None, "it gives signs of life again")
