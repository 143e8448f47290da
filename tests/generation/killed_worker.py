"""Generates one partition many times, each in a forked process that is killed (-9) at another line of our code.

`python tests/generation/killed_worker.py DIRECTORY NUM_KILLS [mirror | repin]` kills at NUM_KILLS lines, evenly spaced
over all lines of headrace/generation that a whole run goes through, and leaves one store for each kill. Prints their
directories. `mirror`: the run mirrors a sealed partition on the candidate. `repin`: it finds an attempt half made on a
set that was rolled back since, and makes the next one.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.generation.builders import TEXTS, ScriptedEngine, Site, make_site


def prepare(directory: Path, mode: str) -> None:
    site = make_site(directory)
    if mode == "mirror":
        site.generate()
        site.start(2, weight=0.1)
    if mode == "repin":
        site.start(2)
        half = ScriptedEngine(fails=lambda prompt: prompt == TEXTS[-1] and KeyboardInterrupt())
        try:
            site.generate(site.open_claim("run-killed"), engine=half)
        except KeyboardInterrupt:
            site.abort(2)


def work(directory: Path, mode: str) -> None:
    site = Site(directory)
    if mode == "mirror":
        site.mirror(root_run_id="run-killed")
    else:
        site.generate(site.open_claim("run-killed"))


def num_lines_run(run: Callable[[], None], kill_at: int | None) -> int:
    """Lines of headrace/generation that `run` goes through; the process is killed at line `kill_at`."""
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
        run()
    finally:
        sys.settrace(None)
    return num_lines


def killed(directory: Path, mode: str, kill_at: int) -> int:
    """Forks, so that no kill costs the imports again. Returns the wait status."""
    pid = os.fork()
    if pid == 0:
        num_lines_run(lambda: work(directory, mode), kill_at)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def main() -> None:
    root, num_kills = Path(sys.argv[1]), int(sys.argv[2])
    mode = sys.argv[3] if len(sys.argv) > 3 else "generate"
    prepare(root / "prepared", mode)
    shutil.copytree(root / "prepared", root / "whole")
    num_lines = num_lines_run(lambda: work(root / "whole", mode), None)
    for index in range(num_kills):
        directory = root / f"killed-{index:03d}"
        shutil.copytree(root / "prepared", directory)
        kill_at = 1 + index * (num_lines - 1) // (num_kills - 1)
        status = killed(directory, mode, kill_at)
        assert os.WIFSIGNALED(status), f"not killed at line {kill_at} of {num_lines}"
        assert os.WTERMSIG(status) == signal.SIGKILL
        print(directory)


if __name__ == "__main__":
    main()
