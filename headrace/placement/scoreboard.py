"""The costs of a demand on each node, kept between decisions: only changed nodes are scored again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headrace.placement.demand import WHOLE, Demand
from headrace.placement.fleet import host_part
from headrace.placement.fragmentation import Fragmentation
from headrace.placement.node_states import Layout, Leftover, NodeState, fits, fitting, leftover_of
from headrace.placement.outlook import Outlook
from headrace.placement.place_prices import PlacePrices
from headrace.placement.scarcity import scarcity
from headrace.placement.task_mix import TaskMix

# The lookahead needs numba, which loads for half a second, and gains little on few nodes: smaller fleets are packed by
# fragmentation.
LOOKAHEAD_NODES_MIN = 32
# In idle GPU thousandths: how much worse a node counts that has as much CPU, or GPU, left as the largest node has,
# compared with a full one. Three times as much wastes better-fitting places; without it 0.1% less is allocated with
# many gangs.
BEST_FIT_CPU = 10.0
BEST_FIT_GPU = 20.0
# Weight of a node kind's pressure (demand over capacity), for each thousandth taken there.
SCARCITY = 1.5
# Smaller differences of cost are rounding.
_EQUAL = 1e-6
_ROWS_MAX = 1024
_OPTIONS_MAX = 20_000  # a row


@dataclass(frozen=True, slots=True)
class Option:
    """A demand's best place on one node. `cost`: useless GPU thousandths plus the best-fit term."""

    cost: float
    gpus: tuple[int, ...]  # positions on the node
    # By group of large runs: how many fewer would fit; None: none.
    places: np.ndarray | None = None


@dataclass(slots=True)
class _Row:
    """One demand. By node: the last scored state and its cost, infinite if it does not fit; by state: options."""

    milli: tuple[int, ...]  # by GPU class
    scored: np.ndarray
    costs: np.ndarray
    places: np.ndarray  # [node, group]: how many fewer large runs would fit
    surcharge: np.ndarray  # for what is scarce
    options: dict[int, Option | None]
    # For a gang across nodes: the last counted state, and how many of the gang's GPUs fit there.
    counted: np.ndarray
    parts: np.ndarray


class Scoreboard:
    def __init__(self, layout: Layout, mix: TaskMix, seed: int, num_nodes_min: int = LOOKAHEAD_NODES_MIN) -> None:
        self._layout = layout
        self._outlook: Outlook = Fragmentation(layout, mix)
        self._prices: PlacePrices | None = None
        if len(layout.nodes) >= num_nodes_min and layout.classes and mix.on_gpus().weights:
            from headrace.placement.lookahead import Lookahead

            self._outlook = lookahead = Lookahead(layout, mix, seed)
            if len(lookahead.gangs.sizes):
                self._prices = PlacePrices(lookahead, len(layout.nodes))
        self._scarcity = SCARCITY * scarcity(layout, mix)
        self._cpu_milli_max = max((node.cpu_milli for node in layout.nodes), default=0) or 1
        self._gpu_milli_max = WHOLE * max((len(node.gpus) for node in layout.nodes), default=0) or 1
        self._rows: dict[Demand, _Row] = {}

    def costs(self, demand: Demand, states: Sequence[NodeState], numbers: np.ndarray) -> np.ndarray:
        """Costs by node, for these states with these numbers; infinite if the demand does not fit. Read only."""
        row = self._row(demand)
        (changed,) = (row.scored != numbers).nonzero()
        if len(changed):
            options = self.options(demand, [states[node] for node in changed.tolist()])
            fresh = np.array([np.inf if option is None else option.cost for option in options])
            row.costs[changed] = fresh + row.surcharge[changed]
            if self._prices is not None:
                row.places[changed] = 0
                for node, option in zip(changed.tolist(), options, strict=True):
                    if option is not None and option.places is not None:
                        row.places[node] = option.places
            row.scored[changed] = numbers[changed]
        if self._prices is None:
            return row.costs
        prices = self._prices.of(states, numbers)
        return row.costs + row.places @ prices if prices.any() else row.costs

    def options(self, demand: Demand, states: Sequence[NodeState]) -> list[Option | None]:
        """The best place on a node in each state, without scarcity."""
        row = self._row(demand)
        known = row.options
        if len(known) > _OPTIONS_MAX:
            known.clear()
        new = {state.number: state for state in states if state.number not in known}
        if new:
            known.update(zip(new, self.best_options(demand, list(new.values()), row.milli), strict=True))
        return [known[state.number] for state in states]

    def best_options(self, demand: Demand, states: Sequence[NodeState], milli: tuple[int, ...]) -> list[Option | None]:
        """Computes the results that `options` keeps."""
        choices = [choices_on(state, demand, milli) for state in states]
        after = [
            [after_taking(state, gpus, milli, demand) for gpus in chosen]
            for state, chosen in zip(states, choices, strict=True)
        ]
        before = [state.leftover for state, chosen in zip(states, choices, strict=True) if chosen]
        self._outlook.look_at([*before, *(leftover for leftovers in after for leftover in leftovers)])
        return [
            self._best(state, chosen, leftovers, milli, demand) if chosen else None
            for state, chosen, leftovers in zip(states, choices, after, strict=True)
        ]

    def parts(self, demand: Demand, states: Sequence[NodeState], numbers: np.ndarray) -> np.ndarray:
        """By node: how many of a gang's GPUs fit, with their part of CPU and memory. Read only."""
        row = self._row(demand)
        (changed,) = (row.counted != numbers).nonzero()
        if len(changed):
            row.parts[changed] = [_part_on(states[node], demand, row.milli) for node in changed.tolist()]
            row.counted[changed] = numbers[changed]
        return row.parts

    def milli(self, demand: Demand) -> tuple[int, ...]:
        """Thousandths that each of its devices takes, by GPU class."""
        return self._row(demand).milli

    def _row(self, demand: Demand) -> _Row:
        row = self._rows.get(demand)
        if row is None:
            if len(self._rows) >= _ROWS_MAX:
                del self._rows[next(iter(self._rows))]
            num_nodes = len(self._layout.nodes)
            row = self._rows[demand] = _Row(
                self._layout.milli_by_class(demand),
                np.full(num_nodes, -1, dtype=np.int64),
                np.full(num_nodes, np.inf),
                np.zeros((num_nodes, len(self._prices.sizes) if self._prices else 0), dtype=np.float32),
                self.surcharge(demand),
                {},
                np.full(num_nodes, -1, dtype=np.int64),
                np.zeros(num_nodes, dtype=np.int64),
            )
        return row

    def surcharge(self, demand: Demand) -> np.ndarray:
        """The price of scarcity, by node."""
        return demand.num_gpus * demand.gpu_milli * self._scarcity

    def _best(
        self,
        state: NodeState,
        choices: list[tuple[int, ...]],
        after: list[Leftover],
        milli: tuple[int, ...],
        demand: Demand,
    ) -> Option:
        lost, gpus = self._outlook.lost, choices[0]
        left, least_lost = after[0], lost[after[0]]
        if len(choices) > 1:
            least_lost, _, gpus, left = min(
                (lost[leftover], sum(state.usable[gpu] for gpu in chosen), chosen, leftover)
                for leftover, chosen in zip(after, choices, strict=True)
            )
        gpu_left = sum(state.usable) - sum(milli[state.kind.classes[gpu]] for gpu in gpus)
        best_fit = (
            BEST_FIT_CPU * (state.cpu_milli - demand.cpu_milli) / self._cpu_milli_max
            + BEST_FIT_GPU * gpu_left / self._gpu_milli_max
        )
        return Option(least_lost - lost[state.leftover] + best_fit, gpus, self._places_lost(state.leftover, left))

    def _places_lost(self, before: Leftover, after: Leftover) -> np.ndarray | None:
        places = self._outlook.places
        if not places:
            return None
        fewer = places[before] - places[after]
        return fewer if fewer.any() else None


