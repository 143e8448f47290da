"""200 runs of 8 version sets on 4 simulated GPUs: how often models are loaded, and what waiting that costs.

Three cases, 20 seeds each. *mixed*: 25 partitions of each of 8 campaigns are queued at once, in a drawn order. *night*:
the same, one campaign after the other. *stream*: they arrive one by one, at a load of 0.85, loading not counted. A GPU
has room for one set, bringing one takes 40 s, and a run about 120 s: partitions are of one size, and differ by 10%.

- *ours*: the coordinator knows what is loaded where, and what each run needs.
- *today, hosts*: the same coordinator, told neither; a GPU still keeps what was loaded last, so it is lucky at times.
- *today*: no host keeps anything, so each run loads its set.

The lower bound of what is queued at once: each set is loaded once, and once more for each further GPU without which its
runs could not end when ours do. Of a stream there is none that anybody could reach without letting runs wait: shown is
what the best of all caches would load (Belady's, which knows all that comes), as if a GPU served any number at once.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.measuring import Bars, at_most, print_table, rounded
from benchmarks.parts import Options, Outcome
from benchmarks.residency.simulated_runs import Job, Result, Simulation

NUM_SETS, NUM_EACH, NUM_GPUS, NUM_SEEDS = 8, 25, 4, 20
_BRING_SECONDS, _WORK_SECONDS, _SPREAD, _LOAD = 40.0, 120.0, 0.1, 0.85


def run(given: Options, directory: Path) -> Outcome:
    body: dict[str, Any] = {}
    bars: Bars = {}
    for case, drawn, bound in (
        ("mixed", mixed, bound_at_once),
        ("night", night, bound_at_once),
        ("stream", stream, bound_of_caches),
    ):
        body[case] = figures = _measured(drawn, bound)
        _show(case, figures)
        if bound is bound_at_once:
            bars[f"runs_{case}_loads_over_bound"] = at_most(figures["ours"]["loads_over_bound"], 1.2)
        for wait in ("wait_mean_s", "wait_max_s"):
            ours, today = figures["ours"][wait], figures["today, hosts"][wait]
            bars[f"runs_{case}_{wait}_over_today"] = at_most(rounded(ours / today), 1.0)
    return Outcome(body=body, bars=bars)


def mixed(seed: int) -> list[Job]:
    return _drawn(random.Random(seed), lambda: 0.0)


def night(seed: int) -> list[Job]:
    return _drawn(random.Random(seed), lambda: 0.0, is_mixed=False)


def stream(seed: int) -> list[Job]:
    draw = random.Random(seed)
    rate = _LOAD * NUM_GPUS / _WORK_SECONDS
    return _drawn(draw, lambda: draw.expovariate(rate))


def _drawn(draw: random.Random, gap: Callable[[], float], *, is_mixed: bool = True) -> list[Job]:
    names = [f"set-{number}" for number in range(NUM_SETS) for _ in range(NUM_EACH)]
    if is_mixed:
        draw.shuffle(names)
    jobs, at = [], 0.0
    for number, name in enumerate(names):
        at += gap()
        seconds = _WORK_SECONDS * max(0.1, draw.gauss(1.0, _SPREAD))
        jobs.append(Job(name=f"{number:04d}", version_set=name, arrival=at, work_seconds=seconds))
    return jobs


def bound_at_once(jobs: Sequence[Job], ours: Result) -> int:
    work = dict.fromkeys((job.version_set for job in jobs), 0.0)
    for job in jobs:
        work[job.version_set] += job.work_seconds
    alone = ours.ends_at - _BRING_SECONDS
    return sum(max(1, -int(-seconds // alone)) for seconds in work.values())


def bound_of_caches(jobs: Sequence[Job], ours: Result) -> int:
    """Belady's cache of one set a GPU."""
    order = [job.version_set for job in jobs]
    held: set[str] = set()
    num_loads = 0
    for place, name in enumerate(order):
        if name in held:
            continue
        num_loads += 1
        if len(held) == NUM_GPUS:
            held.remove(max(sorted(held), key=lambda one: _next(order, one, place)))
        held.add(name)
    return num_loads


def _next(order: Sequence[str], name: str, place: int) -> int:
    return next((at for at in range(place, len(order)) if order[at] == name), len(order))


def _measured(drawn: Callable[[int], list[Job]], bound: Callable[[Sequence[Job], Result], int]) -> dict[str, Any]:
    found: dict[str, list[Result]] = {"ours": [], "today, hosts": [], "today": []}
    bounds: list[int] = []
    for seed in range(NUM_SEEDS):
        jobs = drawn(seed)
        alone = [
            Job(name=job.name, version_set=job.name, arrival=job.arrival, work_seconds=job.work_seconds) for job in jobs
        ]
        for side, todays, knows in (("ours", jobs, True), ("today, hosts", jobs, False), ("today", alone, False)):
            simulation = Simulation(todays, num_gpus=NUM_GPUS, bring_seconds=_BRING_SECONDS, knows_models=knows)
            found[side].append(simulation.run())
        bounds.append(bound(jobs, found["ours"][-1]))
    figures: dict[str, Any] = {side: _figures(results, bounds) for side, results in found.items()}
    return {"bound": rounded(mean(bounds)), **figures}


def _figures(results: Sequence[Result], bounds: Sequence[int]) -> dict[str, float]:
    return {
        "loads": rounded(mean(one.num_loads for one in results)),
        "loads_over_bound": rounded(sum(one.num_loads for one in results) / sum(bounds)),
        "wait_mean_s": rounded(mean(mean(one.waits) for one in results)),
        "wait_max_s": rounded(mean(max(one.waits) for one in results)),
        "ends_s": rounded(mean(one.ends_at for one in results)),
    }


def _show(case: str, figures: dict[str, Any]) -> None:
    print_table(
        f"{NUM_SETS * NUM_EACH} runs of {NUM_SETS} sets on {NUM_GPUS} GPUs: {case}",
        ["", "loads", "over bound", "mean wait s", "longest wait s", "all ended s"],
        [[side, *(f"{value:g}" for value in one.values())] for side, one in figures.items() if isinstance(one, dict)],
        caption=f"lower bound: {figures['bound']:g} loads; means of {NUM_SEEDS} seeds",
    )
