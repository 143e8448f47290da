"""A large synthetic fleet through the product's `plan`: what a plan costs, and that nothing is left behind."""

import heapq
import random
import time
from typing import Any

from benchmarks.measuring import progress
from headrace.placement.demand import Demand
from headrace.placement.inventory import Gpu, Inventory, Node
from headrace.placement.queueing import QueuePolicy, plan
from headrace.placement.snapshot import Running, Snapshot, Waiting

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


def simulate_fleet(*, num_nodes: int, num_runs: int, seed: int) -> dict[str, Any]:
    """Arrivals at a load of 1.02, so that a queue builds up; one plan every 30 simulated seconds, to the last end."""
    chosen = random.Random(seed)
    inventory = Inventory(nodes=tuple(_node(index) for index in range(num_nodes)))
    demands = chosen.choices([demand for _, demand in _SHAPES], [weight for weight, _ in _SHAPES], k=num_runs)
    gpus = sum(demand.num_gpus * (demand.gpu_milli / 1000 if demand.is_shared else 1) for demand in demands) / num_runs
    rate = _LOAD * inventory.num_gpus / (gpus * _RUN_SECONDS_MEAN)
    arrivals: list[tuple[float, Waiting, float]] = []
    at = 0.0
    for index, demand in enumerate(demands):
        at += chosen.expovariate(rate)
        seconds = min(86_400.0, chosen.lognormvariate(0.0, 1.0) * _RUN_SECONDS_MEAN / 1.65)
        waiting = Waiting(
            run_id=f"{index:08x}",
            demand=demand,
            submitted=at,
            expected_seconds=seconds * chosen.lognormvariate(0.0, 1.0),
            queue=chosen.choice(("interactive", "batch", "nightly")),
            priority=chosen.choice((0, 0, 0, 1)),
        )
        arrivals.append((at, waiting, seconds))
    policy = QueuePolicy(order="shortest_first", queue_weights={"interactive": 3.0}, reserve_after_seconds=3_600.0)
    return _simulated(inventory, arrivals, policy)


def _simulated(
    inventory: Inventory, arrivals: list[tuple[float, Waiting, float]], policy: QueuePolicy
) -> dict[str, Any]:
    seconds = {run.run_id: length for _, run, length in arrivals}
    waiting: dict[str, Waiting] = {}
    running: dict[str, Running] = {}
    ends: list[tuple[float, str]] = []
    plans, longest, waited_max, queue_max, next_arrival, now = [], 0.0, 0.0, 0, 0, 0.0
    began = time.process_time()
    promised = ()
    while next_arrival < len(arrivals) or waiting or running:
        now += _PLAN_EVERY_SECONDS
        while next_arrival < len(arrivals) and arrivals[next_arrival][0] <= now:
            waiting[arrivals[next_arrival][1].run_id] = arrivals[next_arrival][1]
            next_arrival += 1
        while ends and ends[0][0] <= now:
            del running[heapq.heappop(ends)[1]]
        queue_max = max(queue_max, len(waiting))
        if not waiting:
            continue
        snapshot = Snapshot(inventory=inventory, waiting=tuple(waiting.values()), running=tuple(running.values()))
        plan_began = time.process_time()
        decision = plan(snapshot, policy, now, promised)
        plans.append(time.process_time() - plan_began)
        promised = decision.reservations
        for run_id, placement in decision.admissions.items():
            run = waiting.pop(run_id)
            waited_max = max(waited_max, now - run.submitted)
            running[run_id] = Running(
                run_id=run_id,
                demand=run.demand,
                placement=placement,
                started=now,
                expected_seconds=run.expected_seconds,
                queue=run.queue,
                priority=run.priority,
            )
            heapq.heappush(ends, (now + seconds[run_id], run_id))
        longest = max(longest, plans[-1])
        if len(plans) % 50 == 0:
            progress.print(
                f"{now:,.0f} s simulated: {len(running)} run, {len(waiting)} wait, {sum(plans):.0f} CPU s in plans"
            )
    return {
        "num_nodes": len(inventory.nodes),
        "num_runs": len(arrivals),
        "num_plans": len(plans),
        "cpu_s": round(time.process_time() - began, 1),
        "plan_cpu_s_mean": round(sum(plans) / len(plans), 4),
        "plan_cpu_s_max": round(longest, 4),
        "queue_max": queue_max,
        "wait_max_s": round(waited_max, 1),
    }


def _node(index: int) -> Node:
    model = ("A100", "H100")[index % 2]
    return Node(
        name=f"node-{index:04d}",
        gpus=tuple(Gpu(device=str(device), model=model, memory_mib=81_559) for device in range(_GPUS_EACH)),
        cpu_milli=128_000,
        memory_mib=1_048_576,
    )
