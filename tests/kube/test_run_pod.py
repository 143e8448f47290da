import json
from typing import Any, cast

import kubernetes_validate
import pytest
from dagster_k8s.job import DagsterK8sJobConfig, UserDefinedDagsterK8sConfig, construct_dagster_k8s_job
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.client import ApiClient

from headrace.kube.checks import check_job
from headrace.kube.merging import merged_config
from headrace.kube.nodes import demand_on, nodes_to_inventory
from headrace.kube.resources import NVIDIA, GpuResources
from headrace.kube.run_pod import DEVICES, NotOnePod, PodWishes, run_pod_config
from headrace.placement.demand import Demand
from headrace.placement.fleet import Fleet
from headrace.placement.packing import best_placement
from headrace.placement.placements import NOTHING, GpuShare, Placement
from tests.kube.builders import GPU, SHARED, SLICE, make_node, placed

SHARING = GpuResources(shared=SHARED, shared_milli=250)
TWO = Demand(num_gpus=2)


def test_limits_and_requests_of_gpus_are_the_same() -> None:
    resources = run_pod_config(TWO, placed("0", "1"))["container_config"]["resources"]
    assert resources == {"limits": {GPU: "2"}, "requests": {GPU: "2"}}


def test_memory_is_bounded_and_cpus_are_only_reserved() -> None:
    demand = Demand(cpu_milli=1500, memory_mib=2048)
    config = run_pod_config(demand, placed(cpu_milli=1500, memory_mib=2048))
    assert config["container_config"]["resources"] == {
        "limits": {"memory": "2048Mi"},
        "requests": {"cpu": "1500m", "memory": "2048Mi"},
    }


def test_the_product_is_asked_for_beside_the_node() -> None:
    config = run_pod_config(TWO, placed("0", "1"), PodWishes(products=["B", "A"]))
    node = config["pod_spec_config"]["affinity"]["node_affinity"]
    (term,) = node["required_during_scheduling_ignored_during_execution"]["node_selector_terms"]
    assert term["match_expressions"] == [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-a"]},
        {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["A", "B"]},
    ]


def test_a_pod_says_which_slots_it_holds() -> None:
    config = run_pod_config(TWO, placed("1", "3"))
    assert config["pod_template_spec_metadata"] == {"annotations": {DEVICES: "1,3"}}


def test_a_slice_is_asked_for_by_its_own_name() -> None:
    wishes = PodWishes(gpus=GpuResources(shared=SLICE, shared_milli=142))
    config = run_pod_config(Demand(num_gpus=1, gpu_milli=100), placed(f"{SLICE}#0"), wishes)
    assert config["container_config"] == {"resources": {"limits": {SLICE: "1"}, "requests": {SLICE: "1"}}}


