from typing import Any

import pytest

from headrace.kube.merging import merged_config, overridden_gpus
from headrace.kube.resources import NVIDIA, GpuResources
from headrace.kube.run_pod import PodWishes, run_pod_config
from headrace.placement.demand import Demand
from headrace.placement.placements import NOTHING
from tests.kube.builders import GPU, SHARED, SLICE, placed

OURS = run_pod_config(
    Demand(num_gpus=2, cpu_milli=500, memory_mib=512), placed("0", "1", cpu_milli=500, memory_mib=512)
)
REQUIRED = "required_during_scheduling_ignored_during_execution"


def resources_of(config: dict[str, Any]) -> dict[str, Any]:
    return config["container_config"]["resources"]


def asking(limits: dict[str, Any], **requests: Any) -> dict[str, Any]:
    return {"container_config": {"resources": {"limits": limits, "requests": requests}}}


def test_only_what_is_counted_is_ours() -> None:
    merged = merged_config(asking({GPU: 8, SLICE: 1, "cpu": "100m", "ephemeral-storage": "1Gi"}), OURS, NVIDIA)
    assert resources_of(merged) == {
        "limits": {GPU: "2", "memory": "512Mi", "ephemeral-storage": "1Gi"},
        "requests": {GPU: "2", "cpu": "500m", "memory": "512Mi"},
    }


def test_undeclared_cpus_and_memory_stay_the_users() -> None:
    ours = run_pod_config(Demand(num_gpus=1), placed("0"))
    merged = merged_config(asking({"cpu": "4", "memory": "8Gi"}, cpu="2"), ours, NVIDIA)
    assert resources_of(merged) == {
        "limits": {GPU: "1", "cpu": "4", "memory": "8Gi"},
        "requests": {GPU: "1", "cpu": "2"},
    }


def test_a_run_without_gpus_keeps_none_that_it_asked_for_elsewhere() -> None:
    merged = merged_config(asking({GPU: 1}), run_pod_config(Demand(), NOTHING), NVIDIA)
    assert resources_of(merged) == {}


def test_each_of_the_users_alternatives_is_narrowed_to_our_node() -> None:
    zones = [{"match_expressions": [{"key": "zone", "operator": "In", "values": [zone]}]} for zone in "ab"]
    affinity = {"node_affinity": {REQUIRED: {"node_selector_terms": zones}}, "pod_anti_affinity": {"x": 1}}
    merged = merged_config({"pod_spec_config": {"affinity": affinity}}, OURS, NVIDIA)["pod_spec_config"]["affinity"]
    ours = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-a"]}
    terms = merged["node_affinity"][REQUIRED]["node_selector_terms"]
    assert [term["match_expressions"][-1] for term in terms] == [ours, ours]
    assert [term["match_expressions"][0]["values"] for term in terms] == [["a"], ["b"]]
    assert merged["pod_anti_affinity"] == {"x": 1}


def test_the_users_allocator_settings_stay_beside_the_memory_share() -> None:
    gpus = GpuResources(shared=SHARED, shared_milli=250)
    ours = run_pod_config(Demand(num_gpus=1, gpu_milli=200), placed(f"{SHARED}#0"), PodWishes(gpus=gpus))
    env = [{"name": "PYTORCH_CUDA_ALLOC_CONF", "value": "backend:native"}, {"name": "A", "value": "1"}]
    merged = merged_config({"container_config": {"env": env}}, ours, gpus)
    assert merged["container_config"]["env"] == [
        {"name": "A", "value": "1"},
        {"name": "PYTORCH_CUDA_ALLOC_CONF", "value": "backend:native,per_process_memory_fraction:0.25"},
    ]


def test_tolerations_and_labels_of_both_are_there_once() -> None:
    ours = run_pod_config(Demand(num_gpus=1), NOTHING, PodWishes(kueue_queue="gpus"))
    user = {"pod_spec_config": {"tolerations": [{"key": "spot"}]}, "job_metadata": {"labels": {"team": "x"}}}
    merged = merged_config(merged_config(user, ours, NVIDIA), ours, NVIDIA)
    assert [each["key"] for each in merged["pod_spec_config"]["tolerations"]] == ["spot", GPU]
    assert merged["job_metadata"]["labels"] == {"team": "x", "kueue.x-k8s.io/queue-name": "gpus"}


def test_merging_changes_neither() -> None:
    user = asking({GPU: 8})
    merged_config(user, OURS, NVIDIA)
    assert user == asking({GPU: 8})


@pytest.mark.parametrize(
    ("user", "words"),
    [
        (asking({GPU: 8}), f"asks for 8 {GPU}, and it was admitted to 2 {GPU}, which holds"),
        (asking({GPU: 2}), None),
        (asking({"cpu": 2}), None),
        ({}, None),
    ],
)
def test_an_override_is_said(user: dict[str, Any], words: str | None) -> None:
    said = overridden_gpus(user, OURS, NVIDIA)
    assert (said is None) if words is None else (words in str(said))


def test_gpus_taken_from_a_run_without_any_are_said() -> None:
    said = overridden_gpus(asking({GPU: 1}), run_pod_config(Demand(), NOTHING), NVIDIA)
    assert f"asks for 1 {GPU}, and it was admitted to no GPU" in str(said)
