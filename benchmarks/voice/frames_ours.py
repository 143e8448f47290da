"""Our side of `frames`: `python -m benchmarks.voice.frames_ours '{"calls": 200, "seconds": 10}'`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.voice.pace import FRAME_SECONDS, NUM_HOPS, WARM_UP_SECONDS, now, on_one_core, task, tell
from headrace.voice.lanes import Lane
from headrace.voice.rings import FRAME_SAMPLES, Ring

_PCM = bytes(2 * FRAME_SAMPLES)


@dataclass(eq=False)
class _Call:
    ring: Ring = field(default_factory=Ring)
    out: Ring = field(default_factory=Ring)
    # When each frame came in that has not come out.
    came: list[float] = field(default_factory=list)
    at: int = 0


def main() -> None:
    on_one_core()
    asked = task()
    calls = [_Call() for _ in range(asked["calls"])]
    late: list[float] = []

    def pass_through(taps: Sequence[Any], frames: np.ndarray) -> np.ndarray:
        return frames

    def out(taps: Sequence[Any], frames: np.ndarray) -> np.ndarray:
        when = now()
        for tap, frame in zip(taps, frames, strict=True):
            tap.out.write(frame)
            tap.out.read = tap.out.written  # somebody reads it
            late.append(when - tap.came[tap.at])
            tap.at += 1
        return frames

    def failed(taps: Sequence[Any], error: Exception) -> None:
        raise SystemExit(f"a stage failed: {error}")

    lane = Lane(lambda: [*[pass_through] * NUM_HOPS, out], failed=failed)
    for call in calls:
        lane.add(call)
    lane.start()
    _feed(calls, WARM_UP_SECONDS)
    late.clear()
    cpu, wall = time.process_time(), now()
    _feed(calls, asked["seconds"])
    cpu, wall = time.process_time() - cpu, now() - wall
    tell(list(late), calls=len(calls), cpu_seconds=cpu, wall_seconds=wall)
    lane.close()


def _feed(calls: Sequence[_Call], seconds: float) -> None:
    """A frame for each call every 20 ms, each call's at a time of its own within them."""
    num, begun = len(calls), now()
    step, at = FRAME_SECONDS / num, 0
    while (ago := now() - begun) < seconds:
        while at * step <= ago:
            call = calls[at % num]
            call.came.append(now())
            call.ring.write(_PCM)
            at += 1
        # As an event loop would, it wakes for several calls' frames at once.
        time.sleep(max(0.001, at * step - (now() - begun)))


if __name__ == "__main__":
    main()
