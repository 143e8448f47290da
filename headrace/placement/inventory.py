"""The present nodes with their GPUs, CPUs and memory. A `Fleet` knows who holds what."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One device that can be given away: a GPU or a MIG slice.

    `device` is a value for CUDA_VISIBLE_DEVICES (an index, a UUID), unique in its node. A sick device keeps its place
    and its runs, but gets nothing new.
    """

    device: str
    model: str
    memory_mib: int
    healthy: bool = True


@dataclass(frozen=True, kw_only=True)
class Node:
    name: str
    gpus: tuple[Gpu, ...] = ()
    cpu_milli: int = 0
    memory_mib: int = 0


@dataclass(frozen=True, kw_only=True)
class Inventory:
    nodes: tuple[Node, ...] = ()

    @property
    def num_gpus(self) -> int:
        return sum(len(node.gpus) for node in self.nodes)
