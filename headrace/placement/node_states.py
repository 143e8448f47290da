"""The nodes of an inventory as numbers, and what each has free as an immutable state that equal nodes share.

A decision on a thousand nodes is fast because a state is scored once, wherever and whenever it turns up, and because a
`Fleet` is a list of states: copying it copies references.
"""

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from headrace.placement.demand import WHOLE, Demand
from headrace.placement.inventory import Inventory, Node

# Beyond it the memory of old states is given up; numbers are never used twice, so that what was kept stays true.
_STATES_MAX = 200_000


# Free CPU (milli) and memory (MiB), and the GPUs that have anything free, sorted: (class, thousandths). What a node's
# future depends on, whichever of its devices it is.
Leftover = tuple[int, int, tuple[tuple[int, int], ...]]


class NodeState:
    """What one node of a kind has free.

    `free` in thousandths by GPU, raw: sick ones included, below 0 if over-committed. `usable` is what of it may be
    given away.
    """

    __slots__ = ("cpu_milli", "free", "kind", "leftover", "memory_mib", "number", "usable")

    def __init__(self, number: int, kind: "NodeKind", cpu_milli: int, memory_mib: int, free: tuple[int, ...]) -> None:
        self.number = number
        self.kind = kind
        self.cpu_milli = cpu_milli
        self.memory_mib = memory_mib
        self.free = free
        self.usable = tuple(max(0, milli) if well else 0 for milli, well in zip(free, kind.healthy, strict=True))
        self.leftover = leftover_of(cpu_milli, memory_mib, kind.classes, self.usable)


class NodeKind:
    """What equal nodes have in common. `classes` number the GPUs' model and memory."""

    __slots__ = ("classes", "healthy", "number")

    def __init__(self, number: int, classes: tuple[int, ...], healthy: tuple[bool, ...]) -> None:
        self.number = number
        self.classes = classes
        self.healthy = healthy


class Layout:
    """One inventory, indexed. Nodes are numbered in order of their names.

    `scores` is for whoever compares places on it; `lock` guards it, and whoever holds it may fill in scores.
    """

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self.nodes: tuple[Node, ...] = tuple(sorted({node.name: node for node in inventory.nodes}.values(), key=_name))
        self.index = {node.name: number for number, node in enumerate(self.nodes)}
        self.place = {
            (node.name, gpu.device): (number, position)
            for number, node in enumerate(self.nodes)
            for position, gpu in enumerate(node.gpus)
        }
        self.classes: list[tuple[str, int]] = []  # model, memory in MiB
        self.lock = threading.RLock()
        self.scores: dict[Any, Any] = {}
        self._states: dict[tuple[int, int, int, tuple[int, ...]], NodeState] = {}
        self._num_states = 0
        kinds: dict[tuple[tuple[int, ...], tuple[bool, ...]], NodeKind] = {}
        numbers: dict[tuple[str, int], int] = {}
        self.idle: list[NodeState] = []
        for node in self.nodes:
            classes = tuple(numbers.setdefault((gpu.model, gpu.memory_mib), len(numbers)) for gpu in node.gpus)
            healthy = tuple(gpu.healthy for gpu in node.gpus)
            kind = kinds.setdefault((classes, healthy), NodeKind(len(kinds), classes, healthy))
            self.idle.append(self.state(kind, node.cpu_milli, node.memory_mib, (WHOLE,) * len(node.gpus)))
        self.classes.extend(numbers)

    def state(self, kind: NodeKind, cpu_milli: int, memory_mib: int, free: tuple[int, ...]) -> NodeState:
        """The one state with these values."""
        key = (kind.number, cpu_milli, memory_mib, free)
        found = self._states.get(key)
        if found is None:
            with self.lock:
                if len(self._states) >= _STATES_MAX:
                    self._states.clear()
                self._num_states += 1
                found = self._states[key] = NodeState(self._num_states, kind, cpu_milli, memory_mib, free)
        return found

    def milli_by_class(self, demand: Demand) -> tuple[int, ...]:
        """Thousandths that each device of the demand takes of a GPU, by class; above 1000: not there."""
        return tuple(
            demand.milli_on(memory) if not demand.gpu_models or model in demand.gpu_models else WHOLE + 1
            for model, memory in self.classes
        )


def leftover_of(cpu_milli: int, memory_mib: int, classes: Sequence[int], usable: Sequence[int]) -> Leftover:
    return cpu_milli, memory_mib, tuple(sorted([gpu for gpu in zip(classes, usable, strict=True) if gpu[1]]))


def fitting(state: NodeState, milli: Sequence[int]) -> list[int]:
    """Positions of the GPUs that have room; `milli` by GPU class."""
    classes = state.kind.classes
    return [gpu for gpu, left in enumerate(state.usable) if milli[classes[gpu]] <= left]


def fits(state: NodeState, demand: Demand, milli: Sequence[int]) -> bool:
    """Whether all of a demand could go onto a node in this state."""
    return (
        (not demand.cpu_milli or demand.cpu_milli <= state.cpu_milli)
        and (not demand.memory_mib or demand.memory_mib <= state.memory_mib)
        and (not demand.num_gpus or len(fitting(state, milli)) >= demand.num_gpus)
    )


def layout_of(inventory: Inventory) -> Layout:
    """The layout of an inventory; the same one, with its scores, for equal inventories that were seen lately."""
    for known in _LATELY:
        if known.inventory is inventory:
            return known
    layout = _layout(inventory)
    _LATELY.insert(0, layout)
    del _LATELY[4:]
    return layout


# Hashing a thousand nodes takes milliseconds: the very same object is looked for first.
_LATELY: list[Layout] = []


@lru_cache(maxsize=4)
def _layout(inventory: Inventory) -> Layout:
    return Layout(inventory)


def _name(node: Node) -> str:
    return node.name
