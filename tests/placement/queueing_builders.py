"""Small fleets and runs for the tests of the queue; `ago` and `seconds` count from `NOW`."""

from collections.abc import Collection
from typing import Any

from headrace.placement.demand import WHOLE, Demand
from headrace.placement.inventory import Gpu, Inventory, Node
from headrace.placement.placements import GpuShare, HostShare, Placement
from headrace.placement.queueing import QueuePolicy
from headrace.placement.snapshot import Running, Waiting

NOW = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC
HOUR = 3600.0
# In order of submission, each run of a test would have waited so long.
FIFO_WAIT_SECONDS = 200.0
# Too long is 100 s for gangs, 200 s for others.
POLICY = QueuePolicy(gang_patience=0.5, patience=1.0)


def make_fleet(*num_gpus: int, sick: tuple[tuple[str, str], ...] = (), cpus: int = 64) -> Inventory:
    """Nodes node-a, node-b, … with that many GPUs each."""
    nodes = []
    for index, count in enumerate(num_gpus):
        name = f"node-{chr(ord('a') + index)}"
        gpus = tuple(
            Gpu(device=str(device), model="A100", memory_mib=40_000, healthy=(name, str(device)) not in sick)
            for device in range(count)
        )
        nodes.append(Node(name=name, gpus=gpus, cpu_milli=cpus * 1000, memory_mib=cpus * 4096))
    return Inventory(nodes=tuple(nodes))


def make_waiting(run_id: str, gpus: int = 1, *, ago: float = 0.0, seconds: float = 600.0, **fields: Any) -> Waiting:
    demand = fields.pop("demand", Demand(num_gpus=gpus, gang=fields.pop("gang", "node")))
    fields = {"fifo_wait_seconds": FIFO_WAIT_SECONDS, **fields}
    return Waiting(run_id=run_id, demand=demand, submitted=NOW - ago, expected_seconds=seconds, **fields)


def make_running(run_id: str, *devices: str, ago: float = 60.0, seconds: float = 600.0, **fields: Any) -> Running:
    """Holds whole devices named like `node-a:0`."""
    names = [device.split(":") for device in devices]
    return Running(
        run_id=run_id,
        demand=Demand(num_gpus=len(devices)),
        placement=Placement(gpus=tuple(GpuShare(node=node, device=device, milli=WHOLE) for node, device in names)),
        started=NOW - ago,
        expected_seconds=seconds,
        **fields,
    )


def make_cpu_running(run_id: str, node: str, cpus: int, *, ago: float = 60.0, seconds: float = 600.0) -> Running:
    return Running(
        run_id=run_id,
        demand=Demand(cpu_milli=cpus * 1000),
        placement=Placement(hosts=(HostShare(node=node, cpu_milli=cpus * 1000, memory_mib=0),)),
        started=NOW - ago,
        expected_seconds=seconds,
    )


def make_demand(num_gpus: int, milli: int, gpu_memory_mib: int, models: Collection[str], **more: Any) -> Demand:
    """Of drawn numbers: what goes only with a GPU, or with one alone, is left out without it."""
    return Demand(
        num_gpus=num_gpus,
        gpu_milli=milli if num_gpus == 1 else WHOLE,
        gpu_memory_mib=gpu_memory_mib if num_gpus else 0,
        gpu_models=frozenset(models) if num_gpus else frozenset(),
        **more,
    )
