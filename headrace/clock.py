"""Time as an argument: the library never reads the wall clock by itself."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the Unix epoch."""
        ...


class SystemClock:
    def now(self) -> float:
        return time.time()


@dataclass
class FixedClock:
    """A clock that moves only when told; for tests and simulations."""

    seconds: float = 1_760_000_000.0

    def now(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


def iso(seconds: float) -> str:
    """`2026-11-22T12:53:44Z`: the form of times in manifests and journals."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def epoch_seconds(written: str) -> float:
    """The inverse of `iso`."""
    return datetime.fromisoformat(written).timestamp()
