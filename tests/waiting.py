"""Waits for what other threads and processes bring about."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(found: Callable[[], T], what: str = "what was waited for", *, seconds: float = 90.0) -> T:
    """What `found` returns as soon as it is true of itself."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if value := found():
            return value
        time.sleep(0.02)
    raise AssertionError(f"Not within {seconds:g} s: {what}.")
