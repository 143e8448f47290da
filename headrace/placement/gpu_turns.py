"""Turns on a GPU that several runs share: one works, and the others load their models meanwhile and wait.

So a GPU rests between two runs neither for a process's start nor for a model's load. Without turns, runs that share a
GPU get it in slices: they begin and end together, and then it rests all the same. The turn is a file's lock, which the
kernel frees with its process, however that ends. It holds on one machine, among runs of one project that ask for it.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn_on(device: str, directory: Path) -> Iterator[None]:
    """Waits until no other run has the turn on this device, and has it until the block ends.

    Args: directory: on this machine, the same for all of the project's runs.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / f"{device.replace('/', '_')}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
