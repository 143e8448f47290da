"""Chooses a run's place: the one after which the fleet will leave the least GPU idle.

Each node's score is what the run would make useless there for typical runs (`Packing.mix`), plus a best-fit term. Knows
nodes and demands, not queues, and never declines a demand that fits. All or nothing for a gang. Scores are kept: a
decision costs about as much as the nodes that changed since the same demand was last placed.
"""

from dataclasses import dataclass, field

import numpy as np

from headrace.placement.demand import WHOLE, Demand
from headrace.placement.fleet import Fleet, host_shares
from headrace.placement.node_states import NodeState, fitting
from headrace.placement.placements import NOTHING, GpuShare, Placement
from headrace.placement.scoreboard import Option, Scoreboard, drawn, least
from headrace.placement.task_mix import ANY_MIX, TaskMix

_BOARDS_MAX = 4


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How places are compared; one configuration for every fleet."""

    ties: str = "name"  # or "random", seeded
    seed: int = 0
    mix: TaskMix | None = None  # of the runs that usually come; None: a general mix

    def __post_init__(self) -> None:
        if self.ties not in ("name", "random"):
            raise ValueError(f"Ties are broken by name or random, got {self.ties!r}: set Packing.ties to one of them.")


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What one run prefers or must avoid."""

    prefer: frozenset[tuple[str, str]] = field(default_factory=frozenset)  # (node, device): its model is there already
    avoid: frozenset[tuple[str, str]] = field(default_factory=frozenset)  # (node, device): kept for another run


def best_placement(fleet: Fleet, demand: Demand, packing: Packing = Packing(), wish: Wish = Wish()) -> Placement | None:
    """A place for all of the demand, or None.

    On one node if possible; a gang that may span nodes takes the fewest. Wishes precede cost: the node with most
    preferred devices wins, and the run gets these devices. The same fleet after the same changes gives the same place,
    also with random ties.
    """
    found = priced_placement(fleet, demand, packing, wish)
    return found[1] if found else None


def priced_placement(
    fleet: Fleet, demand: Demand, packing: Packing = Packing(), wish: Wish = Wish()
) -> tuple[float, Placement] | None:
    """The best place, with its cost in useless GPU thousandths; for comparing demands."""
    if demand.num_gpus == 0 and not (demand.cpu_milli or demand.memory_mib):
        return 0.0, NOTHING
    with fleet.layout.lock:
        board = _board(fleet, packing)
        states, numbers = (fleet.states, fleet.state_numbers) if not wish.avoid else _without(fleet, wish)
        if wish.prefer and demand.num_gpus:
            preferred = _preferred(fleet, demand, board, states, wish)
            if preferred:
                return preferred
        costs = board.costs(demand, states, numbers)
        node = least(costs, packing.ties, packing.seed, fleet.num_changes)
        if node is not None:
            (option,) = board.options(demand, [states[node]])
            assert option is not None
            return float(costs[node]), _placement(fleet, states, node, option, demand, board)
        if demand.gang == "any" and demand.num_gpus > 1:
            return _spread(fleet, states, numbers, demand, board, packing)
        return None


def _board(fleet: Fleet, packing: Packing) -> Scoreboard:
    boards = fleet.layout.scores
    mix = packing.mix if packing.mix and packing.mix.weights else ANY_MIX
    board = boards.get((mix, packing.seed))
    if board is None:
        if len(boards) >= _BOARDS_MAX:
            del boards[next(iter(boards))]
        board = boards[mix, packing.seed] = Scoreboard(fleet.layout, mix, packing.seed)
    return board


def _without(fleet: Fleet, wish: Wish) -> tuple[list[NodeState], np.ndarray]:
    """The fleet's states, with the devices to avoid counted as full."""
    states, numbers = fleet.states.copy(), fleet.state_numbers.copy()
    for where in wish.avoid:
        if where in fleet.layout.place:
            node, position = fleet.layout.place[where]
            state = states[node]
            free = (*state.free[:position], min(0, state.free[position]), *state.free[position + 1 :])
            states[node] = fleet.layout.state(state.kind, state.cpu_milli, state.memory_mib, free)
            numbers[node] = states[node].number
    return states, numbers


def _preferred(
    fleet: Fleet, demand: Demand, board: Scoreboard, states: list[NodeState], wish: Wish
) -> tuple[float, Placement] | None:
    """The place with most preferred devices; None if it can get none of them."""
    liked: dict[int, set[int]] = {}
    for where in wish.prefer:
        if where in fleet.layout.place:
            node, position = fleet.layout.place[where]
            liked.setdefault(node, set()).add(position)
    milli, found = board.milli(demand), []
    for node in sorted(liked):
        (option,) = board.options(demand, [states[node]])
        if option is None:
            continue
        gpus = sorted(
            fitting(states[node], milli),
            key=lambda gpu, best=option.gpus, likes=liked[node], state=states[node]: (
                gpu not in likes,
                gpu not in best,
                state.usable[gpu],
                gpu,
            ),
        )[: demand.num_gpus]
        found.append((-sum(gpu in liked[node] for gpu in gpus), option.cost, node, tuple(gpus)))
    if not found or not min(found)[0]:
        return None
    _, cost, node, gpus = min(found)
    return cost, _placement(fleet, states, node, Option(cost, gpus), demand, board)


def _placement(
    fleet: Fleet, states: list[NodeState], node: int, option: Option, demand: Demand, board: Scoreboard
) -> Placement:
    shares = _shares(fleet, states, node, option.gpus, board.milli(demand))
    return Placement(gpus=shares, hosts=host_shares(demand, {fleet.layout.nodes[node].name: 1}))


def _shares(
    fleet: Fleet, states: list[NodeState], node: int, gpus: tuple[int, ...], milli: tuple[int, ...]
) -> tuple[GpuShare, ...]:
    there, classes = fleet.layout.nodes[node], states[node].kind.classes
    return tuple(
        GpuShare(node=there.name, device=there.gpus[gpu].device, milli=milli[classes[gpu]]) for gpu in sorted(gpus)
    )


def _spread(
    fleet: Fleet, states: list[NodeState], numbers: np.ndarray, demand: Demand, board: Scoreboard, packing: Packing
) -> tuple[float, Placement] | None:
    """A gang across nodes: takes the largest free blocks first, and for the rest the smallest that is enough.

    A node's part of CPU and memory depends only on its GPUs, so the nodes' capacities add up, and None means that no
    split fits.
    """
    milli = board.milli(demand)
    parts = board.parts(demand, states, numbers)
    if parts.sum() < demand.num_gpus:
        return None
    parts = parts.copy()
    left, shares, by_node = demand.num_gpus, [], {}
    while left:
        enough = parts[parts >= left]
        wanted = enough.min() if len(enough) else parts.max()
        (equal,) = (parts == wanted).nonzero()
        node = int(equal[drawn(packing.seed, fleet.num_changes) % len(equal) if packing.ties == "random" else 0])
        taken = min(left, int(wanted))
        shares.extend(_shares(fleet, states, node, tuple(fitting(states[node], milli)[:taken]), milli))
        by_node[fleet.layout.nodes[node].name] = taken
        parts[node] = 0
        left -= taken
    cost = float(WHOLE * len(by_node))
    return cost, Placement(gpus=tuple(shares), hosts=host_shares(demand, by_node))
