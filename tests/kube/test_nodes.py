from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.kube.nodes import demand_on, node_faults, nodes_to_inventory, products_of, uncounted_gpus
from headrace.kube.resources import NVIDIA, GpuResources
from headrace.kube.run_pod import NotOnePod
from headrace.placement.demand import Demand
from headrace.placement.fleet import Fleet
from headrace.placement.inventory import Gpu, Inventory, Node
from headrace.placement.packing import best_placement
from tests.kube.builders import GPU, SHARED, SLICE, make_node, make_pod

SHARING = GpuResources(shared=SHARED, shared_milli=250)
SLICED = GpuResources(shared=SLICE, shared_milli=142)


def healthy(node: Node) -> list[str]:
    return [gpu.device for gpu in node.gpus if gpu.healthy]


def one(*nodes: dict[str, Any], pods: list[dict[str, Any]] | None = None, gpus: GpuResources = NVIDIA) -> Node:
    (node,) = nodes_to_inventory(nodes, pods or [], gpus).nodes
    return node


def test_a_node_gives_its_allocatable_gpus_as_slots() -> None:
    node = one(make_node(gpus=2, allocatable={"cpu": "7910m", "memory": "1Gi"}))
    slots = tuple(Gpu(device=device, model="H100", memory_mib=81559) for device in "01")
    assert node == Node(name="node-a", gpus=slots, cpu_milli=7910, memory_mib=1024)


def test_a_node_goes_by_the_name_that_affinity_matches() -> None:
    node = make_node("ip-10-0-0-7")
    node["metadata"]["name"] = "ip-10-0-0-7.internal"
    pod = make_pod("ip-10-0-0-7.internal")
    assert one(node, pods=[pod]).name == "ip-10-0-0-7"
    assert healthy(one(node, pods=[pod])) == ["0", "1", "2"]


FAULTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "cordoned": ({"unschedulable": True}, ["cordoned"]),
    "tainted": (
        {"taints": [{"key": "maintenance", "effect": "NoExecute"}, {"key": "team", "effect": "NoSchedule"}]},
        ["tainted maintenance:NoExecute", "tainted team:NoSchedule"],
    ),
    "tainted as our pods tolerate": ({"taints": [{"key": GPU, "effect": "NoSchedule"}]}, []),
    "only disliked": ({"taints": [{"key": "spot", "effect": "PreferNoSchedule"}]}, []),
}


@pytest.mark.parametrize("case", FAULTS)
def test_nothing_new_is_put_where_our_pods_could_not_be_scheduled(case: str) -> None:
    spec, faults = FAULTS[case]
    node = make_node(**spec)
    assert node_faults(node) == faults
    found = one(node)
    assert (len(found.gpus), len(healthy(found))) == (4, 0 if faults else 4)
    assert found.cpu_milli == (0 if faults else 32_000)


@pytest.mark.parametrize("ready", ["False", "Unknown"])
def test_a_node_that_is_not_ready_keeps_its_slots_as_sick_ones(ready: str) -> None:
    node = make_node()
    node["status"]["conditions"][1]["status"] = ready
    assert node_faults(node) == ["not ready"]
    assert (len(one(node).gpus), healthy(one(node))) == (4, [])


def test_other_peoples_pods_are_subtracted() -> None:
    node = one(make_node(), pods=[make_pod(gpus=1), make_pod(gpus=2, cpu="2")])
    assert healthy(node) == ["0"]
    assert node.cpu_milli == 29_000


def test_pods_that_ended_are_nowhere_or_are_runs_own_take_nothing_here() -> None:
    pods = [make_pod(phase="Succeeded"), make_pod(phase="Failed"), make_pod("node-b"), make_pod(run_id="1c07")]
    pods.append(make_pod())
    del pods[-1]["spec"]["nodeName"]
    assert healthy(one(make_node(), pods=pods)) == ["0", "1", "2", "3"]


def test_others_take_no_slot_that_a_run_of_ours_holds() -> None:
    ours = make_pod(run_id="1c07", devices="2,3", gpus=2)
    assert healthy(one(make_node(), pods=[ours, make_pod()])) == ["0", "2", "3"]


def test_slots_held_before_their_pod_is_there_are_kept() -> None:
    inventory = nodes_to_inventory([make_node()], [make_pod(gpus=3)], held={"node-a": ["3"]})
    assert healthy(inventory.nodes[0]) == ["3"]


