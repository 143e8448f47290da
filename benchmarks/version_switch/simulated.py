"""Many schedules, in processes of their own, and what they broke; and planted defects, and when each was found."""

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from rich.progress import Progress, track

from benchmarks.measuring import Bars, at_least, at_most, print_table, progress
from simulation.schedule import Ended, schedules

if TYPE_CHECKING:
    from simulation.planted import Defect, Found

INVARIANTS = (
    "atomic", "pinned", "monotone", "share", "capped", "rollback", "no going back", "partition",
    "registry-independent", "prepared", "audited", "crash-equal",
)  # fmt: skip
# Defects of which the oracle is to find each one, within 100 schedules.
NUM_PLANTED_MIN = 30
_CHUNK = 50


@dataclass(kw_only=True)
class Simulated:
    """All schedules together. `failures`: (seed, invariant, what)."""

    num_units: int = 0
    num_mixed: int = 0
    num_raced: int = 0
    violations: Counter[int] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, int, str]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, ended: Ended) -> None:
        self.num_units += ended.judged.num_units
        self.num_mixed += ended.judged.num_mixed
        self.num_raced += ended.judged.num_raced
        self.counts += ended.counts
        for violation in ended.judged.violations:
            self.violations[violation.invariant] += 1
            self.failures.append((ended.seed, violation.invariant, violation.what))


def simulate(seeds: Sequence[int], *, num_processes: int) -> Simulated:
    """Run schedules, in processes of their own if there are many."""
    simulated, began = Simulated(), time.monotonic()
    chunks = [seeds[first : first + _CHUNK] for first in range(0, len(seeds), _CHUNK)]
    with (
        Progress(console=progress, transient=True) as bar,
        ProcessPoolExecutor(min(num_processes, len(chunks)), mp_context=get_context("spawn")) as processes,
    ):
        task = bar.add_task("schedules", total=len(seeds))
        for done in as_completed([processes.submit(run_seeds, chunk) for chunk in chunks]):
            for ended in done.result():
                simulated.add(ended)
                bar.advance(task)
    simulated.failures.sort()
    simulated.seconds = time.monotonic() - began
    return simulated


def run_seeds(seeds: Sequence[int]) -> list[Ended]:
    with schedules() as prepared:
        return [prepared.run(seed) for seed in seeds]


def trace(seed: int) -> int:
    """Runs one schedule, and says everything that happened in it."""
    with schedules() as prepared:
        ended = prepared.run(seed, trace=True)
    print("\n".join(ended.trace))
    for violation in ended.judged.violations:
        print(f"seed {seed}, invariant {violation.invariant}: {violation.what}")
    return 1 if ended.judged.violations else 0


def planted() -> tuple[dict[str, Any], Bars]:
    from simulation.planted import DEFECTS, NUM_TRIED_MAX, find

    with schedules() as prepared:
        found = [(defect, find(prepared, defect)) for defect in track(DEFECTS, "defects", console=progress)]
    print_table(
        f"Planted defects, and the schedules until each was found (at most {NUM_TRIED_MAX})",
        ["invariant", "defect", "schedules"],
        [
            [f"{one.invariant} {INVARIANTS[one.invariant - 1]}", one.name, str(when.num_schedules or "not found")]
            for one, when in found
        ],
    )
    return planted_result(found)


def planted_result(found: "Sequence[tuple[Defect, Found]]") -> tuple[dict[str, Any], Bars]:
    missed = sum(one.num_schedules is None for _, one in found)
    bars = {"planted": at_least(len(found), NUM_PLANTED_MIN), "planted_not_found": at_most(missed, 0)}
    return {"schedules": {defect.name: one.num_schedules for defect, one in found}}, bars