def least(costs: np.ndarray, ties: str, seed: int, num_changes: int) -> int | None:
    """The node of least cost; among equal ones the first by name, or a drawn one. None: it fits nowhere."""
    if not len(costs):
        return None
    lowest = costs[int(costs.argmin())]
    if lowest == np.inf:
        return None
    (equal,) = (costs <= lowest + _EQUAL).nonzero()
    return int(equal[drawn(seed, num_changes) % len(equal) if ties == "random" else 0])


def drawn(seed: int, num_changes: int) -> int:
    """A number without pattern (splitmix64): the same for the same fleet after the same number of changes."""
    mixed = (seed * 0x9E3779B97F4A7C15 + (num_changes + 1) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return mixed ^ (mixed >> 31)


def after_taking(state: NodeState, gpus: tuple[int, ...], milli: tuple[int, ...], demand: Demand) -> Leftover:
    """What is left after the demand took these GPUs."""
    classes, usable = state.kind.classes, list(state.usable)
    for gpu in gpus:
        usable[gpu] -= milli[classes[gpu]]
    return leftover_of(state.cpu_milli - demand.cpu_milli, state.memory_mib - demand.memory_mib, classes, usable)


def choices_on(state: NodeState, demand: Demand, milli: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The GPUs that it could take, one choice of each kind; none: it does not fit."""
    if not fits(state, demand, milli):
        return []
    if not demand.num_gpus:
        return [()]
    gpus, classes = fitting(state, milli), state.kind.classes
    if demand.num_gpus == 1:
        return [(gpu,) for gpu in {(classes[gpu], state.usable[gpu]): gpu for gpu in reversed(gpus)}.values()]
    # Whole GPUs are all free: prefers GPUs of one class, and first the class with most fitting GPUs.
    count = {number: sum(classes[gpu] == number for gpu in gpus) for number in {classes[gpu] for gpu in gpus}}
    return [tuple(sorted(gpus, key=lambda gpu: (-count[classes[gpu]], classes[gpu], gpu))[: demand.num_gpus])]


def _part_on(state: NodeState, demand: Demand, milli: tuple[int, ...]) -> int:
    count = min(len(fitting(state, milli)), demand.num_gpus)
    while count and not (
        host_part(demand.cpu_milli, count, demand.num_gpus) <= max(0, state.cpu_milli)
        and host_part(demand.memory_mib, count, demand.num_gpus) <= max(0, state.memory_mib)
    ):
        count -= 1
    return count
