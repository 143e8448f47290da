"""What a run gets, and what is refused: no scheduler, kubelet or Kueue is behind the mocked API."""

# ruff: noqa: F811  (fixtures are imported by name)

import json
from collections.abc import Callable

import dagster as dg
import kubernetes_validate
import pytest
from dagster import DagsterRunStatus
from dagster._core.errors import DagsterLaunchFailedError

from headrace.kube.checks import check_job
from headrace.kube.run_pod import DEVICES, QUEUE_NAME, NotOnePod
from headrace.placement.demand import Demand
from headrace.placement.inventory import Gpu, Inventory, Node
from headrace.placement.needs import RunNeeds
from headrace.placement.placements import NOTHING, GpuShare, Placement
from headrace_dagster.coordinator.admission import GATE_TAG, HELD, ClusterLauncher, DeviceLauncher
from headrace_dagster.launchers.gpu_k8s_launcher import RUN_POD_TAG
from tests.headrace_dagster.k8s_site import (  # noqa: F401  (fixtures)
    GPU,
    ON_NODE_A,
    TWO_GPUS,
    Site,
    cluster,
    container_of,
    empty_home,
    expressions_of,
    gpus_in_step_pods,
    in_step_pods,
    make_site,
    site,
)
from tests.kube.mock_cluster import JOBS, NODES


def test_it_is_what_the_coordinator_asks_of_a_launcher(site: Site) -> None:
    assert isinstance(site.launcher, DeviceLauncher)
    assert isinstance(site.launcher, ClusterLauncher)
    assert site.launcher.counts_gpus


