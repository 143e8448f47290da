"""Kills (-9) processes in the middle of what they do: at a line of our code, or once they have said enough."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any


def num_lines_run(run: Callable[[], None], rooms: tuple[str, ...], kill_at: int | None) -> int:
    """Lines of these rooms (such as `headrace/store/`) that `run` goes through; the process is killed at `kill_at`."""
    num_lines = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal num_lines
        if not any(room in frame.f_code.co_filename for room in rooms):
            return None
        if event == "line":
            num_lines += 1
            if num_lines == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(None)
    return num_lines


def in_child(act: Callable[[], object]) -> int:
    """Forks, so that no kill costs the imports again. Returns the wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


def killed_at_many_lines(
    work: Callable[[Path], None],
    rooms: tuple[str, ...],
    root: Path,
    *,
    num_lines: int,
    num_kills: int,
    prepare: Callable[[Path], object] = lambda directory: None,
) -> None:
    """Leaves a directory for each kill, evenly spaced over the lines, and prints it."""
    for index in range(num_kills):
        directory = root / f"killed-{index:03d}"
        prepare(directory)
        kill_at = 1 + index * (num_lines - 1) // (num_kills - 1)
        status = in_child(lambda to=directory, at=kill_at: num_lines_run(lambda: work(to), rooms, at))
        assert os.WIFSIGNALED(status), f"not killed at line {kill_at} of {num_lines}"
        assert os.WTERMSIG(status) == signal.SIGKILL
        print(directory)


def run_and_kill(script: str, directory: Path, *, word: str, times: int) -> None:
    """Kills `python -c script directory` once it has printed `word` so often."""
    process = subprocess.Popen([sys.executable, "-c", script, str(directory)], stdout=subprocess.PIPE)
    assert process.stdout
    for _ in range(times):
        assert process.stdout.readline() == f"{word}\n".encode()
    process.kill()
    process.wait()
    process.stdout.close()
