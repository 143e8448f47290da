"""Waits for what other threads and processes bring about."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(found: Callable[[], T | None], what: str = "what was waited for", *, seconds: float = 90.0) -> T:
    """What `found` returns as soon as it is true of itself; asked less and less often, for asking costs CPU time."""
    ends, pause = time.monotonic() + seconds, 0.01
    while time.monotonic() < ends:
        if value := found():
            return value
        time.sleep(pause)
        pause = min(0.2, 1.5 * pause)
    raise AssertionError(f"Not within {seconds:g} s: {what}.")
