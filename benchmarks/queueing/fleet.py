"""A large synthetic fleet through the product's `plan`: what a plan costs, and that nothing is left behind."""

import random
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.measuring import progress
from benchmarks.queueing.jobs import Job
from benchmarks.queueing.ours import Headrace
from benchmarks.queueing.simulation import Active, Choice, Queued, Simulation
from headrace.placement.demand import Demand
from headrace.placement.fleet import Fleet
from headrace.placement.inventory import Gpu, Inventory, Node
from headrace.placement.queueing import QueuePolicy

_PLAN_EVERY_SECONDS = 30.0
_RUN_SECONDS_MEAN = 1_500.0
_LOAD = 1.02
_GPUS_EACH = 8
_SHAPES = (
    (0.30, Demand(num_gpus=1, cpu_milli=8_000, memory_mib=32_768)),
    (0.25, Demand(num_gpus=1, gpu_milli=500, cpu_milli=4_000, memory_mib=16_384)),
    (0.15, Demand(num_gpus=1, gpu_milli=250, gpu_memory_mib=16_000, cpu_milli=2_000, memory_mib=8_192)),
    (0.10, Demand(num_gpus=2, cpu_milli=16_000, memory_mib=65_536)),
    (0.06, Demand(num_gpus=4, cpu_milli=32_000, memory_mib=131_072, gpu_models=frozenset({"H100"}))),
    (0.05, Demand(num_gpus=8, cpu_milli=64_000, memory_mib=262_144)),
    (0.02, Demand(num_gpus=16, gang="any", cpu_milli=128_000, memory_mib=524_288)),
    (0.07, Demand(cpu_milli=16_000, memory_mib=65_536)),
)


class Timed(Headrace):
    """Ours, with the CPU seconds of every plan. What it promises is not asked about: looking for that costs more."""

    def __init__(self, inventory: Inventory, policy: QueuePolicy) -> None:
        super().__init__(inventory, policy)
        self.plans: list[float] = []
        self.queue_max = 0

    def choose(self, now: float, fleet: Fleet, queue: Mapping[str, Queued], active: Mapping[str, Active]) -> Choice:
        began = time.process_time()
        choice = super().choose(now, fleet, queue, active)
        self.plans.append(time.process_time() - began)
        self.queue_max = max(self.queue_max, len(queue))
        if len(self.plans) % 50 == 0:
            spent = f"{sum(self.plans):.0f} CPU s in plans"
            progress.print(f"{now:,.0f} s simulated: {len(active)} run, {len(queue)} wait, {spent}")
        return replace(choice, reserved=(), look_again_at=None)


def simulate_fleet(*, num_nodes: int, num_runs: int, seed: int) -> dict[str, Any]:
    """Arrivals at a load of 1.02, so that a queue builds up; one plan every 30 simulated seconds, to the last end."""
    inventory = Inventory(nodes=tuple(_node(index) for index in range(num_nodes)))
    ours = Timed(
        inventory,
        QueuePolicy(order="shortest_first", queue_weights={"interactive": 3.0}),
    )
    jobs = _jobs(random.Random(seed), inventory, num_runs)
    began = time.process_time()
    waits = Simulation(inventory, jobs, ours, every_seconds=_PLAN_EVERY_SECONDS).run().waits
    return {
        "num_nodes": num_nodes,
        "num_runs": len(waits),
        "num_plans": len(ours.plans),
        "cpu_s": round(time.process_time() - began, 1),
        "plan_cpu_s_mean": round(sum(ours.plans) / len(ours.plans), 4),
        "plan_cpu_s_max": round(max(ours.plans), 4),
        "queue_max": ours.queue_max,
        "wait_max_s": round(float(waits.max()), 1),
    }


def _jobs(chosen: random.Random, inventory: Inventory, num_runs: int) -> list[Job]:
    demands = chosen.choices([demand for _, demand in _SHAPES], [weight for weight, _ in _SHAPES], k=num_runs)
    gpus = sum(demand.num_gpus * (demand.gpu_milli / 1000 if demand.is_shared else 1) for demand in demands) / num_runs
    rate = _LOAD * inventory.num_gpus / (gpus * _RUN_SECONDS_MEAN)
    jobs, at = [], 0.0
    for index, demand in enumerate(demands):
        at += chosen.expovariate(rate)
        seconds = min(86_400.0, chosen.lognormvariate(0.0, 1.0) * _RUN_SECONDS_MEAN / 1.65)
        jobs.append(
            Job(
                name=f"{index:08x}",
                demand=demand,
                arrival=at,
                run_seconds=seconds,
                estimate_seconds=seconds * chosen.lognormvariate(0.0, 1.0),
                queue=chosen.choice(("interactive", "batch", "nightly")),
                priority=chosen.choice((0, 0, 0, 1)),
            )
        )
    return jobs


def _node(index: int) -> Node:
    model = ("A100", "H100")[index % 2]
    return Node(
        name=f"node-{index:04d}",
        gpus=tuple(Gpu(device=str(device), model=model, memory_mib=81_559) for device in range(_GPUS_EACH)),
        cpu_milli=128_000,
        memory_mib=1_048_576,
    )
