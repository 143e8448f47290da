"""What is held and what is free, under any order of events."""

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.placement.demand import Demand
from headrace.placement.fleet import Fleet, OverCommitted, empty
from headrace.placement.inventory import Gpu, Inventory, Node
from headrace.placement.packing import Packing, Wish, best_placement
from headrace.placement.placements import GpuShare, HostShare, Placement
from tests.placement.queueing_builders import make_demand


def make_inventory(*, num_nodes: int = 1, num_gpus: int = 2, sick: str = "", cpu_milli: int = 8000) -> Inventory:
    return Inventory(
        nodes=tuple(
            Node(
                name=f"n{node}",
                gpus=tuple(
                    Gpu(device=str(gpu), model="AH"[node % 2], memory_mib=24_000, healthy=str(gpu) != sick)
                    for gpu in range(num_gpus)
                ),
                cpu_milli=cpu_milli,
                memory_mib=8192,
            )
            for node in range(num_nodes)
        )
    )


def on(device: str, milli: int, node: str = "n0") -> Placement:
    return Placement(gpus=(GpuShare(node=node, device=device, milli=milli),))


def test_more_than_is_free_is_refused_and_nothing_changes() -> None:
    fleet = Fleet(make_inventory())
    fleet.take("first", on("0", 600))
    with pytest.raises(OverCommitted, match="Run second was to take 401/1000 of n0:0"):
        fleet.take("second", on("0", 401))
    with pytest.raises(OverCommitted, match="9000 milli CPU"):
        fleet.take("second", Placement(hosts=(HostShare(node="n0", cpu_milli=9000, memory_mib=1),)))
    assert (fleet.free_milli("n0", "0"), fleet.free_cpu_milli("n0"), set(fleet.held())) == (400, 8000, {"first"})


def test_a_run_cannot_hold_twice() -> None:
    fleet = Fleet(make_inventory())
    fleet.take("one", on("0", 1))
    with pytest.raises(OverCommitted, match="holds a placement already"):
        fleet.take("one", on("1", 1))


def test_a_sick_gpu_has_nothing_free_and_gives_nothing_new() -> None:
    fleet = Fleet(make_inventory(sick="1"))
    assert fleet.free_milli("n0", "1") == 0
    with pytest.raises(OverCommitted, match="n0:1"):
        fleet.take("one", on("1", 1))
    fleet.take("runs there already", on("1", 1000), found=True)
    assert empty(fleet.inventory).free_milli("n0", "1") == 1000


def test_what_is_found_running_counts_even_where_it_is_too_much_or_gone() -> None:
    fleet = Fleet(make_inventory())
    fleet.take("a", on("0", 800), found=True)
    fleet.take("b", on("0", 800), found=True)
    fleet.take("c", on("7", 1000, node="vanished"), found=True)
    assert fleet.free_milli("n0", "0") == 0
    fleet.release("a")
    assert fleet.free_milli("n0", "0") == 200
    fleet.release("c")
    fleet.release("nobody")
    assert set(fleet.held()) == {"b"}


def test_a_copy_goes_its_own_way() -> None:
    fleet = Fleet(make_inventory())
    twin = fleet.copy()
    twin.take("there only", on("0", 1000))
    assert best_placement(twin, Demand(num_gpus=2)) is None
    assert best_placement(fleet, Demand(num_gpus=2)) is not None
    assert fleet.held() == {}


def test_fleets_of_equal_inventories_do_not_share_what_is_held() -> None:
    one, other = Fleet(make_inventory()), Fleet(make_inventory())
    one.take("a", on("0", 1000))
    assert other.free_milli("n0", "0") == 1000


class RandomEvents(RuleBasedStateMachine):
    """Runs come and go in any order; a ledger of plain sums says what must be free."""

    @initialize(ties=st.sampled_from(["name", "random"]), num_nodes=st.integers(1, 3), sick=st.sampled_from(["", "1"]))
    def build(self, ties: str, num_nodes: int, sick: str) -> None:
        self.fleet = Fleet(make_inventory(num_nodes=num_nodes, num_gpus=3, sick=sick))
        self.packing = Packing(ties=ties, seed=7)
        self.ledger: dict[str, Placement] = {}
        self.number = 0

    @rule(
        num_gpus=st.integers(0, 5),
        milli=st.integers(1, 1000),
        memory_mib=st.sampled_from([0, 0, 9000]),
        models=st.sets(st.sampled_from("AH"), max_size=1),
        gang=st.sampled_from(["node", "any"]),
        cpu=st.integers(0, 5),
        memory=st.integers(0, 3),
        avoid=st.sets(st.tuples(st.sampled_from(["n0", "n1"]), st.sampled_from("012")), max_size=2),
        prefer=st.sets(st.tuples(st.sampled_from(["n0", "n2"]), st.sampled_from("012")), max_size=2),
    )
    def arrive(self, num_gpus, milli, memory_mib, models, gang, cpu, memory, avoid, prefer) -> None:
        more = {"gang": gang, "cpu_milli": cpu * 1001, "memory_mib": memory * 1001}
        demand = make_demand(num_gpus, milli, memory_mib, models, **more)
        wish = Wish(prefer=frozenset(prefer), avoid=frozenset(avoid))
        placement = best_placement(self.fleet, demand, self.packing, wish)
        assert placement == best_placement(self.fleet.copy(), demand, self.packing, wish)
        if placement is None:
            return
        # All of it, of what is allowed.
        assert len({(share.node, share.device) for share in placement.gpus}) == num_gpus
        assert not {(share.node, share.device) for share in placement.gpus} & avoid
        assert gang == "any" or len(placement.nodes) <= 1
        assert sum(host.cpu_milli for host in placement.hosts) >= demand.cpu_milli
        assert sum(host.memory_mib for host in placement.hosts) >= demand.memory_mib
        for share in placement.gpus:
            assert share.milli == demand.milli_on(24_000)
        self.number += 1
        self.fleet.take(f"run {self.number}", placement)
        self.ledger[f"run {self.number}"] = placement

    @precondition(lambda self: self.ledger)
    @rule(which=st.integers(0, 1000))
    def leave(self, which: int) -> None:
        run_id = sorted(self.ledger)[which % len(self.ledger)]
        self.fleet.release(run_id)
        del self.ledger[run_id]

    @rule()
    def go_on_with_a_copy(self) -> None:
        self.fleet = self.fleet.copy()

    @invariant()
    def every_dimension_is_within_capacity_and_adds_up(self) -> None:
        if not hasattr(self, "fleet"):
            return
        for node in self.fleet.nodes.values():
            hosts = [host for held in self.ledger.values() for host in held.hosts if host.node == node.name]
            assert self.fleet.free_cpu_milli(node.name) == node.cpu_milli - sum(host.cpu_milli for host in hosts) >= 0
            left_mib = node.memory_mib - sum(host.memory_mib for host in hosts)
            assert self.fleet.free_memory_mib(node.name) == left_mib >= 0
            for gpu in node.gpus:
                left = 1000 - sum(
                    share.milli
                    for held in self.ledger.values()
                    for share in held.gpus
                    if (share.node, share.device) == (node.name, gpu.device)
                )
                assert left >= 0
                assert self.fleet.free_milli(node.name, gpu.device) == (left if gpu.healthy else 0)
        assert self.fleet.held() == self.ledger
        assert np.array_equal(self.fleet.state_numbers, [state.number for state in self.fleet.states])


test_capacity_holds_in_every_dimension_under_any_order_of_events = RandomEvents.TestCase
