"""Jobs with the run times of a GPU cluster's trace, arriving at random at a chosen load."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.tables import number, read_rows
from headrace.errors import InvalidInput
from headrace.placement.demand import WHOLE, Demand

_COLUMNS = ("num_gpu", "gpu_milli", "scheduled_time", "deletion_time")
_RUN_SECONDS_MAX = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """One line of the trace that asked for a GPU, was scheduled and ended."""

    num_gpus: int
    gpu_milli: int
    run_seconds: float


@dataclass(frozen=True, kw_only=True)
class Job:
    """Times in seconds; `estimate_seconds` is all that a policy may see of the run time."""

    name: str
    demand: Demand
    arrival: float
    run_seconds: float
    estimate_seconds: float
    queue: str = "default"
    priority: int = 0

    @property
    def gpus(self) -> float:
        return self.demand.num_gpus * (self.demand.gpu_milli / WHOLE if self.demand.is_shared else 1.0)


def read_tasks(path: Path) -> list[Task]:
    """GPU tasks with both times; run time is deletion minus scheduling, one day at most.

    Raises:
        InvalidInput: no such file, other columns, a value that is no number, or not one usable task.
    """
    tasks = []
    for line, row in read_rows(path, _COLUMNS, "an openb pod list"):
        num_gpus, gpu_milli, began, ended = (number(path, line, row, column) for column in _COLUMNS)
        if num_gpus and row["scheduled_time"] and row["deletion_time"] and ended > began:
            run_seconds = min(float(ended - began), _RUN_SECONDS_MAX)
            tasks.append(Task(num_gpus=num_gpus, gpu_milli=gpu_milli or WHOLE, run_seconds=run_seconds))
    if not tasks:
        raise InvalidInput(f"{path} has no GPU task with both scheduled_time and deletion_time.")
    return tasks


def arrivals(
    tasks: Sequence[Task], *, seed: int, fleet_gpus: int, load: float, sigma: float, shares: bool
) -> list[Job]:
    """As many jobs as there are tasks, drawn with replacement, arriving by a Poisson process.

    Its rate makes the drawn jobs ask for `load` of the fleet's GPU-seconds. `sigma` 0: estimates are exact; else each
    is off by a lognormal factor, drawn last, so that arrivals are the same for every sigma.
    """
    random = np.random.default_rng(seed)
    drawn = [tasks[index] for index in random.integers(0, len(tasks), len(tasks))]
    demands = [
        Demand(num_gpus=task.num_gpus, gpu_milli=task.gpu_milli if shares and task.num_gpus == 1 else WHOLE)
        for task in drawn
    ]
    gpus = [demand.gpu_milli / WHOLE if demand.is_shared else demand.num_gpus for demand in demands]
    mean_gpu_seconds = float(np.mean([count * task.run_seconds for count, task in zip(gpus, drawn, strict=True)]))
    times = np.cumsum(random.exponential(mean_gpu_seconds / (load * fleet_gpus), len(drawn)))
    factors = np.exp(random.normal(0.0, sigma, len(drawn))) if sigma else np.ones(len(drawn))
    return [
        Job(
            name=f"{index:08d}",
            demand=demand,
            arrival=float(at),
            run_seconds=task.run_seconds,
            estimate_seconds=float(task.run_seconds * factor),
        )
        for index, (task, demand, at, factor) in enumerate(zip(drawn, demands, times, factors, strict=True))
    ]