ACROSS = Placement(gpus=tuple(GpuShare(node=node, device="0", milli=1000) for node in ("a", "b")))
REFUSALS: dict[str, tuple[Demand, Placement, PodWishes, str]] = {
    "a gang on several nodes": (TWO, ACROSS, PodWishes(), r"on 2 nodes \(a, b\), and it is one pod on one node"),
    "a gang that Kueue might spread": (
        Demand(num_gpus=2, gang="any"),
        NOTHING,
        PodWishes(kueue_queue="q"),
        "2 GPUs on any nodes, and is one pod",
    ),
    "a fraction of a whole GPU": (
        Demand(num_gpus=1, gpu_milli=500),
        placed("0", milli=500),
        PodWishes(),
        "asks for 500/1000 of a GPU, and this cluster gives away whole ones",
    ),
    "a fraction that was placed whole": (
        Demand(num_gpus=1, gpu_milli=200),
        placed("0"),
        PodWishes(gpus=SHARING),
        "was not translated for Kubernetes",
    ),
    "a fraction above the unit": (
        Demand(num_gpus=1, gpu_milli=500),
        placed(f"{SHARED}#0"),
        PodWishes(gpus=SHARING),
        "a unit of nvidia.com/gpu.shared is 250/1000; two units may be of two GPUs",
    ),
    "a unit that two runs could be promised": (
        Demand(num_gpus=1, gpu_milli=200),
        placed(f"{SHARED}#0", milli=200),
        PodWishes(gpus=SHARING),
        "admitted to 200/1000 of node-a:nvidia.com/gpu.shared#0, and a pod takes whole units",
    ),
    "a part for a whole": (
        Demand(num_gpus=1),
        placed(f"{SHARED}#0"),
        PodWishes(gpus=SHARING),
        "asks for a whole GPU and was admitted to node-a:nvidia.com/gpu.shared#0, a part of one",
    ),
    "devices of two kinds": (
        Demand(num_gpus=2, gpu_models=frozenset({"A100"})),
        placed("0", f"{SHARED}#0"),
        PodWishes(gpus=SHARING),
        "devices of several kinds",
    ),
    "a device of a machine": (Demand(num_gpus=1), placed("GPU-5c07"), PodWishes(), "is not a slot of a cluster"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_one_pod_cannot_have_is_refused(case: str) -> None:
    demand, placement, wishes, words = REFUSALS[case]
    with pytest.raises(NotOnePod, match=words):
        run_pod_config(demand, placement, wishes)


def job_of(config: dict[str, Any]) -> dict[str, Any]:
    """The manifest that dagster-k8s makes of a config, as it is sent."""
    job = construct_dagster_k8s_job(
        DagsterK8sJobConfig(job_image="pipelines:1", dagster_home="/home", instance_config_map="instance"),
        ["dagster", "api", "execute_run"],
        "dagster-run-1",
        UserDefinedDagsterK8sConfig.from_dict(config),
        labels={"dagster/run-id": "1"},
    )
    return cast("dict[str, Any]", ApiClient().sanitize_for_serialization(job))


USER_CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "container_config": st.fixed_dictionaries(
            {},
            optional={
                "resources": st.fixed_dictionaries(
                    {},
                    optional={
                        "limits": st.dictionaries(st.sampled_from([GPU, SLICE, "cpu", "memory"]), st.just("1")),
                        "requests": st.dictionaries(st.sampled_from([GPU, SLICE, "cpu", "memory"]), st.just("1")),
                    },
                ),
                "env": st.just([{"name": "PYTORCH_CUDA_ALLOC_CONF", "value": "backend:native"}]),
            },
        ),
        "pod_spec_config": st.fixed_dictionaries(
            {},
            optional={
                "restart_policy": st.sampled_from(["Always", "OnFailure"]),
                "tolerations": st.just([{"key": "spot", "operator": "Exists"}]),
                "affinity": st.just(
                    {
                        "node_affinity": {
                            "required_during_scheduling_ignored_during_execution": {
                                "node_selector_terms": [
                                    {"match_expressions": [{"key": "zone", "operator": "In", "values": ["b"]}]},
                                    {"match_fields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]},
                                ]
                            }
                        }
                    }
                ),
            },
        ),
        "job_spec_config": st.just({"backoff_limit": 6, "parallelism": 4}),
        "job_metadata": st.just({"labels": {"team": "x"}}),
    },
)
DEMANDS = st.builds(
    Demand,
    num_gpus=st.integers(0, 8),
    gpu_memory_mib=st.sampled_from([0, 10_000]),
    gang=st.sampled_from(["node", "node", "node", "any"]),
    cpu_milli=st.integers(0, 8000),
    memory_mib=st.integers(0, 4096),
) | st.builds(Demand, num_gpus=st.just(1), gpu_milli=st.integers(1, 300))


@given(
    demand=DEMANDS,
    user=USER_CONFIGS,
    kueue_queue=st.sampled_from(["", "gpus"]),
    gpus=st.sampled_from([NVIDIA, SHARING]),
)
def test_whatever_is_admitted_becomes_a_job_that_kubernetes_takes(
    demand: Demand, user: dict[str, Any], kueue_queue: str, gpus: GpuResources
) -> None:
    nodes = [
        make_node(gpus=8),
        make_node("node-b", gpus=0, allocatable={SHARED: "8"}, labels={"nvidia.com/gpu.replicas": "4"}),
    ]
    inventory = nodes_to_inventory(nodes, [], gpus)
    before = json.dumps(user)
    try:
        placement = NOTHING if kueue_queue else best_placement(Fleet(inventory), demand_on(inventory, demand, gpus))
        if placement is None:
            return
        ours = run_pod_config(demand, placement, PodWishes(gpus=gpus, kueue_queue=kueue_queue))
    except NotOnePod:
        # Only what is documented is refused.
        assert demand.is_shared or demand.gang == "any"
        return
    job = job_of(merged_config(user, ours, gpus))
    kubernetes_validate.validate(job, "1.37", strict=True)
    assert check_job(job) == []
    limits = job["spec"]["template"]["spec"]["containers"][0]["resources"].get("limits", {})
    assert sum(int(count) for name, count in limits.items() if gpus.is_gpu(name)) == demand.num_gpus
    assert json.dumps(user) == before
