"""One version set for every unit of work, through any switch: `python -m benchmarks.version_switch --schedules 10000`.

Schedules of random switches, aborts, crashes, outages and a dead, slow or drifting registry run the real library over
simulated time, store and engines; an independent oracle checks twelve invariants on what each one left. Then real
gateways, workers and stores show how long an abort takes. A failed schedule prints its seed; `--seed N --schedules 1
--trace` runs it again and tells everything that happened.

`--planted` instead plants defects into the library, one at a time, and tells in how many schedules each is found.

Prints tables, then one line of JSON: `units`, `mixed`, `violations` by invariant, `resolve_p99_us`, `abort_live_s` (the
worst), `abort_bulk_units` (rows sealed late). What MLflow's aliases and Ray Serve do instead: docs/decisions/0023.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.measuring import Bars, at_most, finish, parser_of, print_table, progress, rounded, scratch, whole
from benchmarks.version_switch.simulated import INVARIANTS, Simulated, planted, simulate, trace

_NUM_FAILURES_SHOWN = 20
# An abort takes effect within a second, whatever the store does: as long as a plan lease runs.
_ABORT_LIVE_SECONDS_BAR = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("version_switch", __doc__)
    parser.add_argument("--schedules", type=whole(), default=200, help="how many (default 200)")
    parser.add_argument("--seed", type=whole(0), default=0, help="the first one's seed (default 0)")
    parser.add_argument("--trace", action="store_true", help="run the one schedule of --seed and tell what happened")
    parser.add_argument("--planted", action="store_true", help="only plant defects, and tell when each is found")
    parser.add_argument("--processes", type=whole(), default=2, help="that run schedules (default 2)")
    parser.add_argument("--simulation-only", action="store_true", help="without the real gateways, workers and stores")
    options = parser.parse_args(arguments)
    if arguments is None and os.environ.get("PYTHONHASHSEED") != "0":
        # The library goes through sets of text here and there, in an order that is otherwise another in every process.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.version_switch", *sys.argv[1:]])
    if options.trace:
        return trace(options.seed)
    if options.planted:
        return finish(*planted(), options.json)
    simulated = simulate(range(options.seed, options.seed + options.schedules), num_processes=options.processes)
    _show(simulated, options.schedules)
    body: dict[str, Any] = {
        "units": simulated.num_units,
        "mixed": simulated.num_mixed,
        "violations": {str(number): simulated.violations[number] for number in range(1, len(INVARIANTS) + 1)},
    }
    if not options.simulation_only:
        _add_real(body)
    return finish(body, _bars(body), options.json)


def _bars(body: dict[str, Any]) -> Bars:
    bars = {"mixed": at_most(body["mixed"], 0), "violations": at_most(sum(body["violations"].values()), 0)}
    if "abort_live_s" in body:
        bars["abort_live_s"] = at_most(body["abort_live_s"], _ABORT_LIVE_SECONDS_BAR)
        bars["abort_bulk_units"] = at_most(body["abort_bulk_units"], 0)
    return bars


def _show(simulated: Simulated, num_schedules: int) -> None:
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


def _add_real(body: dict[str, Any]) -> None:
    """Real gateways, workers and stores; their units count beside the simulated ones."""
    from benchmarks.version_switch.bulk import bulk_abort
    from benchmarks.version_switch.live import live_aborts, outage_aborts
    from benchmarks.version_switch.resolve import resolve_us

    with scratch("version-switch") as root:
        progress.print("resolving keys")
        plans = {"no cap": resolve_us(root / "resolve"), "capped": resolve_us(root / "capped", cap=10**6)}
        kinds = [*live_aborts(root / "live"), *outage_aborts(root / "outage")]
        bulk = [bulk_abort(root / f"bulk-{number}", num_batches=number) for number in (1, 3, 5)]
    print_table(
        "Resolving a unit's version set, µs",
        ["plan", "p50", "p99", "p99.9"],
        [[name, *(f"{figures[key]:.2f}" for key in ("p50", "p99", "p99.9"))] for name, figures in plans.items()],
    )
    late_rows = sum(one["late_rows"] for one in bulk)
    print_table(
        "Abort to the last new unit on the candidate: 3 gateways under load, seconds",
        ["store", "aborts", "median", "worst", "units", "mixed", "failed", "degraded"],
        [
            [
                aborts.kind,
                str(len(aborts.seconds)),
                f"{aborts.median:.3f}",
                f"{aborts.worst:.3f}",
                *(str(count) for count in (aborts.num_units, aborts.num_mixed, aborts.num_failed)),
                f"{aborts.num_degraded} of {len(aborts.seconds)}" if aborts.kind.startswith("503") else "",
            ]
            for aborts in kinds
        ],
        caption=f"Bulk: {late_rows} rows of the aborted set sealed after {len(bulk)} aborts of "
        f"{sum(one['units'] for one in bulk)} partitions in generation.",
    )
    body["units"] += sum(aborts.num_units for aborts in kinds) + sum(one["units"] for one in bulk)
    body["mixed"] += sum(aborts.num_mixed for aborts in kinds) + sum(one["mixed"] for one in bulk)
    body["resolve_p99_us"] = rounded(max(figures["p99"] for figures in plans.values()))
    body["abort_live_s"] = rounded(max(aborts.worst for aborts in kinds))
    body["abort_bulk_units"] = late_rows


if __name__ == "__main__":
    sys.exit(main())
