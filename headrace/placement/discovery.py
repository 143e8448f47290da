"""Finds the present machines: this one by NVML, a simulation of it, or those that a file lists.

After a failed look the last known machines stay, with their GPUs marked sick: what runs there still counts, and nothing
new is put there.
"""

import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from headrace.errors import HeadraceError, InvalidInput
from headrace.placement.discovery_file import InvalidFleet, parse_simulated, read_fleet_file
from headrace.placement.inventory import Gpu, Inventory, Node
from headrace.placement.nvml import UNKNOWN_MODEL, read_nvml
from headrace.this_machine import cpu_milli_here, memory_mib_here

__all__ = [
    "Discovery",
    "FleetUnavailable",
    "InvalidFleet",
    "local_fleet",
    "parse_simulated",
    "read_fleet_file",
    "source_of",
    "summary",
]

Source = Callable[[], Inventory]


class FleetUnavailable(InvalidInput):
    """The machines cannot be looked at, and never could."""


def local_fleet(*, simulated: str | None = None, node: str | None = None) -> Source:
    """This machine: its CPUs and memory, and the GPUs from NVML or from `simulated`.

    Args:
        simulated: in the form of `parse_simulated`.
        node: its name; None: the host's name.
    """
    name = node or socket.gethostname()

    def look() -> Inventory:
        cpu_milli, memory_mib = cpu_milli_here(), memory_mib_here()
        if simulated is not None:
            return Inventory(nodes=(parse_simulated(simulated, node=name, cpu_milli=cpu_milli, memory_mib=memory_mib),))
        here = Node(name=name, gpus=read_nvml(), cpu_milli=cpu_milli, memory_mib=memory_mib)
        return Inventory(nodes=(here,))

    return look


def source_of(fleet: str | Inventory, *, simulated: str | None = None) -> Source:
    """The source of a configured fleet: "local", the path of a fleet file, or a fixed inventory."""
    if isinstance(fleet, Inventory):
        return lambda: fleet
    if fleet == "local":
        return local_fleet(simulated=simulated)
    return lambda: read_fleet_file(Path(fleet))


class Discovery:
    """The fleet, looked at again when the last look is too old.

    Args:
        refresh_seconds: how old a look may be.
    """

    def __init__(self, source: Source, *, refresh_seconds: float = 30.0) -> None:
        self._source = source
        self._refresh_seconds = refresh_seconds
        self._looked_at: float | None = None
        self._last: Inventory | None = None
        self.failure: str | None = None  # of the last look, in one sentence
        # Includes what has vanished: a run may wait for it, and need not be refused.
        self.ever_seen = Inventory()

    def look(self, now: float) -> Inventory:
        """The present fleet. Vanished GPUs are missing, and return when they come back.

        Args:
            now: seconds, of any origin.

        Raises:
            FleetUnavailable: the first look failed, so no known fleet can be kept.
        """
        fresh = self._looked_at is not None and 0 <= now - self._looked_at < self._refresh_seconds
        if self._last is not None and fresh:
            return self._last
        try:
            found = self._source()
        except (HeadraceError, OSError) as error:
            self.failure = str(error)
            if self._last is None:
                raise FleetUnavailable(f"The fleet cannot be looked at: {error}") from error
            found = _all_sick(self._last)
        else:
            self.failure = None
            found = _with_known(found, self._last)
        self._last, self._looked_at = found, now
        self.ever_seen = _joined(self.ever_seen, found)
        return found


def summary(inventory: Inventory) -> str:
    """For people: "4 GPUs on 1 node: node-a 4×H100 (81,559 MiB)"."""
    nodes = "; ".join(f"{node.name} {_gpus_in_words(node.gpus)}" for node in inventory.nodes)
    counts = f"{_counted(inventory.num_gpus, 'GPU')} on {_counted(len(inventory.nodes), 'node')}"
    return f"{counts}: {nodes}" if nodes else counts


def _all_sick(inventory: Inventory) -> Inventory:
    return Inventory(
        nodes=tuple(
            replace(node, gpus=tuple(replace(gpu, healthy=False) for gpu in node.gpus)) for node in inventory.nodes
        )
    )


def _with_known(found: Inventory, last: Inventory | None) -> Inventory:
    """A GPU that is too sick to tell its model and memory keeps the known values, so that runs that wait for it are not
    told that the fleet has none."""
    if last is None:
        return found
    known = {(node.name, gpu.device): gpu for node in last.nodes for gpu in node.gpus}

    def told(node: Node, gpu: Gpu) -> Gpu:
        before = known.get((node.name, gpu.device))
        return replace(before, healthy=False) if gpu.model == UNKNOWN_MODEL and not gpu.healthy and before else gpu

    return Inventory(
        nodes=tuple(replace(node, gpus=tuple(told(node, gpu) for gpu in node.gpus)) for node in found.nodes)
    )


def _joined(before: Inventory, now: Inventory) -> Inventory:
    """Every node and GPU of both inventories, in its latest known state."""
    nodes = {node.name: node for node in before.nodes}
    for node in now.nodes:
        gpus = {gpu.device: gpu for gpu in (*nodes.get(node.name, Node(name=node.name)).gpus, *node.gpus)}
        nodes[node.name] = replace(node, gpus=tuple(gpus.values()))
    return Inventory(nodes=tuple(nodes.values()))


def _gpus_in_words(gpus: tuple[Gpu, ...]) -> str:
    kinds = Counter((gpu.model, gpu.memory_mib) for gpu in gpus)
    words = ", ".join(f"{count}×{model} ({memory_mib:,} MiB)" for (model, memory_mib), count in kinds.items())
    num_sick = sum(not gpu.healthy for gpu in gpus)
    return (words or "no GPU") + (f", {num_sick} of them sick" if num_sick else "")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
