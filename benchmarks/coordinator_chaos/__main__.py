"""A real fleet under chaos: `python -m benchmarks.coordinator_chaos --runs 200 --kills 40 --seed 1`.

Four simulated GPUs, Dagster's daemon and a code server as processes, runs of mixed demand (none, whole, gangs,
fractions, by MiB; queues, priorities, preemptible ones; some leave processes behind in sessions of their own). Killed:
the daemon, processes of runs, the template that workers are forked from, the code server; and runs are canceled.
An observer that reads nothing but /proc adds up who is on which GPU, and each run locks its share while it works.

Prints a table, then one line of JSON. `violations`: a GPU was promised to more than it has, at any instant. `leaked`:
processes or promises left at the end, or four GPUs that nobody can get any more. `starved`: runs that waited longer
than 60 s while the daemon was up and the kernel knew of enough idle GPUs. `nonterminal`: runs that did not end as
SUCCESS, as CANCELED after a cancel, or as FAILURE after every retry or with every step done (a worker killed between
its last step's end and its own: Dagster retries from failure, and finds nothing to retry). Exit status 1: one of the
four is not zero. 2: it could not be started.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from threading import Event
from typing import Any

from benchmarks.measuring import Child, at_most, finish, parser_of, print_table, progress
from simulation.chaos.deployment import deployment
from simulation.chaos.fleet import Chaos, Verdict
from simulation.dagster_site import NotStarted

_PERIOD_SECONDS = 0.03


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("coordinator_chaos", __doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="ends by then, whatever has not ended; default: by --runs")
    parser.add_argument("--directory", type=Path, help="where the instance lies; it is kept. A temporary one otherwise")
    given = parser.parse_args(arguments)
    interrupted = Event()

    def interrupt(*_: object) -> None:
        # What is raised in the middle of a garbage collection is lost: the loop looks as well.
        interrupted.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headrace-chaos-") as temporary:
        try:
            verdict, chaos, observed = _watched(given.directory or Path(temporary), given, interrupted)
        except NotStarted as error:
            print(error, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("Interrupted; all processes of the benchmark have been ended.", file=sys.stderr)
            return 130
    for kind, sentences in vars(verdict).items():
        for sentence in sentences[:10]:
            progress.print(f"{kind}: {sentence}")
    counts = verdict.counts()
    rows = counts | {f"kill: {kind}": number for kind, number in chaos.kills.items()}
    rows |= {name: observed[name] for name in ("num_looks", "looks_per_s", "gap_seconds_max")}
    shown = [(name, str(number)) for name, number in rows.items()]
    print_table(f"Chaos: {given.runs} runs, seed {given.seed}", ("what", "number"), shown)
    seconds = round(time.monotonic() - began, 1)
    body = {**counts, "kills": dict(chaos.kills), "milli_max": observed["milli_max"], "seconds": seconds}
    return finish(body, {name: at_most(number, 0) for name, number in counts.items()}, given.json)


def _watched(directory: Path, given: argparse.Namespace, interrupted: Event) -> tuple[Verdict, Chaos, dict[str, Any]]:
    with deployment(directory) as site:
        observer = Child("simulation.chaos.observer", {"marker": site.marker, "period_seconds": _PERIOD_SECONDS})
        try:
            observer.wait_for("ready")
            chaos = Chaos(
                site=site,
                chance=random.Random(given.seed),
                num_runs=given.runs,
                num_kills=given.kills,
                time_limit_seconds=60 * given.minutes if given.minutes else 300.0 + 12.0 * given.runs,
                interrupted=interrupted,
                say=progress.print,
            )
            verdict = chaos.run()
            observer.say("end")
            observed = observer.result().body
        except BaseException:
            observer.kill()
            raise
    verdict.violations += [json.dumps(found) for found in observed["violations"]]
    return verdict, chaos, observed


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
