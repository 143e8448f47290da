"""Other policies that choose a node for a task, scored on the same board.

FGD as its authors' simulator does it: the gain in fragmentation through a sigmoid, cut to whole per cents, so that many
nodes tie; its published figures have ties fall to the node first by name.
"""

import math
import random
from collections.abc import Callable, Sequence

import numpy as np

from headrace.placement.demand import Demand
from headrace.placement.fleet import Fleet, host_shares
from headrace.placement.fragmentation import Fragmentation
from headrace.placement.node_states import Layout, NodeState
from headrace.placement.packing import Packing, priced_placement
from headrace.placement.placements import GpuShare, Placement
from headrace.placement.scoreboard import Option, Scoreboard, after_taking, choices_on, least
from headrace.placement.task_mix import TaskMix

POLICIES = ("headrace", "fgd", "bestfit", "firstfit", "random")

# The best place for a demand and its cost, lowest first; None: it fits nowhere.
Place = Callable[[Fleet, Demand], "tuple[float, Placement] | None"]


def policy(name: str, fleet: Fleet, mix: TaskMix, ties: str, seed: int) -> Place:
    """What `fleet`, and no other, is filled by."""
    if name == "headrace":
        packing = Packing(ties=ties, seed=seed, mix=mix)
        return lambda fleet, demand: priced_placement(fleet, demand, packing)
    board = {"fgd": _Fgd, "bestfit": _BestFit, "firstfit": _FirstFit, "random": _Random}[name](fleet.layout, mix, seed)
    tied = "random" if name == "random" else ties
    return lambda fleet, demand: _placed(fleet, demand, board, tied, seed)


def _placed(fleet: Fleet, demand: Demand, board: "_Peer", ties: str, seed: int) -> tuple[float, Placement] | None:
    node = least(board.costs(demand, fleet.states, fleet.state_numbers), ties, seed, fleet.num_changes)
    if node is None:
        return None
    (option,) = board.options(demand, [fleet.states[node]])
    assert option is not None
    there, classes, milli = fleet.layout.nodes[node], fleet.states[node].kind.classes, board.milli(demand)
    shares = tuple(
        GpuShare(node=there.name, device=there.gpus[gpu].device, milli=milli[classes[gpu]]) for gpu in option.gpus
    )
    return option.cost, Placement(gpus=shares, hosts=host_shares(demand, {there.name: 1}))


class _Peer(Scoreboard):
    """Scores a state at a time, once."""

    def __init__(self, layout: Layout, mix: TaskMix, seed: int) -> None:
        super().__init__(layout, mix, seed, num_nodes_min=len(layout.nodes) + 1)
        self._num_nodes = len(layout.nodes)
        self._random = random.Random(seed)
        self._cpu_milli = max(node.cpu_milli for node in layout.nodes)
        self._num_gpus = max(len(node.gpus) for node in layout.nodes)
        self._fragments = Fragmentation(layout, mix)

    def best_options(self, demand: Demand, states: Sequence[NodeState], milli: tuple[int, ...]) -> list[Option | None]:
        choices = [choices_on(state, demand, milli) for state in states]
        return [
            self.best(state, chosen, milli, demand) if chosen else None
            for state, chosen in zip(states, choices, strict=True)
        ]

    def surcharge(self, demand: Demand) -> np.ndarray:
        return np.zeros(self._num_nodes)

    def best(self, state: NodeState, choices: list[tuple[int, ...]], milli: tuple[int, ...], demand: Demand) -> Option:
        raise NotImplementedError


class _Fgd(_Peer):
    def best(self, state: NodeState, choices: list[tuple[int, ...]], milli: tuple[int, ...], demand: Demand) -> Option:
        before, lost = state.leftover, self._fragments.lost
        after = [after_taking(state, gpus, milli, demand) for gpus in choices]
        self._fragments.look_at([before, *after])
        scores = [-int(100 / (1 + math.exp((lost[one] - lost[before]) / 1000))) for one in after]
        return Option(*min(zip(map(float, scores), choices, strict=True)))


class _BestFit(_Peer):
    def best(self, state: NodeState, choices: list[tuple[int, ...]], milli: tuple[int, ...], demand: Demand) -> Option:
        gpus = min(choices, key=lambda gpus: [state.usable[gpu] for gpu in gpus])
        gpu_left = sum(state.usable) - sum(milli[state.kind.classes[gpu]] for gpu in gpus)
        cpu_left = state.cpu_milli - demand.cpu_milli
        return Option(cpu_left / self._cpu_milli + gpu_left / (1000 * self._num_gpus), gpus)


class _FirstFit(_Peer):
    def best(self, state: NodeState, choices: list[tuple[int, ...]], milli: tuple[int, ...], demand: Demand) -> Option:
        return Option(0.0, min(choices, key=lambda gpus: [state.usable[gpu] for gpu in gpus]))


class _Random(_Peer):
    def best(self, state: NodeState, choices: list[tuple[int, ...]], milli: tuple[int, ...], demand: Demand) -> Option:
        return Option(0.0, self._random.choice(choices))
