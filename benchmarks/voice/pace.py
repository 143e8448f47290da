"""Frames at their time, and what they cost; imports nothing, since Pipecat's own interpreter runs it too."""

import json
import os
import sys
import time
from typing import Any

FRAME_SECONDS, NUM_HOPS = 0.02, 5
WARM_UP_SECONDS = 2.0


def on_one_core() -> None:
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})


def task() -> dict[str, Any]:
    return json.loads(sys.argv[1])


def tell(late: list[float], *, calls: int, cpu_seconds: float, wall_seconds: float) -> None:
    """Prints the figures. Args: late: seconds of each frame that came out in the measured time."""
    ordered = sorted(late)
    told = {
        "calls": calls,
        "frames": len(late),
        "frames_expected": int(wall_seconds / FRAME_SECONDS) * calls,
        "cpu_us_a_frame_and_hop": cpu_seconds * 1e6 / max(len(late), 1) / NUM_HOPS,
        "late_ms_p50": ordered[len(ordered) // 2] * 1000,
        "late_ms_p99": ordered[int(len(ordered) * 0.99)] * 1000,
        "core_share": cpu_seconds / wall_seconds,
    }
    print(json.dumps(told), flush=True)


def now() -> float:
    return time.monotonic()
