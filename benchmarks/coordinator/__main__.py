"""What the coordinator costs the daemon, beside Dagster's own: `python -m benchmarks.coordinator --queued 100,5000`.

Two scenes on SQLite, with Dagster's real daemon code and a launcher that starts nothing. *Idle*: CPU seconds of an
iteration that finds nothing to do, behind as many queued runs as `--queued` says; four GPUs are taken, and the stock
side holds the same runs by a tag limit. *Launches*: one iteration that launches 200 queued runs on 200 GPUs; the stock
side has no limits. Both sides are processes that take turns, so that whatever else the machine does meets both.

Prints a table, then one line of JSON: `idle_cpu_s` by number of queued runs, `launches_per_s` and, less sensitive to a
machine that others use, `launches_per_cpu_s`. Exit status 1: a bar is not met (idle with the most runs at most a tenth
of stock's, and at most twice that with the fewest; launches by CPU at least stock's).
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.coordinator.instance import Side
from benchmarks.measuring import (
    Child,
    ChildFailed,
    end_tidily_when_terminated,
    median,
    print_json,
    print_table,
    progress,
    rounded,
)

PURPOSE = "CPU of an idle iteration and launches a second of GpuRunCoordinator beside Dagster's QueuedRunCoordinator."
SIDES: tuple[Side, ...] = ("ours", "stock")
_IDLE_OF_STOCK_MAX = 0.1
_IDLE_GROWTH_MAX = 2.0
_LAUNCHES_A_STEP = 20


def taking_turns(directory: Path, task: dict[str, Any], num_steps: int) -> dict[Side, dict[str, Any]]:
    """What each side measured; both are warm before either begins."""
    quiet = {"DAGSTER_DAEMON_LOG_LEVEL": "ERROR"}
    children: dict[Side, Child] = {
        side: Child(
            "benchmarks.coordinator.side",
            {**task, "side": side, "directory": str(directory / side)},
            environment=quiet,
        )
        for side in SIDES
    }
    try:
        for child in children.values():
            child.wait_for("ready")
        for step in range(num_steps):
            for side in SIDES if step % 2 else reversed(SIDES):
                children[side].say("step")
                children[side].wait_for("done")
        for child in children.values():
            child.say("end")
        return {side: child.result().body for side, child in children.items()}
    except BaseException:
        for child in children.values():
            child.kill()
        raise


def idle_cpu_seconds(root: Path, num_queued: int, iterations: int) -> dict[Side, float]:
    task = {"scene": "idle", "queued": num_queued, "gpus": "4xH100:81559"}
    bodies = taking_turns(root / f"idle-{num_queued}", task, iterations)
    return {side: median(body["cpu_seconds"]) for side, body in bodies.items()}


def launch_rates(root: Path, num_runs: int, rounds: int) -> tuple[dict[Side, float], dict[Side, float]]:
    """Launches a CPU second and a wall second, of all rounds together."""
    cpu, wall = dict.fromkeys(SIDES, 0.0), dict.fromkeys(SIDES, 0.0)
    for number in range(rounds):
        task = {"scene": "launches", "queued": num_runs, "gpus": f"{num_runs}xH100:81559"}
        bodies = taking_turns(root / f"launches-{number}", task, -(-num_runs // _LAUNCHES_A_STEP) + 1)
        for side, body in bodies.items():
            cpu[side] += body["cpu_seconds"]
            wall[side] += body["wall_seconds"]
    total = num_runs * rounds
    return {side: total / cpu[side] for side in SIDES}, {side: total / wall[side] for side in SIDES}


def unmet(idle: dict[int, dict[Side, float]], launches: dict[Side, float]) -> list[str]:
    found = []
    if idle:
        fewest, most = min(idle), max(idle)
        if idle[most]["ours"] > _IDLE_OF_STOCK_MAX * idle[most]["stock"]:
            found.append(f"idle with {most:,} queued: more than {_IDLE_OF_STOCK_MAX:g} of stock's CPU")
        if idle[most]["ours"] > _IDLE_GROWTH_MAX * idle[fewest]["ours"]:
            found.append(f"idle with {most:,} queued: more than {_IDLE_GROWTH_MAX:g} times that with {fewest:,}")
    if launches and launches["ours"] < launches["stock"]:
        found.append("launches a CPU second: fewer than stock's")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coordinator", description=PURPOSE)
    parser.add_argument("--queued", type=_counts, default=[100, 1000, 5000], help="numbers of queued runs, by commas")
    parser.add_argument("--iterations", type=_positive, default=9, help="idle iterations of each, of which the median")
    parser.add_argument("--launches", type=int, default=200, help="runs that are launched in one iteration; 0: none")
    parser.add_argument("--rounds", type=_positive, default=2, help="how often they are")
    parser.add_argument(
        "--directory", type=Path, help="where the instances lie meanwhile; a new temporary one otherwise"
    )
    parser.add_argument("--json", type=Path, help="write the last line there as well")
    given = parser.parse_args(arguments)
    end_tidily_when_terminated()
    idle: dict[int, dict[Side, float]] = {}
    by_cpu: dict[Side, float] = {}
    by_wall: dict[Side, float] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="headrace-coordinator-", dir=given.directory) as root:
            for num_queued in given.queued:
                progress.print(f"idle, {num_queued:,} queued …")
                idle[num_queued] = idle_cpu_seconds(Path(root), num_queued, given.iterations)
            if given.launches:
                progress.print(f"{given.launches} launches, {given.rounds} times …")
                by_cpu, by_wall = launch_rates(Path(root), given.launches, given.rounds)
    except ChildFailed as error:
        print(error, file=sys.stderr)
        return 2
    rows = [
        (f"idle, {count:,} queued: CPU ms", *(f"{1000 * seconds[side]:.1f}" for side in SIDES), _ratio(seconds))
        for count, seconds in idle.items()
    ]
    if by_cpu:
        rows.append(
            (f"{given.launches} launches: a CPU second", *(f"{by_cpu[side]:.2f}" for side in SIDES), _ratio(by_cpu))
        )
        rows.append(
            (f"{given.launches} launches: a second", *(f"{by_wall[side]:.2f}" for side in SIDES), _ratio(by_wall))
        )
    failures = unmet(idle, by_cpu)
    print_table("Coordinator", ("scene", *SIDES, "ours / stock"), rows, caption="; ".join(failures))
    body = {
        "idle_cpu_s": {str(count): {side: rounded(seconds[side]) for side in SIDES} for count, seconds in idle.items()},
        "launches_per_s": {side: rounded(by_wall[side]) for side in SIDES} if by_wall else {},
        "launches_per_cpu_s": {side: rounded(by_cpu[side]) for side in SIDES} if by_cpu else {},
    }
    print_json(body, given.json)
    return 1 if failures else 0


def _ratio(values: dict[Side, float]) -> str:
    return f"{values['ours'] / values['stock']:.3f}"


def _counts(text: str) -> list[int]:
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(f"numbers of runs by commas, as 100,1000, got {text!r}") from None
    if counts[0] < 1:
        raise argparse.ArgumentTypeError(f"at least one run, got {text!r}")
    return counts


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number of at least 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
