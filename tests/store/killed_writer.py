"""Runs one piece of work many times, each in a forked process that is killed (-9) at another line of our code.

`python tests/store/killed_writer.py WORK DIRECTORY NUM_KILLS` kills at NUM_KILLS lines, evenly spaced over all lines of
headrace/store and headrace/handoff that the work runs through, and leaves one store directory for each kill. Prints the
directories, one a line.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa

from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory

ROOMS = ("headrace/store/", "headrace/handoff/")


def rows() -> pa.Table:
    return pa.table({"number": list(range(2000)), "text": [f"row {n}" for n in range(2000)]})


def publish(directory: Path) -> None:
    batches = rows().to_batches(max_chunksize=400)
    HandoffStore(LocalStore(directory)).publish(
        "docs", "shard-00", iter(batches), schema=rows().schema, code_version="1", run_id="r"
    )


def seal(directory: Path) -> None:
    seal_directory(LocalStore(directory), directory.parent / "source", attributes={"training_id": "t"})


WORKS: dict[str, Callable[[Path], None]] = {"publish": publish, "seal": seal}


def lines_of(work: Callable[[Path], None], directory: Path, kill_at: int | None) -> int:
    num_lines = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal num_lines
        if not any(room in frame.f_code.co_filename for room in ROOMS):
            return None
        if event == "line":
            num_lines += 1
            if num_lines == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    try:
        work(directory)
    finally:
        sys.settrace(None)
    return num_lines


def in_child(act: Callable[[], int]) -> int:
    """Forks, so that each kill does not cost the imports again. Returns the wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            count = act()
            (Path(sys.argv[2]) / "num_lines").write_text(str(count))
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


def main() -> None:
    work, root, num_kills = WORKS[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3])
    work(root / "first")  # pays once, before the forks, for what libraries set up at their first use
    in_child(lambda: lines_of(work, root / "whole", None))
    num_lines = int((root / "num_lines").read_text())
    for index in range(num_kills):
        directory = root / f"killed-{index:03d}"
        kill_at = 1 + index * (num_lines - 1) // (num_kills - 1)
        status = in_child(lambda at=kill_at, to=directory: lines_of(work, to, at))
        assert os.WIFSIGNALED(status), f"not killed at line {kill_at} of {num_lines}"
        assert os.WTERMSIG(status) == signal.SIGKILL
        print(directory)


if __name__ == "__main__":
    main()
