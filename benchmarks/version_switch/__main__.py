"""One version set for every unit of work, through any switch: `python -m benchmarks.version_switch --schedules 10000`.

Schedules of random switches, aborts, crashes, outages and a dead, slow or drifting registry run the real library over
simulated time, store and engines; an independent oracle checks twelve invariants on what each one left. Then real
gateways, workers and stores show how long an abort takes. A failed schedule prints its seed; `--seed N --schedules 1
--trace` runs it again and tells everything that happened.

`--planted` instead plants defects into the library, one at a time, and tells in how many schedules each is found.

Prints tables, then one line of JSON: `units`, `mixed`, `violations` by invariant, `resolve_p99_us`, `abort_live_s` (the
worst), `abort_bulk_units` (rows sealed late), `peers`.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress

from benchmarks.measuring import print_json, print_table, progress, rounded
from benchmarks.version_switch.simulated import Simulated, simulate
from simulation.schedule import schedules

if TYPE_CHECKING:
    from simulation.planted import Defect, Found

PURPOSE = "Mixed units, broken invariants and late units of an aborted set, under random switches, crashes and outages."
INVARIANTS = (
    "atomic", "pinned", "monotone", "share", "capped", "rollback", "no going back", "partition",
    "registry-independent", "prepared", "audited", "crash-equal",
)  # fmt: skip
# Defects of which the oracle is to find each one, within 100 schedules.
NUM_PLANTED_MIN = 30
_NUM_FAILURES_SHOWN = 20


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if arguments is None and os.environ.get("PYTHONHASHSEED") != "0":
        # The library goes through sets of text here and there, in an order that is otherwise another in every process.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.version_switch", *sys.argv[1:]])
    if options.trace:
        return _trace(options.seed)
    if options.planted:
        return _planted()
    simulated = simulate(range(options.seed, options.seed + options.schedules), num_processes=options.processes)
    _show_simulated(simulated, options.schedules)
    body: dict[str, Any] = {
        "units": simulated.num_units,
        "mixed": simulated.num_mixed,
        "violations": {str(number): simulated.violations[number] for number in range(1, len(INVARIANTS) + 1)},
    }
    if not options.simulation_only:
        body |= _real(body)
    body["peers"] = _peers(options) if options.peers else {}
    print_json(body)
    is_kept = not body["mixed"] and not any(body["violations"].values())
    return 0 if is_kept else 1


def _trace(seed: int) -> int:
    with schedules() as prepared:
        ended = prepared.run(seed, trace=True)
    print("\n".join(ended.trace))
    for violation in ended.judged.violations:
        print(f"seed {seed}, invariant {violation.invariant}: {violation.what}")
    return 1 if ended.judged.violations else 0


def _planted() -> int:
    from simulation.planted import DEFECTS, NUM_TRIED_MAX, find

    found = []
    with schedules() as prepared, Progress(console=progress, transient=True) as bar:
        task = bar.add_task("defects", total=len(DEFECTS))
        for defect in DEFECTS:
            found.append((defect, find(prepared, defect)))
            bar.advance(task)
    print_table(
        f"Planted defects, and the schedules until each was found (at most {NUM_TRIED_MAX})",
        ["invariant", "defect", "schedules"],
        [
            [
                f"{defect.invariant} {INVARIANTS[defect.invariant - 1]}",
                defect.name,
                str(one.num_schedules or "not found"),
            ]
            for defect, one in found
        ],
    )
    body = planted_body(found)
    print_json(body)
    return 0 if all(bar["met"] for bar in body["bars"].values()) else 1


def planted_body(found: "Sequence[tuple[Defect, Found]]") -> dict[str, Any]:
    """What the line of JSON says, with each bar: what was found, what is asked, and whether that is met."""
    missed = sum(one.num_schedules is None for _, one in found)
    return {
        "schedules": {defect.name: one.num_schedules for defect, one in found},
        "bars": {
            "planted": {"value": len(found), "bar": NUM_PLANTED_MIN, "met": len(found) >= NUM_PLANTED_MIN},
            "planted_not_found": {"value": missed, "bar": 0, "met": not missed},
        },
    }


def _show_simulated(simulated: Simulated, num_schedules: int) -> None:
    counts = simulated.counts
    print_table(
        f"{num_schedules} schedules: {simulated.num_units} units, {simulated.num_mixed} mixed",
        ["invariant", "violations"],
        [[f"{number} {name}", str(simulated.violations[number])] for number, name in enumerate(INVARIANTS, 1)],
        caption=(
            f"{simulated.seconds:.0f} s; {counts['entries']} journal entries, {counts['turns']} session turns, "
            f"{counts['tries']} tries at partitions, {counts['killed']} processes killed, "
            f"{counts['stale writes refused']} stale writes refused, {counts['refused']} units refused with 503; "
            f"sealed within a second after an abort, by a worker that had just looked at the journal: "
            f"{simulated.num_raced}."
        ),
    )
    for seed, invariant, what in simulated.failures[:_NUM_FAILURES_SHOWN]:
        print(f"seed {seed}, invariant {invariant}: {what}")
    if simulated.failures:
        seed = simulated.failures[0][0]
        command = f"python -m benchmarks.version_switch --seed {seed} --schedules 1 --trace"
        print(f"Again, with everything that happened: {command}")


def _real(body: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.version_switch.bulk import bulk_abort
    from benchmarks.version_switch.live import live_aborts, outage_aborts
    from benchmarks.version_switch.resolve import resolve_us

    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        progress.print("resolving keys")
        plain, capped = resolve_us(root / "resolve"), resolve_us(root / "capped", cap=10**6)
        for name in ("live", "outage", *(f"bulk-{number}" for number in (1, 3, 5))):
            (root / name).mkdir()
        kinds = [*live_aborts(root / "live"), *outage_aborts(root / "outage")]
        bulk = [bulk_abort(root / f"bulk-{number}", num_batches=number) for number in (1, 3, 5)]
    print_table(
        "Resolving a unit's version set, µs",
        ["plan", "p50", "p99", "p99.9"],
        [
            [name, *(f"{figures[key]:.2f}" for key in ("p50", "p99", "p99.9"))]
            for name, figures in (("no cap", plain), ("capped", capped))
        ],
    )
    print_table(
        "Abort to the last new unit on the candidate: 3 gateways under load, seconds",
        ["store", "aborts", "median", "worst", "units", "mixed", "failed", "degraded"],
        [
            [
                aborts.kind,
                str(len(aborts.seconds)),
                f"{aborts.median:.3f}",
                f"{aborts.worst:.3f}",
                str(aborts.num_units),
                str(aborts.num_mixed),
                str(aborts.num_failed),
                f"{aborts.num_degraded} of {len(aborts.seconds)}" if aborts.kind.startswith("503") else "",
            ]
            for aborts in kinds
        ],
        caption=f"Bulk: {sum(one['late_rows'] for one in bulk)} rows of the aborted set sealed after {len(bulk)} "
        f"aborts of {sum(one['units'] for one in bulk)} partitions in generation.",
    )
    return {
        "units": body["units"] + sum(aborts.num_units for aborts in kinds) + sum(one["units"] for one in bulk),
        "mixed": body["mixed"] + sum(aborts.num_mixed for aborts in kinds) + sum(one["mixed"] for one in bulk),
        "resolve_p99_us": rounded(max(plain["p99"], capped["p99"])),
        "abort_live_s": rounded(max(aborts.worst for aborts in kinds)),
        "abort_bulk_units": sum(one["late_rows"] for one in bulk),
    }


def _peers(options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.version_switch.peers import compare

    return compare(options.ray_python)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.version_switch", description=PURPOSE)
    parser.add_argument("--schedules", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="the first one's seed (default 0)")
    parser.add_argument("--trace", action="store_true", help="run the one schedule of --seed and tell what happened")
    parser.add_argument("--planted", action="store_true", help="only plant defects, and tell when each is found")
    parser.add_argument("--processes", type=int, default=2, help="that run schedules (default 2)")
    parser.add_argument("--simulation-only", action="store_true", help="without the real gateways, workers and stores")
    parser.add_argument("--peers", action="store_true", help="MLflow's aliases and a composed Ray Serve app beside")
    parser.add_argument(
        "--ray-python", type=Path, help="interpreter of an environment with ray[serve]; by default this one"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
