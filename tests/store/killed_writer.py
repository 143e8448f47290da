"""Runs one piece of work many times, each in a forked process that is killed (-9) at another line of our code.

`python tests/store/killed_writer.py WORK DIRECTORY NUM_KILLS` kills at NUM_KILLS lines, evenly spaced over all lines of
headrace/store and headrace/handoff that the work runs through, and leaves one store directory for each kill. Prints the
directories, one a line.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from tests.killing import in_child, killed_at_many_lines, num_lines_run

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


def main() -> None:
    work, root, num_kills = WORKS[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3])
    work(root / "first")  # pays once, before the forks, for what libraries set up at their first use
    counted = root / "num_lines"
    in_child(lambda: counted.write_text(str(num_lines_run(lambda: work(root / "whole"), ROOMS, None))))
    killed_at_many_lines(work, ROOMS, root, num_lines=int(counted.read_text()), num_kills=num_kills)


if __name__ == "__main__":
    main()
