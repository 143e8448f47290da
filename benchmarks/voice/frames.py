"""`frames`: five pass-through stages, ours and Pipecat's, each in a process on one core."""

import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.measuring import at_least, at_most, print_table, rounded, run_child
from benchmarks.parts import Outcome
from benchmarks.voice.options import VoiceOptions
from pipelines.setup import PIPECAT

_COST_US_MAX, _CALLS_MIN, _LATE_MS_MAX = 8.0, 150, 20.0


def measure_frames(options: VoiceOptions, directory: Path) -> Outcome:
    python = PIPECAT / "bin/python"
    has_peer = python.exists()
    if not has_peer:
        print("Pipecat is not installed (make bench-setup): left out.", file=sys.stderr)
    ours: list[dict[str, Any]] = []
    peers: list[dict[str, Any]] = []
    for _ in range(options.rounds):
        ours.append(run_child("benchmarks.voice.frames_ours", _task(options, options.calls)).body)
        if has_peer:
            task = _task(options, options.peer_calls)
            peers.append(run_child("benchmarks.voice.frames_pipecat", task, interpreter=python).body)
    us, peer = _median(ours), _median(peers) if peers else None
    rows = [_row("Headrace", us), *([_row("Pipecat 1.14", peer)] if peer else [])]
    print_table("Frames of 20 ms through five pass-through stages, one core", _COLUMNS, rows)
    return Outcome(
        body={"ours": us, "pipecat": peer},
        bars={
            "cpu_us_a_frame_and_hop": at_most(us["cpu_us_a_frame_and_hop"], _COST_US_MAX),
            "calls_a_core": at_least(us["calls"], _CALLS_MIN),
            "late_ms_p99": at_most(us["late_ms_p99"], _LATE_MS_MAX),
        },
    )


_COLUMNS = ("", "calls", "µs CPU a frame and hop", "late ms p50", "late ms p99", "share of the core")


def _task(options: VoiceOptions, calls: int) -> dict[str, Any]:
    return {"calls": calls, "seconds": options.seconds}


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: rounded(statistics.median(run[name] for run in runs)) for name in runs[0]}


def _row(name: str, run: dict[str, Any]) -> list[str]:
    shown = ("calls", "cpu_us_a_frame_and_hop", "late_ms_p50", "late_ms_p99", "core_share")
    return [name, *(f"{run[figure]:g}" for figure in shown)]
