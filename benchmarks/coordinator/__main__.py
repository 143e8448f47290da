"""What the coordinator costs the daemon, beside Dagster's own: `python -m benchmarks.coordinator --queued 100,5000`.

Two scenes on SQLite, with Dagster's real daemon code and a launcher that starts nothing. *Idle*: CPU seconds of an
iteration that finds nothing to do, behind as many queued runs as `--queued` says; four GPUs are taken, and the stock
side holds the same runs by a tag limit. Beside them stands the stock daemon at its cap of one run, which reads the runs
under way and not the queue: nothing is cheaper. *Launches*: one iteration that launches 200 queued runs on 200 GPUs;
the stock side has no limits. The sides are processes that take turns, so that whatever else the machine does meets all.

Prints a table, then one line of JSON: `idle_cpu_s` by number of queued runs, `launches_per_s` and, less sensitive to a
machine that others use, `launches_per_cpu_s`. Exit status 1: a bar is not met (idle with the most runs at most a tenth
of stock's, at most 4 ms, and at most twice that with the fewest; launches by CPU at least stock's).
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.coordinator.instance import Side
from benchmarks.measuring import (
    Bars,
    Child,
    ChildFailed,
    at_least,
    at_most,
    by_commas,
    finish,
    median,
    parser_of,
    print_table,
    progress,
    rounded,
    scratch,
    whole,
)

SIDES: tuple[Side, ...] = ("ours", "stock")
IDLE_SIDES: tuple[Side, ...] = (*SIDES, "stock at its cap")
Figures = dict[Side, float]
_IDLE_OF_STOCK_MAX = 0.1
_IDLE_GROWTH_MAX = 2.0
# What the stock daemon takes that is at its cap, and a little.
_IDLE_MS_MAX = 4.0
_LAUNCHES_A_STEP = 20


def taking_turns(
    directory: Path, task: dict[str, Any], num_steps: int, sides: Sequence[Side] = SIDES
) -> dict[Side, dict[str, Any]]:
    """What each side measured; all are warm before any begins."""
    quiet = {"DAGSTER_DAEMON_LOG_LEVEL": "ERROR"}
    children: dict[Side, Child] = {
        side: Child(
            "benchmarks.coordinator.side",
            {**task, "side": side, "directory": str(directory / side.replace(" ", "-"))},
            environment=quiet,
        )
        for side in sides
    }
    try:
        for child in children.values():
            child.wait_for("ready")
        for step in range(num_steps):
            for side in sides if step % 2 else reversed(sides):
                children[side].say("step")
                children[side].wait_for("done")
        for child in children.values():
            child.say("end")
        return {side: child.result().body for side, child in children.items()}
    except BaseException:
        for child in children.values():
            child.kill()
        raise


def idle_cpu_seconds(root: Path, num_queued: int, iterations: int) -> Figures:
    progress.print(f"idle, {num_queued:,} queued …")
    task = {"scene": "idle", "queued": num_queued, "gpus": "4xH100:81559"}
    bodies = taking_turns(root / f"idle-{num_queued}", task, iterations, IDLE_SIDES)
    return {side: median(body["cpu_seconds"]) for side, body in bodies.items()}


def launch_rates(root: Path, num_runs: int, rounds: int) -> dict[str, Figures]:
    """Launches a CPU second and a wall second, of all rounds together."""
    progress.print(f"{num_runs} launches, {rounds} times …")
    seconds = {kind: dict.fromkeys(SIDES, 0.0) for kind in ("cpu", "wall")}
    for number in range(rounds):
        task = {"scene": "launches", "queued": num_runs, "gpus": f"{num_runs}xH100:81559"}
        bodies = taking_turns(root / f"launches-{number}", task, -(-num_runs // _LAUNCHES_A_STEP) + 1)
        for side, body in bodies.items():
            for kind, total in seconds.items():
                total[side] += body[f"{kind}_seconds"]
    return {kind: {side: num_runs * rounds / total[side] for side in SIDES} for kind, total in seconds.items()}


def bars_of(idle: dict[int, Figures], launches_per_cpu_s: Figures) -> Bars:
    bars = {}
    if idle:
        fewest, most = idle[min(idle)], idle[max(idle)]
        bars["idle_of_stock"] = at_most(rounded(most["ours"] / most["stock"]), _IDLE_OF_STOCK_MAX)
        bars["idle_cpu_ms"] = at_most(rounded(1000 * most["ours"]), _IDLE_MS_MAX)
        bars["idle_growth"] = at_most(rounded(most["ours"] / fewest["ours"]), _IDLE_GROWTH_MAX)
    if launches_per_cpu_s:
        ratio = rounded(launches_per_cpu_s["ours"] / launches_per_cpu_s["stock"])
        bars["launches_of_stock"] = at_least(ratio, 1.0)
    return bars


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("coordinator", __doc__)
    parser.add_argument(
        "--queued", type=by_commas(whole()), default=[100, 1000, 5000], help="numbers of queued runs, by commas"
    )
    parser.add_argument("--iterations", type=whole(), default=9, help="idle iterations of each, of which the median")
    parser.add_argument("--launches", type=whole(0), default=200, help="runs that one iteration launches; 0: none")
    parser.add_argument("--rounds", type=whole(), default=2, help="how often they are")
    parser.add_argument("--directory", type=Path, help="where the instances lie meanwhile; else a new temporary one")
    given = parser.parse_args(arguments)
    try:
        with scratch("coordinator", given.directory) as root:
            idle = {count: idle_cpu_seconds(root, count, given.iterations) for count in sorted(set(given.queued))}
            rates = launch_rates(root, given.launches, given.rounds) if given.launches else {"cpu": {}, "wall": {}}
    except ChildFailed as error:
        print(error, file=sys.stderr)
        return 2
    rows = [_row(f"idle, {count:,} queued: CPU ms", one, 1000, 1) for count, one in idle.items()]
    if given.launches:
        rows.append(_row(f"{given.launches} launches: a CPU second", rates["cpu"], 1, 2))
        rows.append(_row(f"{given.launches} launches: a second", rates["wall"], 1, 2))
    print_table("Coordinator", ("scene", *IDLE_SIDES, "ours / stock"), rows)
    body = {
        "idle_cpu_s": {str(count): _stated(seconds) for count, seconds in idle.items()},
        "launches_per_s": _stated(rates["wall"]),
        "launches_per_cpu_s": _stated(rates["cpu"]),
    }
    return finish(body, bars_of(idle, rates["cpu"]), given.json)


def _row(name: str, one: Figures, factor: int, digits: int) -> tuple[str, ...]:
    cells = (f"{factor * one[side]:.{digits}f}" if side in one else "" for side in IDLE_SIDES)
    return (name, *cells, f"{one['ours'] / one['stock']:.3f}")


def _stated(one: Figures) -> dict[str, float]:
    return {side: rounded(value) for side, value in one.items()}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
