"""Ties a process's life to its parent's, by the kernel: no child outlives a parent that was killed.

`python -m headrace.parent_death PARENT COMMAND …` becomes a command that is not ours, tied to its parent.
"""

import ctypes
import os
import signal
import sys
from typing import NoReturn

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
# Opened before anybody forks: between fork and exec nothing may take a lock.
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int, signal_sent: signal.Signals = signal.SIGKILL) -> None:
    """Makes the kernel send this process a signal when its parent, process `parent`, dies."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal_sent)
    if os.getppid() != parent:
        die()


def keep_orphans() -> None:
    """What this process's children leave behind as they end is its own child from then on, and not the system's: who
    looks for its descendants finds all of them. Those that end are zombies for as long as it lives."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die() -> NoReturn:
    # SIGKILL, not exit: inside a collective a rank runs no Python and would never see an exception.
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
