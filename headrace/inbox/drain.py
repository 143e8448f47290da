"""How fast rows are made, measured while there was something to make."""

from collections.abc import Iterable
from dataclasses import dataclass

# Manifests have whole seconds.
_SECONDS_MIN = 1.0


@dataclass(frozen=True, kw_only=True)
class WorkedOff:
    """Seconds since the epoch: when its rows could be begun, and when they were done."""

    ready_at: float
    done_at: float
    num_rows: int


def rows_per_second(windows: Iterable[WorkedOff]) -> float | None:
    """While there was something to make; None: nothing was made.

    A window counts from when the one before it was done, or from when it could be begun if that was later: so neither
    idle hours nor a window's wait behind others counts twice. Several at once add up.
    """
    num_rows, seconds, until = 0, 0.0, 0.0
    for window in sorted(windows, key=lambda one: one.done_at):
        seconds += max(window.done_at - max(window.ready_at, until), 0.0)
        until = window.done_at
        num_rows += window.num_rows
    return num_rows / max(seconds, _SECONDS_MIN) if num_rows else None