def test_a_slice_is_a_device_of_its_own() -> None:
    labels = {f"{SLICE}.product": "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", f"{SLICE}.memory": "9728"}
    node = one(make_node(gpus=1, labels=labels, allocatable={SLICE: "2"}), gpus=SLICED)
    assert [gpu.device for gpu in node.gpus] == ["0", f"{SLICE}#0", f"{SLICE}#1"]
    assert node.gpus[1] == Gpu(device=f"{SLICE}#0", model="A100-1G.10GB", memory_mib=9728)


def test_a_time_slice_is_a_part_of_its_gpu() -> None:
    node = one(make_node(gpus=0, labels={"nvidia.com/gpu.replicas": "4"}, allocatable={SHARED: "8"}), gpus=SHARING)
    assert len(node.gpus) == 8
    assert node.gpus[0] == Gpu(device=f"{SHARED}#0", model="H100-SHARED", memory_mib=20389)


def test_time_slices_under_the_name_of_whole_gpus_are_not_given_as_whole_ones() -> None:
    node = make_node(gpus=8, product="Tesla-T4-SHARED", labels={"nvidia.com/gpu.replicas": "4"})
    assert one(node).gpus == ()
    assert "gives away 8 nvidia.com/gpu that are parts of GPUs: they are left out" in str(uncounted_gpus(node))
    sharing = GpuResources(shared=GPU, shared_milli=250)
    assert {gpu.model for gpu in one(node, gpus=sharing).gpus} == {"T4-SHARED"}
    assert uncounted_gpus(node, sharing) is None


def mixed() -> Inventory:
    labels = {"nvidia.com/gpu.replicas": "4"}
    shared = make_node("node-b", gpus=0, product="NVIDIA-A100-SXM4-80GB", labels=labels, allocatable={SHARED: "4"})
    return nodes_to_inventory([make_node(), shared], [], SHARING)


def test_a_fraction_becomes_one_shared_unit() -> None:
    demand = demand_on(mixed(), Demand(num_gpus=1, gpu_milli=200), SHARING)
    assert demand == Demand(num_gpus=1, gpu_models=frozenset({"A100-SHARED"}))


def test_a_fraction_of_a_model_becomes_a_unit_of_that_model() -> None:
    fraction = Demand(num_gpus=1, gpu_milli=200)
    of_a100 = demand_on(mixed(), replace(fraction, gpu_models=frozenset({"A100"})), SHARING)
    of_h100 = demand_on(mixed(), replace(fraction, gpu_models=frozenset({"H100"})), SHARING)
    assert of_a100.gpu_models == {"A100-SHARED"}
    assert best_placement(Fleet(mixed()), of_h100) is None


def test_whole_gpus_are_kept_off_shared_ones() -> None:
    demand = demand_on(mixed(), Demand(num_gpus=1), SHARING)
    assert demand.gpu_models == {"H100"}
    assert demand_on(mixed(), Demand(num_gpus=5), SHARING) == Demand(num_gpus=5, gpu_models=frozenset({"H100"}))


@pytest.mark.parametrize(
    "demand", [Demand(), Demand(cpu_milli=5), Demand(num_gpus=1, gpu_models=frozenset({"A100-SHARED"}))]
)
def test_other_demands_stay_as_they_are(demand: Demand) -> None:
    assert demand_on(mixed(), demand, SHARING) == demand


def test_a_fraction_of_a_cluster_that_shares_nothing_is_refused() -> None:
    with pytest.raises(NotOnePod, match="this cluster gives away whole ones"):
        demand_on(mixed(), Demand(num_gpus=1, gpu_milli=200))


def test_products_are_found_by_the_short_names_of_their_models() -> None:
    nodes = [
        make_node(),
        make_node("b", product="NVIDIA-A100-SXM4-40GB"),
        make_node("c", product="NVIDIA-A100-PCIE-80GB"),
    ]
    assert products_of(nodes, {"A100"}) == {"NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-80GB"}


@given(
    num_gpus=st.integers(0, 8),
    ours=st.lists(st.integers(0, 7), unique=True),
    others=st.lists(st.integers(0, 3), max_size=4),
)
def test_no_more_is_free_than_others_leave(num_gpus: int, ours: list[int], others: list[int]) -> None:
    held = [slot for slot in ours if slot < num_gpus]
    pods = [make_pod(run_id="1c07", gpus=len(held), devices=",".join(map(str, held)))]
    pods += [make_pod(gpus=count, cpu="0") for count in others]
    node = one(make_node(gpus=num_gpus), pods=pods)
    free = set(healthy(node)) - {str(slot) for slot in held}
    assert len(free) == max(0, num_gpus - len(held) - sum(others))
    assert {str(slot) for slot in held} <= set(healthy(node))
