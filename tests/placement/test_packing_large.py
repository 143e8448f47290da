"""Packing of a fleet that is large enough to look ahead."""

import subprocess
import sys
from dataclasses import replace

import pytest

from headrace.placement.demand import Demand
from headrace.placement.fleet import Fleet
from headrace.placement.inventory import Gpu, Inventory, Node
from headrace.placement.packing import Packing, best_placement
from headrace.placement.scoreboard import LOOKAHEAD_NODES_MIN
from headrace.placement.task_mix import ANY_MIX, TaskMix


def make_fleet(*, num_nodes: int = LOOKAHEAD_NODES_MIN, num_gpus: int = 8, cpu_milli: int = 96_000) -> Fleet:
    gpus = tuple(Gpu(device=str(gpu), model="H100", memory_mib=81_920) for gpu in range(num_gpus))
    return Fleet(
        Inventory(
            nodes=tuple(
                Node(name=f"n{node:03}", gpus=gpus, cpu_milli=cpu_milli, memory_mib=786_432)
                for node in range(num_nodes)
            )
        )
    )


def filled(fleet: Fleet, demands: list[Demand], packing: Packing) -> int:
    """How many found a place."""
    found = 0
    for number, demand in enumerate(demands):
        placement = best_placement(fleet, demand, packing)
        if placement is not None:
            fleet.take(f"run {number}", placement)
            found += 1
    return found


@pytest.mark.parametrize("ties", ["name", "random"])
def test_single_runs_leave_whole_nodes_to_the_gangs_that_come(ties: str) -> None:
    single, gang = Demand(num_gpus=1, cpu_milli=8000), Demand(num_gpus=8, cpu_milli=64_000)
    packing = Packing(ties=ties, mix=TaskMix(weights=((single, 8.0), (gang, 1.0))))
    fleet = make_fleet()
    assert filled(fleet, [single] * 8 * (LOOKAHEAD_NODES_MIN // 2), packing) == 8 * (LOOKAHEAD_NODES_MIN // 2)
    placed = 0
    while (placement := best_placement(fleet, gang, packing)) is not None:
        fleet.take(f"gang {placed}", placement)
        placed += 1
    assert placed >= LOOKAHEAD_NODES_MIN // 2 - 1


def test_the_few_nodes_that_can_hold_a_rare_gang_are_kept_for_it_while_others_have_room() -> None:
    """One run in five hundred asks for more CPUs than the nodes have, but for the first three by name."""
    single, rare = Demand(num_gpus=1, cpu_milli=8000), Demand(num_gpus=8, cpu_milli=120_000)
    packing = Packing(mix=TaskMix(weights=((single, 499.0), (rare, 1.0))))
    nodes = make_fleet().inventory.nodes
    large = tuple(replace(node, cpu_milli=128_000) for node in nodes[:3])
    fleet = Fleet(Inventory(nodes=(*large, *nodes[3:])))
    num_others = 8 * len(nodes[3:])
    assert filled(fleet, [single] * (num_others - 8), packing) == num_others - 8
    assert best_placement(fleet, rare, packing) is not None
    # And nobody is turned away for it.
    for number in range(32):
        placement = best_placement(fleet, single, packing)
        assert placement is not None
        fleet.take(f"late {number}", placement)


def test_a_fleet_is_filled_to_the_last_gpu_that_anyone_can_use() -> None:
    fleet = make_fleet(num_gpus=2)
    half = Demand(num_gpus=1, gpu_milli=500)
    assert filled(fleet, [half] * 4 * LOOKAHEAD_NODES_MIN, Packing()) == 4 * LOOKAHEAD_NODES_MIN
    assert best_placement(fleet, Demand(num_gpus=1, gpu_milli=1)) is None


def test_the_same_seed_packs_alike_and_scores_kept_from_before_change_nothing() -> None:
    demands = [ANY_MIX.weights[number % 6][0] for number in range(120)]
    packing = Packing(ties="random", seed=5)
    first, again = make_fleet(), make_fleet()
    filled(first, demands, packing)
    filled(again, demands, packing)
    assert first.held() == again.held()


def test_a_large_fleet_without_gpus_takes_runs_without_gpus() -> None:
    fleet = make_fleet(num_gpus=0)
    assert filled(fleet, [Demand(cpu_milli=48_000)] * 100, Packing()) == 2 * LOOKAHEAD_NODES_MIN
    assert best_placement(fleet, Demand(num_gpus=1)) is None


@pytest.mark.parametrize("num_nodes", [1, LOOKAHEAD_NODES_MIN])
@pytest.mark.parametrize("weights", [(), ((Demand(cpu_milli=1000), 1.0),)])
def test_a_mix_that_says_nothing_of_gpus_is_no_obstacle(num_nodes: int, weights: tuple) -> None:
    packing = Packing(mix=TaskMix(weights=weights))
    assert filled(make_fleet(num_nodes=num_nodes), [Demand(num_gpus=8)] * 40, packing) == num_nodes


def test_a_weight_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weighs each demand above 0, got 0\.0 for Demand"):
        TaskMix(weights=((Demand(num_gpus=1), 0.0),))


def test_a_small_fleet_loads_no_compiler() -> None:
    code = (
        "import sys; from tests.placement.test_packing_large import *;"
        "filled(make_fleet(num_nodes=1), [Demand(num_gpus=1)] * 9, Packing());"
        "sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_draws_hold_every_demand_as_often_as_the_mix_says() -> None:
    draws = ANY_MIX.draws(5, 60, seed=1)
    total = sum(weight for _, weight in ANY_MIX.weights)
    for number, (_, weight) in enumerate(ANY_MIX.weights):
        for stream in draws:
            assert abs((stream == number).sum() - 60 * weight / total) < 1.01
