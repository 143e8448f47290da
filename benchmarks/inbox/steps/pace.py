"""Units in a closed loop, for each system's own process: so many at once, each of five steps; how many, and how long.

Standard library alone, since peers have interpreters of their own.
"""

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

NUM_STEPS = 5
# What a step makes: about as long as a turn event or a short answer.
_TEXT = "x" * 200


@dataclass(frozen=True)
class Task:
    """`address`: of the system's server, if it has one. `seconds` are measured after `warm_up_seconds`."""

    concurrency: int
    directory: str
    address: str
    warm_up_seconds: float
    seconds: float


def task_of_arguments() -> Task:
    return Task(**json.loads(sys.argv[1]))


def step_result(name: str, number: int) -> str:
    """What one step makes; no work of its own, so that what is measured is what keeps it."""
    return json.dumps({"unit": name, "step": number, "text": _TEXT})


def new_name() -> str:
    return os.urandom(12).hex()


class _Taken:
    def __init__(self, task: Task) -> None:
        self.begins = time.perf_counter() + task.warm_up_seconds
        self.ends = self.begins + task.seconds
        self.units: list[tuple[float, float]] = []

    def is_over(self) -> bool:
        return time.perf_counter() >= self.ends

    def add(self, began: float) -> None:
        now = time.perf_counter()
        self.units.append((now, now - began))

    def result(self) -> dict[str, Any]:
        found = [took for at, took in self.units if self.begins <= at < self.ends]
        return {"units": len(found), "milliseconds": [round(took * 1e3, 2) for took in found]}


async def run_units(task: Task, unit: Callable[[str], Awaitable[None]]) -> dict[str, Any]:
    """Runs units from `concurrency` tasks once the parent says so. `unit`: takes its name."""
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    taken = _Taken(task)

    async def worker() -> None:
        while not taken.is_over():
            began = time.perf_counter()
            await unit(new_name())
            taken.add(began)

    await asyncio.gather(*(worker() for _ in range(task.concurrency)))
    return taken.result()


def run_units_in_threads(task: Task, unit: Callable[[str], None]) -> dict[str, Any]:
    """As `run_units`, from threads. Raises: what a unit raised."""
    print("ready", flush=True)
    sys.stdin.readline()
    taken = _Taken(task)
    failed: list[BaseException] = []

    def worker() -> None:
        try:
            while not taken.is_over() and not failed:
                began = time.perf_counter()
                unit(new_name())
                taken.add(began)
        except BaseException as error:  # noqa: BLE001 (the measurement is worth nothing, and says so)
            failed.append(error)

    threads = [threading.Thread(target=worker) for _ in range(task.concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return taken.result()