def test_a_run_asks_for_the_gpus_and_the_node_that_it_was_admitted_to(site: Site) -> None:
    run, job = site.launched()
    assert container_of(job)["resources"] == {
        "limits": {GPU: "2", "memory": "8192Mi"},
        "requests": {GPU: "2", "cpu": "4000m", "memory": "8192Mi"},
    }
    assert expressions_of(job) == [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-a"]}]
    assert job["metadata"]["labels"]["dagster/run-id"] == run.run_id
    assert job["spec"]["template"]["metadata"]["annotations"] == {DEVICES: "0,3"}
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert (job["spec"]["backoffLimit"], job["spec"].get("suspend")) == (0, None)


def test_its_job_is_one_that_kubernetes_takes(site: Site) -> None:
    _, job = site.launched()
    kubernetes_validate.validate(job, "1.37", strict=True)
    assert check_job(job) == []


def test_a_run_without_gpus_sees_none_on_whatever_node(site: Site) -> None:
    job = site.launch(site.admit(site.make_run(), Demand(), NOTHING))
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in container_of(job)["env"]
    assert "affinity" not in job["spec"]["template"]["spec"]


def test_the_users_own_config_stays_but_for_gpus(site: Site) -> None:
    resources = {"limits": {GPU: 8, "ephemeral-storage": "9Gi"}, "requests": {"ephemeral-storage": "9Gi"}}
    config = {
        "container_config": {"resources": resources, "env": [{"name": "WHO", "value": "me"}]},
        "pod_spec_config": {"node_selector": {"zone": "b"}, "restart_policy": "OnFailure"},
        "job_spec_config": {"backoff_limit": 6},
    }
    run = site.admit(site.make_run(tags={"dagster-k8s/config": json.dumps(config)}))
    job = site.launch(run)
    assert container_of(job)["resources"]["limits"] == {GPU: "2", "memory": "8192Mi", "ephemeral-storage": "9Gi"}
    assert {"name": "WHO", "value": "me"} in container_of(job)["env"]
    assert job["spec"]["template"]["spec"]["nodeSelector"] == {"zone": "b"}
    assert check_job(job) == []
    assert json.loads(site.now(run).tags["dagster-k8s/config"]) == config
    assert f"asks for 8 {GPU}, and it was admitted to 2 {GPU}, which holds" in site.messages(run)


def test_an_allowlist_for_users_does_not_stop_the_coordinator(make_site: Callable[..., Site]) -> None:
    site = make_site(launcher={"only_allow_user_defined_k8s_config_fields": {"container_config": {"env": True}}})
    _, job = site.launched()
    assert container_of(job)["resources"]["limits"][GPU] == "2"


def test_a_run_that_nobody_admitted_goes_back_into_the_queue(site: Site) -> None:
    run = site.make_run()
    site.instance.launch_run(run.run_id, None)  # pyright: ignore[reportArgumentType]
    assert site.now(run).status == DagsterRunStatus.QUEUED
    assert site.now(run).tags[GATE_TAG] == HELD
    assert site.cluster.jobs() == []


def test_a_re_execution_does_not_run_on_its_parents_admission(site: Site) -> None:
    parent, _ = site.launched()
    copy = site.make_run(tags=dict(site.now(parent).tags))
    site.instance.launch_run(copy.run_id, None)  # pyright: ignore[reportArgumentType]
    assert site.now(copy).status == DagsterRunStatus.QUEUED
    assert len(site.cluster.jobs()) == 1


def test_a_re_execution_gets_a_pod_of_its_own(site: Site) -> None:
    parent, _ = site.launched()
    copy = site.admit(site.make_run(tags=dict(site.now(parent).tags)), Demand(), NOTHING)
    job = site.launch(copy)
    assert "limits" not in container_of(job)["resources"]


def test_under_another_coordinator_it_launches_nothing(make_site: Callable[..., Site]) -> None:
    site = make_site(run_coordinator={"module": "dagster", "class": "QueuedRunCoordinator"})
    with pytest.raises(DagsterLaunchFailedError, match="needs GpuRunCoordinator as run_coordinator"):
        site.instance.launch_run(site.make_run().run_id, None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("job", "demand", "placement", "words"),
    [
        (in_step_pods, TWO_GPUS, ON_NODE_A, "starts each step in a pod of its own"),
        (gpus_in_step_pods, Demand(), NOTHING, f"GPUs in step pods (on_a_gpu: 1 {GPU}), which nobody counts"),
    ],
)
def test_never_both_a_run_and_its_step_pods(
    site: Site, job: dg.JobDefinition, demand: Demand, placement: Placement, words: str
) -> None:
    run = site.admit(site.make_run(job), demand, placement)
    with pytest.raises(DagsterLaunchFailedError) as refused:
        site.launch(run)
    assert words in str(refused.value)
    assert site.cluster.jobs() == []
    assert site.now(run).status == DagsterRunStatus.FAILURE


def test_gpus_in_the_execution_config_of_step_pods_are_seen(site: Site) -> None:
    step_config = {"container_config": {"resources": {"requests": {"nvidia.com/mig-1g.10gb": 1}}}}
    run_config = {"execution": {"config": {"step_k8s_config": step_config}}}
    run = site.admit(site.make_run(in_step_pods, run_config=run_config), Demand(), NOTHING)
    with pytest.raises(DagsterLaunchFailedError, match=r"its execution config: 1 nvidia.com/mig-1g.10gb"):
        site.launch(run)


def test_step_pods_without_gpus_are_nobodys_business(site: Site) -> None:
    assert site.launch(site.admit(site.make_run(in_step_pods), Demand(), NOTHING))


def test_a_sidecar_takes_no_gpu_uncounted(site: Site) -> None:
    sidecar = {"name": "side", "image": "x", "resources": {"limits": {GPU: 1}}}
    config = json.dumps({"pod_spec_config": {"containers": [sidecar]}})
    with pytest.raises(DagsterLaunchFailedError, match="asks for GPUs in containers of its pod"):
        site.launch(site.admit(site.make_run(tags={"dagster-k8s/config": config})))


def test_a_job_that_kubernetes_would_refuse_later_is_not_made(site: Site) -> None:
    config = json.dumps({"job_metadata": {"labels": {"team": "a b"}}})
    run = site.admit(site.make_run(tags={"dagster-k8s/config": config}))
    with pytest.raises(DagsterLaunchFailedError, match=f"Job default/dagster-run-{run.run_id} was not made.*team"):
        site.launch(run)
    assert site.cluster.jobs() == []


def test_a_fraction_is_refused_where_the_cluster_shares_nothing(site: Site) -> None:
    needs = RunNeeds(demand=Demand(num_gpus=1, gpu_milli=250))
    with pytest.raises(NotOnePod, match="asks for 250/1000 of a GPU, and this cluster gives away whole ones"):
        site.launcher.admission_tags(site.make_run(), needs, ON_NODE_A)


def test_a_fraction_is_one_unit_of_what_the_cluster_shares(make_site: Callable[..., Site]) -> None:
    site = make_site(launcher={"shared_gpu_resource": "nvidia.com/gpu.shared", "shared_gpu_milli": 250})
    placement = Placement(gpus=(GpuShare(node="node-a", device="nvidia.com/gpu.shared#2", milli=1000),))
    job = site.launch(site.admit(site.make_run(), Demand(num_gpus=1, gpu_milli=200), placement))
    assert container_of(job)["resources"]["limits"] == {"nvidia.com/gpu.shared": "1"}
    memory = {"name": "PYTORCH_CUDA_ALLOC_CONF", "value": "per_process_memory_fraction:0.25"}
    assert memory in container_of(job)["env"]


def test_kueue_gets_a_suspended_job_and_decides_where(make_site: Callable[..., Site]) -> None:
    site = make_site(launcher={"kueue_queue": "gpus"}, start_timeout_seconds=0)
    labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    site.cluster.ask("POST", NODES, {"metadata": {"name": "n", "labels": labels}})
    job = site.launch(site.admit(site.make_run(), Demand(num_gpus=2, gpu_models=frozenset({"H100"})), NOTHING))
    assert job["metadata"]["labels"][QUEUE_NAME] == "gpus"
    assert job["spec"]["suspend"] is True
    assert container_of(job)["resources"]["limits"] == {GPU: "2"}
    product = {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-H100-80GB-HBM3"]}
    assert expressions_of(job) == [product]
    kubernetes_validate.validate(job, "1.37", strict=True)
    assert (site.launcher.hands_over, site.launcher.counts_gpus) == (True, False)


def test_a_suspended_job_can_be_described(make_site: Callable[..., Site]) -> None:
    site = make_site(launcher={"kueue_queue": "gpus"}, start_timeout_seconds=0)
    run, job = site.launched()
    site.cluster.set_status(job, conditions=[{"type": "Suspended", "status": "True"}])
    described = site.launcher.get_run_worker_debug_info(site.now(run))
    assert described
    assert "has not been started: it is suspended" in described


def test_no_inventory_of_real_devices_is_served(site: Site) -> None:
    gpu = Gpu(device="GPU-5c07", model="H100", memory_mib=81559)
    assert site.launcher.refusal(Inventory(nodes=(Node(name="a", gpus=(gpu,)),))) == (
        "The inventory names device a:GPU-5c07, and Kubernetes gives out counts, not devices: take the inventory from "
        "the cluster's nodes, or use GpuRunLauncher on one machine."
    )
    slot = Gpu(device="0", model="H100", memory_mib=81559)
    assert site.launcher.refusal(Inventory(nodes=(Node(name="a", gpus=(slot,)),))) is None


def test_gpus_for_every_run_are_refused_at_the_start(make_site: Callable[..., Site]) -> None:
    site = make_site(launcher={"resources": {"limits": {GPU: 1}}})
    assert site.launcher.refusal(Inventory()) == (
        f"The launcher's own config gives every run {GPU}, uncounted: leave that to headrace/gpus."
    )


def test_a_start_timeout_that_would_fail_what_waits_in_kueue_is_refused(make_site: Callable[..., Site]) -> None:
    site = make_site(launcher={"kueue_queue": "gpus"}, start_timeout_seconds=180)
    assert "start_timeout_seconds is 180, and a Job that waits in Kueue" in str(site.launcher.refusal(Inventory()))


@pytest.mark.parametrize(("status", "is_refused"), [(403, True), (500, False)])
def test_an_api_that_forbids_is_refused_and_one_that_is_down_is_waited_for(
    site: Site, status: int, is_refused: bool
) -> None:
    site.cluster.refuse(JOBS, status)
    assert bool(site.launcher.refusal(Inventory())) == is_refused


def test_runs_in_a_namespace_that_nobody_watches_are_refused(site: Site) -> None:
    run = site.admit(site.make_run())
    context = site.launcher.get_container_context_for_run(run)._replace(namespace="elsewhere")
    reason = site.launcher._refusal_of_run(run, context, has_gpus=True)
    assert reason == (
        f"Run {run.run_id} would go to namespace elsewhere, where its pods are not looked for: add it to "
        "more_namespaces."
    )


def test_the_inventory_is_read_from_the_clusters_nodes(site: Site) -> None:
    labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559"}
    status = {"allocatable": {GPU: "2", "cpu": "8"}, "conditions": [{"type": "Ready", "status": "True"}]}
    site.cluster.ask("POST", NODES, {"metadata": {"name": "n", "labels": labels}, "status": status})
    (node,) = site.launcher.inventory().nodes
    assert node.gpus == tuple(Gpu(device=slot, model="H100", memory_mib=81559) for slot in "01")
    assert node.cpu_milli == 8000


def test_the_record_of_its_pod_is_the_runs_own(site: Site) -> None:
    run = site.admit(site.make_run())
    assert json.loads(run.tags[RUN_POD_TAG])["run_id"] == run.run_id
