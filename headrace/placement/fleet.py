"""Who holds what: an inventory and its free part, changed by `take` and `release`.

Knows capacities and placements, but neither queues nor time. Decisions are tried on a `copy`, which costs one reference
for each node and run.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from headrace.placement.demand import Demand
from headrace.placement.inventory import Inventory, Node
from headrace.placement.node_states import Layout, NodeState, layout_of
from headrace.placement.placements import HostShare, Placement

# Few enough to copy cheaply, many enough that merging them into the rest is rare.
_RECENT_MAX = 256


class OverCommitted(Exception):
    """More would be held than exists: the caller's error, found before anything changed."""


class Fleet:
    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self.layout: Layout = layout_of(inventory)
        self.nodes: dict[str, Node] = {node.name: node for node in inventory.nodes}
        # By the node's number, which is its rank by name.
        self.states: list[NodeState] = list(self.layout.idle)
        self.state_numbers = np.array([state.number for state in self.states], dtype=np.int64)
        # Counts takes and releases; a seeded choice between equal places depends on it.
        self.num_changes = 0
        # Holders and placements in two layers, so that a copy is cheap: copies share `_settled`, which never changes.
        self._settled: dict[str, Placement] = {}
        self._recent: dict[str, Placement | None] = {}

    def copy(self) -> "Fleet":
        twin = object.__new__(Fleet)
        twin.inventory, twin.layout, twin.nodes = self.inventory, self.layout, self.nodes
        twin.states, twin.state_numbers = self.states.copy(), self.state_numbers.copy()
        twin.num_changes, twin._settled, twin._recent = self.num_changes, self._settled, self._recent.copy()
        return twin

    def take(self, run_id: str, placement: Placement, *, found: bool = False) -> None:
        """Gives a run its shares.

        Args:
            found: the run exists already: shares of vanished devices are skipped, and an over-committed device (a GPU
                that came back smaller) counts as full.

        Raises:
            OverCommitted: a share exceeds what is free, or names an unknown device.
        """
        if self._placement_of(run_id) is not None:
            raise OverCommitted(f"Run {run_id} holds a placement already.")
        changed = list(self._changed(placement, -1))
        if not found:
            self._check(run_id, placement, changed)
        self._note(run_id, placement)
        self._put(changed)

    def take_all(self, holders: Iterable[tuple[str, Placement]]) -> None:
        """`take` of runs that exist already (`found`), each node changed once.

        Raises:
            OverCommitted: a run holds a placement already, or comes twice.
        """
        gpus, hosts = [], []
        for run_id, placement in holders:
            if self._placement_of(run_id) is not None:
                raise OverCommitted(f"Run {run_id} holds a placement already.")
            self._note(run_id, placement)
            gpus += placement.gpus
            hosts += placement.hosts
            self.num_changes += 1
        self._put(self._changed(Placement(gpus=tuple(gpus), hosts=tuple(hosts)), -1))
        self.num_changes -= 1

    def release(self, run_id: str) -> None:
        """Does nothing for a run that holds nothing."""
        placement = self._placement_of(run_id)
        if placement is not None:
            self._note(run_id, None)
            self._put(self._changed(placement, 1))

    def held(self) -> dict[str, Placement]:
        """Placements by run, in the order of taking."""
        held = {run_id: placement for run_id, placement in self._settled.items() if run_id not in self._recent}
        held.update((run_id, placement) for run_id, placement in self._recent.items() if placement is not None)
        return held

    def free_milli(self, node: str, device: str) -> int:
        """Free thousandths of a healthy device; 0 for a sick one."""
        number, position = self.layout.place[node, device]
        return self.states[number].usable[position]

    def free_cpu_milli(self, node: str) -> int:
        return max(0, self.states[self.layout.index[node]].cpu_milli)

    def free_memory_mib(self, node: str) -> int:
        return max(0, self.states[self.layout.index[node]].memory_mib)

    def _placement_of(self, run_id: str) -> Placement | None:
        return self._recent[run_id] if run_id in self._recent else self._settled.get(run_id)

    def _note(self, run_id: str, placement: Placement | None) -> None:
        self._recent.pop(run_id, None)
        self._recent[run_id] = placement
        if len(self._recent) > _RECENT_MAX:
            self._settled, self._recent = self.held(), {}

    def _changed(self, placement: Placement, sign: int) -> Iterator[tuple[int, NodeState]]:
        """Nodes with their state after a placement; unknown nodes are skipped."""
        gpus: dict[int, list[tuple[int, int]]] = {}
        for share in placement.gpus:
            where = self.layout.place.get((share.node, share.device))
            if where is not None:
                gpus.setdefault(where[0], []).append((where[1], share.milli))
        hosts: dict[int, tuple[int, int]] = {}
        for host in placement.hosts:
            number = self.layout.index.get(host.node)
            if number is not None:
                cpu_milli, memory_mib = hosts.get(number, (0, 0))
                hosts[number] = (cpu_milli + host.cpu_milli, memory_mib + host.memory_mib)
        for number in gpus.keys() | hosts.keys():
            state = self.states[number]
            free = list(state.free)
            for position, milli in gpus.get(number, ()):
                free[position] += sign * milli
            cpu_milli, memory_mib = hosts.get(number, (0, 0))
            yield (
                number,
                self.layout.state(
                    state.kind, state.cpu_milli + sign * cpu_milli, state.memory_mib + sign * memory_mib, tuple(free)
                ),
            )

    def _put(self, changed: "list[tuple[int, NodeState]] | Iterator[tuple[int, NodeState]]") -> None:
        for number, state in changed:
            self.states[number] = state
            self.state_numbers[number] = state.number
        self.num_changes += 1

    def _check(self, run_id: str, placement: Placement, changed: list[tuple[int, NodeState]]) -> None:
        after = dict(changed)
        for share in placement.gpus:
            where = self.layout.place.get((share.node, share.device))
            if where is None or (
                share.milli and (after[where[0]].free[where[1]] < 0 or not after[where[0]].kind.healthy[where[1]])
            ):
                raise OverCommitted(f"Run {run_id} was to take {share.milli}/1000 of {share.node}:{share.device}.")
        for host in placement.hosts:
            number = self.layout.index.get(host.node)
            if (
                number is None
                or (host.cpu_milli and after[number].cpu_milli < 0)
                or (host.memory_mib and after[number].memory_mib < 0)
            ):
                raise OverCommitted(
                    f"Run {run_id} was to take {host.cpu_milli} milli CPU, {host.memory_mib} MiB of {host.node}."
                )


def empty(inventory: Inventory) -> Fleet:
    """The same machines, empty and healthy: what could fit at all."""
    if all(gpu.healthy for node in inventory.nodes for gpu in node.gpus):
        return Fleet(inventory)
    well = tuple(replace(node, gpus=tuple(replace(gpu, healthy=True) for gpu in node.gpus)) for node in inventory.nodes)
    return Fleet(Inventory(nodes=well))


def host_shares(demand: Demand, gpus_by_node: dict[str, int]) -> tuple[HostShare, ...]:
    """CPU and memory of a run, split in proportion to its GPUs and rounded up."""
    total = sum(gpus_by_node.values())
    if not (demand.cpu_milli or demand.memory_mib):
        return ()
    return tuple(
        HostShare(
            node=node,
            cpu_milli=host_part(demand.cpu_milli, count, total),
            memory_mib=host_part(demand.memory_mib, count, total),
        )
        for node, count in sorted(gpus_by_node.items())
    )


def host_part(whole: int, count: int, total: int) -> int:
    """The part of a run's CPU or memory for `count` of its `total` GPUs."""
    return math.ceil(whole * count / total)
