"""An inventory's nodes as numbers, and what each has free as an immutable state that equal nodes share.

This makes decisions on a thousand nodes fast: a state is scored once, wherever and whenever it appears, and a `Fleet`
is a list of states, so copying it copies references.
"""

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from headrace.placement.demand import WHOLE, Demand
from headrace.placement.inventory import Inventory, Node

# With more, old states are forgotten; numbers are never reused, so values kept for them stay valid.
_STATES_MAX = 200_000


# Free CPU (milli), free memory (MiB), and the GPUs with free parts, sorted: (class, thousandths). A node's future
# depends on these, not on which device is which.
Leftover = tuple[int, int, tuple[tuple[int, int], ...]]


class NodeState:
    """What one node of a kind has free.

    `free`: thousandths by GPU, including sick ones, below 0 if over-committed. `usable`: the part that may be given
    away.
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
    """The common properties of equal nodes. `classes` number the GPUs' model and memory."""

    __slots__ = ("classes", "healthy", "number")

    def __init__(self, number: int, classes: tuple[int, ...], healthy: tuple[bool, ...]) -> None:
        self.number = number
        self.classes = classes
        self.healthy = healthy


class Layout:
    """One inventory, indexed. Nodes are numbered by name.

    `scores` is for code that compares places on it; `lock` guards it, and its holder may fill in scores.
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
        """The unique state with these values."""
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
        """Thousandths that each device of the demand takes of a GPU, by class; above 1000: it does not fit."""
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
    """Whether a node in this state could take the whole demand."""
    return (
        (not demand.cpu_milli or demand.cpu_milli <= state.cpu_milli)
        and (not demand.memory_mib or demand.memory_mib <= state.memory_mib)
        and (not demand.num_gpus or len(fitting(state, milli)) >= demand.num_gpus)
    )


def layout_of(inventory: Inventory) -> Layout:
    """The layout of an inventory; recently seen equal inventories share one, with its scores."""
    for known in _LATELY:
        if known.inventory is inventory:
            return known
    layout = _layout(inventory)
    _LATELY.insert(0, layout)
    del _LATELY[4:]
    return layout


# Hashing a thousand nodes takes milliseconds, so the identical object is tried first.
_LATELY: list[Layout] = []


@lru_cache(maxsize=4)
def _layout(inventory: Inventory) -> Layout:
    return Layout(inventory)


def _name(node: Node) -> str:
    return node.name
