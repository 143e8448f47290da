"""Queues jobs of a GPU cluster's trace for one pool of GPUs, as the known policies do and as Headrace does.

`python -m benchmarks.queueing --pods openb_pod_list_default.csv`. The protocol:

- Jobs are the GPU tasks of the pod list that have both times; run time is deletion minus scheduling, one day at most.
  As many as there are tasks are drawn with replacement by seed (0, 1, …) and arrive by a Poisson process at `--load`.
- The fleet is one pool of `--gpus` GPUs. A job takes whole GPUs, and any; a task of a part of a GPU counts as one
  (`--shares`: it takes its part, of one device, under every policy).
- Estimates are off by a lognormal factor of sigma 1, the same for all policies; `--exact`: they are right.
- Placement is the same for all; only the order differs. `headrace` and `headrace_no_preemption` are the product's
  `plan`, asked at every arrival and every end, shortest first; `headrace_default` is what it does unless it is told
  otherwise. With preemption, jobs of one GPU or less may be stopped; a stopped job does its last 60 s again, and all
  the time until it ends in which it does not run counts as waiting.
- A wait is reported as the mean over seeds of the mean and of the 99th percentile, and the worst over all seeds.
  `big`: jobs of two GPUs or more. Redone work is a share of all GPU-seconds.
- Pushed back, in seconds, the worst: when a policy first keeps a place for a job, T0 is the first instant at which what
  is free, and what those that run then release when they really end, will do for it; start minus T0, or 0.

With exact estimates, the first seed's EASY waits 12,167 s in the mean, 48,125 s at worst for big jobs.

`--sets 40` instead: sets of five seeds, drawn from seeds 5 to 54. In each set a policy's mean wait is compared with
EASY's; and the mean over its seeds of the worst wait, with EASY's. That tells how often a promise holds, where the
worst of five seeds tells little: two correct EASYs differ in it by up to 1.39 times. A seed's result is kept in the
file `--kept`, so that a run goes on where it was stopped; the bars are for sets. `--picture F` draws the queue over
time on the seed of these on which EASY waits longest: ours beside EASY and shortest first.

`--fleet-simulation` instead: 1,000 nodes and 100,000 synthetic runs through the product's `plan`, with its CPU time.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.measuring import (
    Bars,
    at_least,
    at_most,
    finish,
    parser_of,
    print_table,
    progress,
    rounded,
    some_of,
    whole,
)
from benchmarks.queueing.fleet import simulate_fleet
from benchmarks.queueing.jobs import Task, arrivals, read_tasks
from benchmarks.queueing.picture import FORMATS
from benchmarks.queueing.policies import POLICIES, pool_of
from benchmarks.queueing.sets import draw_seed, run_sets
from benchmarks.queueing.simulation import Outcome, Simulation
from headrace.errors import InvalidInput

_KEPT = Path(".headrace/benchmarks/queueing.jsonl")
# Of one run of `--seeds`; sets have easy_sjbf and sjf beside them.
_COMPARED = ["headrace", "headrace_no_preemption", "fifo", "best_effort", "easy"]
_COMPARED_BY_SETS = [
    "headrace",
    "headrace_no_preemption",
    "headrace_default",
    "best_effort",
    "easy",
    "easy_sjbf",
    "sjf",
]
_NUM_SEEDS = 5
_SIGMA = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.fleet_simulation:
        found = simulate_fleet(num_nodes=options.nodes, num_runs=options.runs, seed=0)
        return finish(found, {"ended": at_least(found["num_runs"], options.runs)}, options.json)
    try:
        tasks = read_tasks(options.pods)
    except InvalidInput as error:
        print(error, file=sys.stderr)
        return 1
    if options.sets:
        body, bars = run_sets(
            tasks,
            num_sets=options.sets,
            num_gpus=options.gpus,
            load=options.load,
            kept=options.kept,
            pods=options.pods,
            policies=list(dict.fromkeys([*(options.policies or _COMPARED_BY_SETS), "easy"])),
        )
        if options.picture:
            draw_seed(options.picture, tasks, body["most_congested_seed"], options.gpus, options.load)
        return finish(body, bars, options.json)
    results = {name: _measured(name, tasks, options) for name in options.policies or _COMPARED}
    print_table(
        f"Waits in seconds, {options.gpus} GPUs, load {options.load}, {options.seeds} seeds, "
        f"{'exact' if options.exact else 'noisy'} estimates",
        ["policy", "mean", "p99", "worst ≥2 GPUs", "worst", "pushed back", "redone %"],
        [
            [
                name,
                *(f"{result[column]:,.0f}" for column in ("mean_wait", "p99_wait", "big_max_wait", "max_wait")),
                f"{result['pushed_back']:,.1f}",
                f"{100 * result['redone']:.3f}",
            ]
            for name, result in results.items()
        ],
    )
    return finish(results, bars_of(results, num_seeds=options.seeds), options.json)


def bars_of(results: dict[str, dict[str, float]], *, num_seeds: int) -> Bars:
    """Nothing is pushed back; and on the five seeds that they hold on, gangs wait no longer than under EASY."""
    ours = {name: result for name, result in results.items() if name.startswith("headrace")}
    bars = {f"pushed_back_{name}": at_most(result["pushed_back"], 0.0) for name, result in ours.items()}
    if num_seeds >= _NUM_SEEDS and (easy := results.get("easy")):
        for name, result in ours.items():
            for wait in ("mean_wait", "big_max_wait"):
                bars[f"{wait}_of_easy_{name}"] = at_most(rounded(result[wait] / easy[wait]), 1.0)
    return bars


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("queueing", __doc__)
    parser.add_argument("--pods", type=Path, metavar="F", help="an openb pod list (CSV)")
    parser.add_argument("--seeds", type=whole(), default=_NUM_SEEDS, metavar="N", help="how many draws, from seed 0 on")
    parser.add_argument("--policies", type=some_of(POLICIES), metavar="P,…", help=f"of {', '.join(POLICIES)}")
    parser.add_argument("--gpus", type=whole(), default=32, metavar="N", help="of the pool")
    parser.add_argument("--load", type=float, default=0.9, metavar="L", help="of the pool by what arrives")
    parser.add_argument("--sets", type=whole(0), default=0, metavar="N", help="so many sets of five seeds, 5 to 54")
    parser.add_argument("--kept", type=Path, default=_KEPT, metavar="F", help="where the results of seeds are kept")
    parser.add_argument("--picture", type=_picture, metavar="F", help=f"with --sets; one of {', '.join(FORMATS)}")
    parser.add_argument("--exact", action="store_true", help="estimates are right")
    parser.add_argument("--shares", action="store_true", help="a part of a GPU is a part, not a whole one")
    parser.add_argument("--fleet-simulation", action="store_true", help="1,000 nodes, 100,000 runs; needs no file")
    parser.add_argument("--nodes", type=whole(), default=1_000, metavar="N", help="of the fleet simulation (1000)")
    parser.add_argument("--runs", type=whole(), default=100_000, metavar="N", help="of the fleet simulation (100000)")
    options = parser.parse_args(arguments)
    if not options.pods and not options.fleet_simulation:
        parser.error("--pods F or --fleet-simulation is needed")
    if options.picture and not options.sets:
        parser.error("--picture is of the most congested seed of several sets: give --sets N, too")
    return options


def _picture(text: str) -> Path:
    """Asked before hours of simulation, not after them."""
    path = Path(text)
    if path.suffix not in FORMATS:
        raise argparse.ArgumentTypeError(f"must end with one of {', '.join(FORMATS)}, got {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"must be in a directory that exists, got {text!r}")
    return path


def _measured(name: str, tasks: Sequence[Task], options: argparse.Namespace) -> dict[str, float]:
    outcomes = []
    for seed in range(options.seeds):
        jobs = arrivals(
            tasks,
            seed=seed,
            fleet_gpus=options.gpus,
            load=options.load,
            sigma=0.0 if options.exact else _SIGMA,
            shares=options.shares,
        )
        began = time.process_time()
        pool = pool_of(options.gpus)
        outcome = Simulation(pool, jobs, POLICIES[name](pool)).run()
        outcomes.append(outcome)
        progress.print(
            f"{name} seed {seed}: mean wait {outcome.waits.mean():,.0f} s, "
            f"{outcome.num_stops} stopped, {time.process_time() - began:.0f} CPU s"
        )
    return summary(outcomes)


def summary(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Over seeds: means of means and of percentiles, the worst of the worst."""
    big = [outcome.waits[outcome.is_big] for outcome in outcomes]
    return {
        "mean_wait": round(float(np.mean([outcome.waits.mean() for outcome in outcomes])), 1),
        "p99_wait": round(float(np.mean([np.percentile(outcome.waits, 99) for outcome in outcomes])), 1),
        "big_max_wait": round(max((float(waits.max()) for waits in big if len(waits)), default=0.0), 1),
        "max_wait": round(max(float(outcome.waits.max()) for outcome in outcomes), 1),
        # Sums of floats: a start at T0 may be a few nanoseconds off.
        "pushed_back": round(max((float(outcome.pushes.max(initial=0.0)) for outcome in outcomes), default=0.0), 3),
        "redone": round(float(np.mean([outcome.redone for outcome in outcomes])), 6),
    }


if __name__ == "__main__":
    raise SystemExit(main())
