"""Generates one partition many times, each in a forked process that is killed (-9) at another line of our code.

`python tests/generation/killed_worker.py DIRECTORY NUM_KILLS` kills at NUM_KILLS lines, evenly spaced over all lines of
headrace/generation that a whole run goes through, and leaves one store for each kill. Prints their directories.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.generation.builders import Site, make_site


def generate(directory: Path) -> None:
    site = Site(directory)
    site.generate(site.open_claim("run-killed"))


def num_lines_run(work: Callable[[], None], kill_at: int | None) -> int:
    """Lines of headrace/generation that `work` runs through; the process is killed at line `kill_at`."""
    num_lines = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal num_lines
        if "headrace/generation/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            num_lines += 1
            if num_lines == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return num_lines


def killed(directory: Path, kill_at: int) -> int:
    """Forks, so that no kill costs the imports again. Returns the wait status."""
    pid = os.fork()
    if pid == 0:
        num_lines_run(lambda: generate(directory), kill_at)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def main() -> None:
    root, num_kills = Path(sys.argv[1]), int(sys.argv[2])
    make_site(root / "whole")
    num_lines = num_lines_run(lambda: generate(root / "whole"), None)
    for index in range(num_kills):
        directory = root / f"killed-{index:03d}"
        make_site(directory)
        kill_at = 1 + index * (num_lines - 1) // (num_kills - 1)
        status = killed(directory, kill_at)
        assert os.WIFSIGNALED(status), f"not killed at line {kill_at} of {num_lines}"
        assert os.WTERMSIG(status) == signal.SIGKILL
        print(directory)


if __name__ == "__main__":
    main()
