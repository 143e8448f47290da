"""Many schedules, in processes of their own, and what they broke."""

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context

from rich.progress import Progress

from benchmarks.measuring import progress
from simulation.schedule import Ended, schedules

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
    with Progress(console=progress, transient=True) as bar:
        task = bar.add_task("schedules", total=len(seeds))
        if len(chunks) == 1 or num_processes == 1:
            for ended in (ended for chunk in chunks for ended in run_seeds(chunk)):
                simulated.add(ended)
                bar.advance(task)
        else:
            with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as processes:
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
