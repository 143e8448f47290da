"""Machines and tasks of the openb tables, as an inventory and demands."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks.tables import number, per_cent, read_rows
from headrace.errors import InvalidInput
from headrace.placement.demand import WHOLE, Demand
from headrace.placement.inventory import Gpu, Inventory, Node

_NODE_COLUMNS = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
_TASK_COLUMNS = ("cpu_milli", "memory_mib", "num_gpu", "gpu_milli")
_LIST_PREFIX = "openb_pod_list_"
_PUBLISHED_LOADS = ("95", "130")


def list_name(path: Path) -> str:
    """openb_pod_list_X.csv is the list X."""
    return path.stem.removeprefix(_LIST_PREFIX)


def read_nodes(path: Path) -> Inventory:
    """Raises: InvalidInput: no such file, other columns, a value that is no number, no GPU."""
    nodes = []
    for line, row in read_rows(path, _NODE_COLUMNS, "an openb node list"):
        gpus = tuple(
            Gpu(device=str(device), model=row["model"], memory_mib=0)
            for device in range(number(path, line, row, "gpu"))
        )
        host = {column: number(path, line, row, column) for column in ("cpu_milli", "memory_mib")}
        nodes.append(Node(name=row["sn"], gpus=gpus, **host))
    inventory = Inventory(nodes=tuple(nodes))
    if not inventory.num_gpus:
        raise InvalidInput(f"{path} has no node with a GPU.")
    return inventory


def read_published(path: Path, policy: str) -> dict[str, dict[str, float]]:
    """What a policy gave out of each list, in per cent, at 95% arrived and at the end: the means over its seeds.

    Raises: InvalidInput: no such file, other columns, a value that is no number, nothing of this policy.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for line, row in read_rows(path, ("workload", "sc_policy", *_PUBLISHED_LOADS), "a table of published allocations"):
        if row["sc_policy"] == policy:
            of_list = found.setdefault(row["workload"].removeprefix(_LIST_PREFIX), {})
            for load in _PUBLISHED_LOADS:
                of_list.setdefault(load, []).append(per_cent(path, line, row, load))
    if not found:
        raise InvalidInput(f"{path} has no row of {policy}.")
    return {name: {load: fmean(values) for load, values in one.items()} for name, one in found.items()}


def read_tasks(path: Path) -> list[Demand]:
    """In the order of the file. A task with several GPUs takes whole ones, whatever its gpu_milli.

    Raises:
        InvalidInput: no such file, other columns, a value that is no number, no task that needs a GPU.
    """
    tasks = []
    for line, row in read_rows(path, _TASK_COLUMNS, "an openb pod list"):
        num_gpus = number(path, line, row, "num_gpu")
        models = row.get("gpu_spec") or ""
        tasks.append(
            Demand(
                num_gpus=num_gpus,
                gpu_milli=number(path, line, row, "gpu_milli") if num_gpus == 1 else WHOLE,
                gpu_models=frozenset(models.split("|")) if num_gpus and models else frozenset(),
                cpu_milli=number(path, line, row, "cpu_milli"),
                memory_mib=number(path, line, row, "memory_mib"),
            )
        )
    if not any(gpu_milli(task) for task in tasks):
        raise InvalidInput(f"{path} has no task that needs a GPU.")
    return tasks


def gpu_milli(task: Demand) -> int:
    return task.num_gpus * task.gpu_milli


def arrivals(tasks: Sequence[Demand], capacity_milli: int, load: float, seed: int) -> list[Demand]:
    """The tasks shuffled, then others drawn from all of them, until `load` of the capacity has arrived."""
    random = np.random.default_rng(seed)
    arrived, arrived_milli = [], 0
    order = list(random.permutation(len(tasks)))
    while arrived_milli < load * capacity_milli:
        if len(arrived) == len(order):
            order.extend(random.integers(0, len(tasks), len(tasks)))
        arrived.append(tasks[order[len(arrived)]])
        arrived_milli += gpu_milli(arrived[-1])
    return arrived
