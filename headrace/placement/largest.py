"""The most that the fleet could give if it were idle and healthy, and why a demand exceeds it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from headrace.placement.demand import WHOLE, Demand
from headrace.placement.inventory import Inventory, Node
from headrace.placement.stage_policy import StagePolicy


@dataclass(frozen=True)
class _Kind:
    """Equal nodes; `gpus` holds (model, memory in MiB) with their number."""

    gpus: tuple[tuple[tuple[str, int], int], ...]
    cpu_milli: int
    memory_mib: int


class Largest:
    """Answers for one inventory. A fleet has few kinds of nodes, so an answer is cheap."""

    def __init__(self, inventory: Inventory, stages: StagePolicy | None = None) -> None:
        self._inventory = inventory
        self._stages = stages or StagePolicy()
        self._kinds: dict[_Kind, Node] = {}
        self._counts: Counter[_Kind] = Counter()
        self._answers: dict[tuple[Demand, str, bool], str | None] = {}
        for node in inventory.nodes:
            kind = _Kind(
                tuple(sorted(Counter((gpu.model, gpu.memory_mib) for gpu in node.gpus).items())),
                node.cpu_milli,
                node.memory_mib,
            )
            self._kinds.setdefault(kind, node)
            self._counts[kind] += 1

    def answers_for(self, inventory: Inventory, stages: StagePolicy) -> bool:
        return self._inventory is inventory and self._stages is stages

    def refusal(self, demand: Demand, stage: str = "", *, may_borrow: bool = False) -> str | None:
        """Why such a run can never start, in one sentence; None: it can.

        `may_borrow`: other stages' floors do not limit it.
        """
        key = (demand, stage, may_borrow)
        if key not in self._answers:
            self._answers[key] = self._fleet_refusal(demand) or self._stage_refusal(demand, stage, may_borrow)
        return self._answers[key]

    def _fleet_refusal(self, demand: Demand) -> str | None:
        if self._fits(demand):
            return None
        return f"Asks for {demand_text(demand)}; {self._lack(demand)}."

    def _lack(self, demand: Demand) -> str:
        nodes = self._inventory.nodes
        if demand.num_gpus and not self._inventory.num_gpus:
            return "this fleet has no GPU"
        if not nodes:
            return "this fleet has no node"
        models = sorted({gpu.model for node in nodes for gpu in node.gpus})
        if demand.gpu_models and not demand.gpu_models & set(models):
            return f"the fleet's GPUs are {', '.join(models)}"

        def memory_mib(node: Node) -> int:
            return max((gpu.memory_mib for gpu in node.gpus if _may_use(gpu.model, demand)), default=0)

        def num_fitting(node: Node) -> int:
            return sum(_may_use(gpu.model, demand) and demand.milli_on(gpu.memory_mib) <= WHOLE for gpu in node.gpus)

        if demand.num_gpus and demand.gpu_memory_mib > max(map(memory_mib, nodes)):
            largest = _largest(nodes, memory_mib)
            return f"the largest GPU{_of_models(demand)} has {memory_mib(largest)} MiB ({largest.name})"
        if demand.num_gpus and not self._fits(replace(demand, cpu_milli=0, memory_mib=0)):
            if demand.gang == "any":
                return f"the fleet has {sum(map(num_fitting, nodes))} such GPUs"
            largest = _largest(nodes, num_fitting)
            return f"the largest node has {num_fitting(largest)} ({largest.name})"
        if demand.cpu_milli > max(node.cpu_milli for node in nodes) and demand.gang == "node":
            largest = _largest(nodes, lambda node: node.cpu_milli)
            return f"the largest node has {largest.cpu_milli / 1000:g} CPUs ({largest.name})"
        if demand.memory_mib > max(node.memory_mib for node in nodes) and demand.gang == "node":
            largest = _largest(nodes, lambda node: node.memory_mib)
            return f"the largest node has {largest.memory_mib} MiB of memory ({largest.name})"
        return "no node has all of that together"

    def _stage_refusal(self, demand: Demand, stage: str, may_borrow: bool) -> str | None:
        gpus = demand.num_gpus * (demand.gpu_milli if demand.is_shared else WHOLE) / WHOLE
        if not gpus:
            return None
        ceiling = self._stages.highest_ceiling(stage, self._inventory.num_gpus)
        if ceiling is not None and gpus > ceiling:
            return f"Asks for {demand_text(demand)}; stage {stage} may never hold more than {num_gpus_text(ceiling)}."
        kept = self._stages.lowest_floors_of_others(stage)
        own = self._stages.rules.get(stage)
        if may_borrow or (own and gpus <= own.floor) or gpus <= self._inventory.num_gpus - kept:
            return None
        return (
            f"Asks for {demand_text(demand)}; of {num_gpus_text(self._inventory.num_gpus)}, "
            f"{kept} are kept for other stages at every hour."
        )

    def _fits(self, demand: Demand) -> bool:
        if not demand.num_gpus:
            return any(
                k.cpu_milli >= demand.cpu_milli and k.memory_mib >= demand.memory_mib for k in self._kinds
            ) or not (demand.cpu_milli or demand.memory_mib)
        total = 0
        for kind, count in self._counts.items():
            gpus = sum(n for (model, mib), n in kind.gpus if _may_use(model, demand) and demand.milli_on(mib) <= WHOLE)
            if gpus >= demand.num_gpus and kind.cpu_milli >= demand.cpu_milli and kind.memory_mib >= demand.memory_mib:
                return True
            # A gang that spans nodes needs CPUs and memory in proportion to its GPUs.
            if demand.cpu_milli:
                gpus = min(gpus, kind.cpu_milli * demand.num_gpus // demand.cpu_milli)
            if demand.memory_mib:
                gpus = min(gpus, kind.memory_mib * demand.num_gpus // demand.memory_mib)
            total += gpus * count
        return demand.gang == "any" and total >= demand.num_gpus


def largest_of(inventory: Inventory, stages: StagePolicy) -> Largest:
    """One for the same two objects, as long as they were asked about lately: the next plan asks the same again."""
    for known in _LATELY:
        if known.answers_for(inventory, stages):
            return known
    largest = Largest(inventory, stages)
    _LATELY.insert(0, largest)
    del _LATELY[4:]
    return largest


_LATELY: list[Largest] = []


def _largest(nodes: Sequence[Node], amount: Callable[[Node], int]) -> Node:
    return min(nodes, key=lambda node: (-amount(node), node.name))


def demand_text(demand: Demand) -> str:
    """`8 GPUs on one node (A100, 40000 MiB each), 16 CPUs`."""
    parts = []
    if demand.num_gpus:
        gpus = f"{demand.gpu_milli / WHOLE:g} of a GPU" if demand.is_shared else num_gpus_text(demand.num_gpus)
        if demand.num_gpus > 1:
            gpus += " on one node" if demand.gang == "node" else " on any nodes"
        details = sorted(demand.gpu_models)
        text = " or ".join(details)
        if demand.gpu_memory_mib:
            text += f"{', ' if text else ''}{demand.gpu_memory_mib} MiB{' each' if demand.num_gpus > 1 else ''}"
        parts.append(f"{gpus} ({text})" if text else gpus)
    if demand.cpu_milli:
        parts.append(f"{demand.cpu_milli / 1000:g} CPU{'' if demand.cpu_milli == 1000 else 's'}")
    if demand.memory_mib:
        parts.append(f"{demand.memory_mib} MiB of memory")
    return ", ".join(parts) or "nothing that is counted"


def num_gpus_text(count: float) -> str:
    return f"{count:g} GPU{'' if count == 1 else 's'}"


def _may_use(model: str, demand: Demand) -> bool:
    return not demand.gpu_models or model in demand.gpu_models


def _of_models(demand: Demand) -> str:
    return f" of model {' or '.join(sorted(demand.gpu_models))}" if demand.gpu_models else ""
