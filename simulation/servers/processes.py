"""Processes and ports of this machine, as fake servers and real ones need them."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now. They are not kept: a server that is killed comes back to its own."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextmanager
def server_process(module: str, task: Mapping[str, Any]) -> Iterator[str]:
    """`python -m MODULE TASK`, which prints its port and ends with its standard input; its URL on loopback."""
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
    """User and system time of a process with those that it started and that still run."""
    top = psutil.Process(pid)
    times = [one.cpu_times() for one in (top, *top.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def end_group(process: subprocess.Popen[Any]) -> None:
    """A process that leads its own group, with all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end_tidily(process: subprocess.Popen[Any], *, seconds: float = 20.0) -> None:
    """Asked to end, and killed if it does not in time."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
