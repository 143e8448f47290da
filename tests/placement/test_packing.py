"""Which place a run gets, and that it gets one whenever there is one."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.placement.demand import Demand
from headrace.placement.fleet import Fleet
from headrace.placement.inventory import Gpu, Inventory, Node
from headrace.placement.packing import Packing, Wish, best_placement
from headrace.placement.placements import NOTHING
from headrace.placement.task_mix import TaskMix
from tests.placement.queueing_builders import make_demand


def make_node(name: str, *gpus: str, cpu_milli: int = 64_000, memory_mib: int = 262_144, sick: int = -1) -> Node:
    """GPUs as MODEL or MODEL:MIB, 80 GiB unless said."""
    return Node(
        name=name,
        gpus=tuple(
            Gpu(
                device=str(number),
                model=gpu.split(":")[0],
                memory_mib=int(gpu.split(":")[1]) if ":" in gpu else 81_920,
                healthy=number != sick,
            )
            for number, gpu in enumerate(gpus)
        ),
        cpu_milli=cpu_milli,
        memory_mib=memory_mib,
    )


def make_fleet(*nodes: Node) -> Fleet:
    return Fleet(Inventory(nodes=nodes))


def taken(fleet: Fleet, run_id: str, demand: Demand, **options: object) -> list[tuple[str, str, int]]:
    placement = best_placement(fleet, demand, **options)  # pyright: ignore[reportArgumentType]
    assert placement is not None
    fleet.take(run_id, placement)
    return [(share.node, share.device, share.milli) for share in placement.gpus]


def test_a_demand_for_nothing_gets_nothing() -> None:
    assert best_placement(make_fleet(), Demand()) == NOTHING


def test_a_share_joins_another_share_and_leaves_whole_gpus_whole() -> None:
    fleet = make_fleet(make_node("a", *["H100"] * 4))
    first = taken(fleet, "1", Demand(num_gpus=1, gpu_milli=500))
    assert taken(fleet, "2", Demand(num_gpus=1, gpu_milli=500)) == first
    assert len(taken(fleet, "3", Demand(num_gpus=3))) == 3


def test_a_share_by_mib_takes_the_thousandths_that_hold_it_rounded_up() -> None:
    fleet = make_fleet(make_node("a", "A10:24000"))
    assert taken(fleet, "1", Demand(num_gpus=1, gpu_milli=1, gpu_memory_mib=8001)) == [("a", "0", 334)]
    assert best_placement(fleet, Demand(num_gpus=1, gpu_milli=1, gpu_memory_mib=16_000)) is None


def test_whole_gpus_have_the_memory_that_each_must_have() -> None:
    fleet = make_fleet(make_node("a", "A10:24000", "A100:40000"), make_node("b", "A10:24000", "A10:24000"))
    assert taken(fleet, "1", Demand(num_gpus=1, gpu_memory_mib=30_000)) == [("a", "1", 1000)]
    assert best_placement(fleet, Demand(num_gpus=1, gpu_memory_mib=30_000)) is None


def test_only_allowed_models_are_given() -> None:
    fleet = make_fleet(make_node("a", "A10", "H100"), make_node("b", "A10"))
    assert taken(fleet, "1", Demand(num_gpus=1, gpu_models=frozenset({"H100"}))) == [("a", "1", 1000)]
    assert best_placement(fleet, Demand(num_gpus=1, gpu_models=frozenset({"H100"}))) is None


def test_a_run_that_names_no_model_leaves_the_model_that_others_ask_for_by_name() -> None:
    nodes = [make_node(f"a{number}", "H100") for number in range(2)]
    fleet = make_fleet(*nodes, *[make_node(f"b{number}", "A10") for number in range(4)])
    by_name = Demand(num_gpus=1, gpu_models=frozenset({"H100"}))
    mix = TaskMix(weights=((by_name, 5.0), (Demand(num_gpus=1), 5.0)))
    assert taken(fleet, "1", Demand(num_gpus=1), packing=Packing(mix=mix))[0][0] == "b0"


def test_nothing_new_is_put_on_a_sick_gpu() -> None:
    fleet = make_fleet(make_node("a", "H100", "H100", sick=0))
    assert taken(fleet, "1", Demand(num_gpus=1, gpu_milli=100)) == [("a", "1", 100)]
    assert best_placement(fleet, Demand(num_gpus=2)) is None


def test_cpu_and_memory_beside_bind_too() -> None:
    fleet = make_fleet(make_node("a", "H100", cpu_milli=4000), make_node("b", "H100", memory_mib=1000))
    assert taken(fleet, "1", Demand(num_gpus=1, cpu_milli=4001))[0][0] == "b"
    assert taken(fleet, "2", Demand(num_gpus=1, memory_mib=1001))[0][0] == "a"
    assert best_placement(fleet, Demand(cpu_milli=60_000)) is None


def test_a_run_without_gpus_goes_where_no_gpu_waits_for_its_cpu() -> None:
    fleet = make_fleet(make_node("a", "H100", cpu_milli=8000), make_node("b", "H100", cpu_milli=8000))
    fleet.take("1", best_placement(fleet, Demand(num_gpus=1)) or NOTHING)
    mix = TaskMix(weights=((Demand(num_gpus=1, cpu_milli=8000), 1.0),))
    placement = best_placement(fleet, Demand(cpu_milli=2000), Packing(mix=mix))
    assert placement is not None
    assert placement.nodes == ("a",)


def test_a_gang_on_one_node_is_never_spread() -> None:
    fleet = make_fleet(make_node("a", "H100", "H100"), make_node("b", "H100", "H100"))
    assert best_placement(fleet, Demand(num_gpus=3, gang="node")) is None


def test_a_gang_across_nodes_takes_few_nodes_and_cpu_in_proportion() -> None:
    fleet = make_fleet(make_node("a", "H100"), make_node("b", *["H100"] * 4), make_node("c", "H100", "H100"))
    placement = best_placement(fleet, Demand(num_gpus=6, gang="any", cpu_milli=7001))
    assert placement is not None
    assert [len(placement.devices_on(node)) for node in ("a", "b", "c")] == [0, 4, 2]
    assert [(host.node, host.cpu_milli) for host in placement.hosts] == [("b", 4668), ("c", 2334)]


def test_a_gang_across_nodes_stays_on_one_that_is_large_enough() -> None:
    fleet = make_fleet(make_node("a", "H100", "H100"), make_node("b", *["H100"] * 4))
    placement = best_placement(fleet, Demand(num_gpus=4, gang="any"))
    assert placement is not None
    assert placement.nodes == ("b",)


def test_equal_nodes_are_taken_by_name_or_drawn_by_seed() -> None:
    nodes = [make_node(name, "H100") for name in "dbca"]
    assert taken(make_fleet(*nodes), "1", Demand(num_gpus=1))[0][0] == "a"
    drawn = [
        taken(make_fleet(*nodes), "1", Demand(num_gpus=1), packing=Packing(ties="random", seed=seed))[0][0]
        for seed in [*range(20)] * 2
    ]
    assert drawn[:20] == drawn[20:]
    assert set(drawn) == set("abcd")


def test_ties_that_nobody_knows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"by name or random, got 'coin': set Packing.ties"):
        Packing(ties="coin")


def test_a_run_gets_the_device_that_it_prefers_and_never_one_to_avoid() -> None:
    fleet = make_fleet(make_node("a", "H100", "H100"), make_node("b", "H100", "H100"))
    taken(fleet, "1", Demand(num_gpus=1, gpu_milli=500))
    half = Demand(num_gpus=1, gpu_milli=500)
    assert taken(fleet.copy(), "2", half, wish=Wish(prefer=frozenset({("b", "1")}))) == [("b", "1", 500)]
    kept = frozenset(itertools.product("ab", "0"))
    assert taken(fleet.copy(), "2", half, wish=Wish(avoid=kept))[0][1] == "1"
    assert best_placement(fleet, Demand(num_gpus=2), wish=Wish(avoid=kept)) is None
    # A wish that cannot be had is no reason to wait.
    assert best_placement(fleet, half, wish=Wish(prefer=frozenset({("z", "9")}))) is not None


def test_a_preferred_device_to_avoid_is_avoided() -> None:
    fleet = make_fleet(make_node("a", "H100", "H100"))
    one = frozenset({("a", "0")})
    assert taken(fleet, "1", Demand(num_gpus=1), wish=Wish(prefer=one, avoid=one)) == [("a", "1", 1000)]


@given(
    shares=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(1, 1000)), max_size=8),
    cpus=st.lists(st.integers(0, 8), min_size=3, max_size=3),
    num_gpus=st.integers(0, 4),
    gpu_milli=st.integers(1, 1000),
    gpu_memory_mib=st.sampled_from([0, 10_000, 30_000]),
    models=st.sets(st.sampled_from(["A10", "H100"])),
    cpu=st.integers(0, 8),
    ties=st.sampled_from(["name", "random"]),
    gang=st.sampled_from(["node", "any"]),
)
def test_a_place_is_found_exactly_when_trying_all_finds_one(
    shares, cpus, num_gpus, gpu_milli, gpu_memory_mib, models, cpu, ties, gang
) -> None:
    nodes = [
        make_node("a", "A10:24000", "A10:24000", "H100", cpu_milli=cpus[0] * 1000),
        make_node("b", "H100", "H100", cpu_milli=cpus[1] * 1000, sick=1),
        make_node("c", "A10:24000", "H100", "H100", "A10:24000", cpu_milli=cpus[2] * 1000),
    ]
    fleet = make_fleet(*nodes)
    for number, (node, device, milli) in enumerate(shares):
        there = [(nodes[node].name, str(device))] if device < len(nodes[node].gpus) else []
        for name, gpu in there:
            if fleet.free_milli(name, gpu) >= milli:
                share = Demand(num_gpus=1, gpu_milli=milli)
                found = best_placement(fleet, share, wish=Wish(prefer=frozenset({(name, gpu)})))
                fleet.take(str(number), found or NOTHING)
    demand = make_demand(num_gpus, gpu_milli, gpu_memory_mib, models, gang=gang, cpu_milli=cpu * 1000)
    placement = best_placement(fleet, demand, Packing(ties=ties))
    assert (placement is not None) == _possible(fleet, nodes, demand)
    if placement is not None:
        assert len({(share.node, share.device) for share in placement.gpus}) == num_gpus
        fleet.take("all of it", placement)


def _possible(fleet: Fleet, nodes: list[Node], demand: Demand) -> bool:
    fitting = {
        node.name: [
            gpu.device
            for gpu in node.gpus
            if (not demand.gpu_models or gpu.model in demand.gpu_models)
            and demand.milli_on(gpu.memory_mib) <= fleet.free_milli(node.name, gpu.device)
        ]
        for node in nodes
    }
    counts = [range(len(fitting[node.name]) + 1) for node in nodes]
    for split in itertools.product(*counts):
        if sum(split) != demand.num_gpus:
            continue
        used = [number for number, count in enumerate(split) if count]
        if len(used) > 1 and demand.gang == "node":
            continue
        if all(
            fleet.free_cpu_milli(nodes[number].name) * demand.num_gpus >= demand.cpu_milli * split[number]
            for number in used
        ) and (used or any(fleet.free_cpu_milli(node.name) >= demand.cpu_milli for node in nodes)):
            return True
    return False
