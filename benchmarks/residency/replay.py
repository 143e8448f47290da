"""A trace of image requests on simulated workers: `python -m benchmarks.residency --only replay --trace FILE`.

- switches: load 0.70, Poisson arrivals; a worker holds one checkpoint, and brings another in 22 s.
- parts: the same with checkpoints of 22.7 s, their LoRAs of 4.4 s and a ControlNet of 3.9 s, each brought by itself, or
  all that a request needs as one.
- sizes: load 0.85, Poisson arrivals; nothing is brought, every worker can do every request. Ours is told how long one
  will take, by earlier requests' fields.
- bursts: load 0.70, the trace's own arrivals, all shortened or lengthened alike; 22 s a switch.

The load is the requests' own seconds for each second of all workers. Ours is the table of an engine host
(`headrace.engines.host.residents`), each worker a place with memory for one checkpoint, asked and told as a host does
it. In `parts` a worker has memory for a checkpoint, the ControlNet and six LoRAs either way. Means and 99th percentiles
are of the seconds from a request's arrival to its end. Each bar is the median over the seeds, which draw arrivals,
parts and ties, of the ratio in one seed.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.measuring import at_most, median, print_table, progress, rounded
from benchmarks.parts import Outcome
from benchmarks.residency.given import Given
from benchmarks.residency.image_trace import Job, at_own_times, at_poisson_times, read_jobs, with_parts
from benchmarks.residency.ours import Asked, Brought, Simulated
from benchmarks.residency.outcome import Figures
from benchmarks.residency.peers import PEERS, Fleet
from benchmarks.residency.predicting import Predictor
from headrace.errors import InvalidInput

LOAD, HIGH_LOAD = 0.70, 0.85
SWITCH_SECONDS = 22.0
_CHECKPOINT = Brought(seconds=22.7, mib=6600)
_LORA = Brought(seconds=4.4, mib=200, is_part=True)
_CONTROLNET = Brought(seconds=3.9, mib=2400, is_part=True)
# A checkpoint, the ControlNet and six LoRAs, with what a table adds to what was measured.
_WORKER_MIB = 11_000
_ANY = "any checkpoint"

# Case, then policy, then one for each seed.
Found = dict[str, dict[str, list[Figures]]]


def run(given: Given, directory: Path) -> Outcome:
    """Raises: InvalidInput: no trace was given, or it cannot be read."""
    if given.trace is None:
        raise InvalidInput("replay needs --trace FILE, a table of image requests (cluster-trace-v2026-GenAI).")
    jobs = read_jobs(given.trace)
    found: Found = {}
    started = time.process_time()
    for seed in range(given.seeds):
        for case, policies in CASES.items():
            progress.print(f"replay: {case}, seed {seed}")
            for policy, figures in policies(jobs, given.workers, seed).items():
                found.setdefault(case, {}).setdefault(policy, []).append(figures)
    for case, by_policy in found.items():
        _print(case, by_policy)
    ratios = {name: rounded(_ratio(found, *of)) for name, (_, *of) in BARS.items()}
    return Outcome(
        body={
            "num_requests": len(jobs),
            "cpu_seconds": rounded(time.process_time() - started),
            "medians": {
                case: {policy: _medians(seeds) for policy, seeds in by_policy.items()}
                for case, by_policy in found.items()
            },
        },
        bars={f"replay_{name}": at_most(ratios[name], bar) for name, (bar, *_) in BARS.items()},
    )


# Bar, case, policy, over which one, figure.
BARS: dict[str, tuple[float, str, str, str, str]] = {
    "mean": (0.5, "switches", "ours", "central_affinity_16", "mean"),
    "p99": (0.55, "switches", "ours", "central_affinity_16", "p99"),
    "parts_mean": (0.8, "parts", "ours", "ours, whole", "mean"),
    "sizes_wait_mean": (0.82, "sizes", "ours", "jsq", "wait_mean"),
    "sizes_wait_p99": (1.0, "sizes", "ours", "jsq", "wait_p99"),
    "bursts_mean": (0.6, "bursts", "ours", "jsq", "mean"),
    "bursts_longest_wait": (1.2, "bursts", "ours", "jsq", "wait_max"),
}


def switches(jobs: Sequence[Job], num_workers: int, seed: int) -> dict[str, Figures]:
    timed = at_poisson_times(jobs, num_workers=num_workers, load=LOAD, draw=random.Random(seed))
    return {"ours": with_checkpoints(timed, num_workers)} | {
        name: peer(timed, Fleet(num_workers, SWITCH_SECONDS, random.Random(seed))) for name, peer in PEERS.items()
    }


def parts(jobs: Sequence[Job], num_workers: int, seed: int) -> dict[str, Figures]:
    timed = at_poisson_times(jobs, num_workers=num_workers, load=LOAD, draw=random.Random(seed))
    named = list(with_parts(timed, random.Random(seed)))
    apart = {part: _part(part) for job in named for part in job.parts} | {job.checkpoint: _CHECKPOINT for job in named}
    whole = {_whole(job): _all_of(job) for job in named}
    return {
        "ours": Simulated(
            num_workers=num_workers,
            worker_mib=_WORKER_MIB,
            brought=apart,
            asked=lambda job: Asked(key=job.checkpoint, parts=job.parts),
        ).replayed(named),
        "ours, whole": Simulated(
            num_workers=num_workers, worker_mib=_WORKER_MIB, brought=whole, asked=lambda job: Asked(key=_whole(job))
        ).replayed(named),
    }


def sizes(jobs: Sequence[Job], num_workers: int, seed: int) -> dict[str, Figures]:
    timed = at_poisson_times(jobs, num_workers=num_workers, load=HIGH_LOAD, draw=random.Random(seed))
    predictor = Predictor()
    ours = Simulated(
        num_workers=num_workers,
        worker_mib=_WORKER_MIB,
        brought={_ANY: Brought(seconds=0.0, mib=_CHECKPOINT.mib)},
        asked=lambda job: Asked(key=_ANY, told_seconds=predictor.seconds(job)),
        has_ended=predictor.has_ended,
    )
    return {"ours": ours.replayed(timed)} | {
        name: PEERS[name](timed, Fleet(num_workers, 0.0, random.Random(seed))) for name in ("jsq", "least_work")
    }


def bursts(jobs: Sequence[Job], num_workers: int, seed: int) -> dict[str, Figures]:
    timed = at_own_times(jobs, num_workers=num_workers, load=LOAD)
    return {"ours": with_checkpoints(timed, num_workers)} | {
        name: PEERS[name](timed, Fleet(num_workers, SWITCH_SECONDS, random.Random(seed)))
        for name in ("jsq", "central_affinity_16")
    }


CASES: dict[str, Callable[[Sequence[Job], int, int], dict[str, Figures]]] = {
    "switches": switches,
    "parts": parts,
    "sizes": sizes,
    "bursts": bursts,
}


def with_checkpoints(jobs: Sequence[Job], num_workers: int) -> Figures:
    return Simulated(
        num_workers=num_workers,
        worker_mib=_WORKER_MIB,
        brought={job.checkpoint: Brought(seconds=SWITCH_SECONDS, mib=_CHECKPOINT.mib) for job in jobs},
        asked=lambda job: Asked(key=job.checkpoint),
    ).replayed(jobs)


def _part(name: str) -> Brought:
    return _LORA if name.startswith("lora") else _CONTROLNET


def _whole(job: Job) -> str:
    return " + ".join((job.checkpoint, *job.parts))


def _all_of(job: Job) -> Brought:
    brought = [_CHECKPOINT, *map(_part, job.parts)]
    return Brought(seconds=sum(one.seconds for one in brought), mib=sum(one.mib for one in brought))


def _ratio(found: Found, case: str, policy: str, over: str, figure: str) -> float:
    pairs = zip(found[case][policy], found[case][over], strict=True)
    return median(getattr(one, figure) / getattr(other, figure) for one, other in pairs)


def _medians(seeds: Sequence[Figures]) -> dict[str, float]:
    return {name: rounded(median(getattr(one, name) for one in seeds)) for name in asdict(seeds[0])}


def _print(case: str, by_policy: dict[str, list[Figures]]) -> None:
    medians = {policy: _medians(seeds) for policy, seeds in by_policy.items()}
    columns = list(next(iter(medians.values())))
    print_table(
        f"{case}: seconds from arrival to end, and until work begins",
        ["policy", *columns],
        [[policy, *(f"{figures[name]:,.0f}" for name in columns)] for policy, figures in medians.items()],
        caption="Medians of the seeds.",
    )
