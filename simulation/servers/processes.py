"""Processes and ports of this machine, for fake and real servers."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]


@contextmanager
def server_process(module: str, task: Mapping[str, Any]) -> Iterator[str]:
    """Runs `python -m MODULE TASK`, which prints its port and ends with its standard input; yields its loopback URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, json.dumps(task)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its running children."""
    top = psutil.Process(pid)
    times = [one.cpu_times() for one in (top, *top.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def end_group(process: subprocess.Popen[Any]) -> None:
    """Ends a process that leads its own group, with all its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end_tidily(process: subprocess.Popen[Any], *, seconds: float = 20.0) -> None:
    """Asks the process to end, and kills it if it does not in time."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
