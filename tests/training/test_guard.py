"""Real processes: a worker, and a rank that must not outlive it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from headrace.training.guard import Worker, start_tick

# As torchrun does it: the rank is not the worker's child, and in a session of its own.
RANK = """
import sys, time
from headrace.training.guard import Worker, die_with
die_with(Worker(pid={pid}, started={started}))
print("ready", flush=True)
time.sleep(600)
"""
AGENT = """
import subprocess, sys, time
rank = subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True, stdout=subprocess.PIPE, text=True)
print(rank.stdout.readline().strip(), rank.pid, flush=True)
time.sleep(600)
"""


def start_worker() -> tuple[subprocess.Popen, Worker]:
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    return worker, Worker(pid=worker.pid, started=start_tick(worker.pid) or 0)


def ends(process: psutil.Process) -> bool:
    """A zombie has ended too: its parent here never asks for it."""
    for _ in range(200):
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("victim", ["worker", "agent"])
def test_a_rank_dies_with_its_worker_and_with_its_agent(victim: str) -> None:
    process, worker = start_worker()
    rank_script = RANK.format(pid=worker.pid, started=worker.started)
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, rank_script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert agent.stdout
    ready, pid = agent.stdout.readline().split()
    assert ready == "ready"
    rank = psutil.Process(int(pid))
    {"worker": process, "agent": agent}[victim].kill()
    assert ends(rank)
    for survivor in (process, agent):
        survivor.kill()
        survivor.wait()


def test_a_rank_that_starts_after_its_workers_death_ends_at_once() -> None:
    process, worker = start_worker()
    process.kill()
    process.wait()
    rank = subprocess.run(
        [sys.executable, "-c", RANK.format(pid=worker.pid, started=worker.started)], capture_output=True, timeout=60
    )
    assert rank.returncode == -signal.SIGKILL
    assert rank.stdout == b""


def test_a_rank_does_not_mistake_another_process_for_its_worker() -> None:
    script = RANK.format(pid=os.getpid(), started=1)
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60).returncode == -signal.SIGKILL


def test_a_zombie_counts_as_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert start_tick(process.pid) is None
    process.wait()


def test_a_process_whose_name_is_cut_within_a_character_is_known_by_its_start() -> None:
    own = Path("/proc/self/comm")
    name, started = own.read_bytes(), start_tick(os.getpid())
    try:
        own.write_bytes(b"a) \xc3")
        assert start_tick(os.getpid()) == started
    finally:
        own.write_bytes(name)
