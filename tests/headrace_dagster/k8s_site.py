"""One Dagster instance whose runs go to a mock of the Kubernetes API over HTTP."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster import DagsterInstance, DagsterRun, reconstructable
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster_k8s import k8s_job_executor

from headrace.placement.demand import Demand
from headrace.placement.needs import RunNeeds
from headrace.placement.placements import GpuShare, HostShare, Placement
from headrace_dagster.coordinator.admission import ADMITTED, GATE_TAG, PLACEMENT_TAG, Admission
from headrace_dagster.launchers.gpu_k8s_launcher import GpuK8sRunLauncher
from tests.kube.mock_cluster import MockCluster, launcher_config, mock_cluster

GPU = "nvidia.com/gpu"
TWO_GPUS = Demand(num_gpus=2, cpu_milli=4000, memory_mib=8192)
ON_NODE_A = Placement(
    gpus=(GpuShare(node="node-a", device="0", milli=1000), GpuShare(node="node-a", device="3", milli=1000)),
    hosts=(HostShare(node="node-a", cpu_milli=4000, memory_mib=8192),),
)
ONE_GPU_IN_A_STEP = {"dagster-k8s/config": {"container_config": {"resources": {"limits": {GPU: 1}}}}}


@dg.op
def nothing() -> None: ...


@dg.op(tags=ONE_GPU_IN_A_STEP)
def on_a_gpu() -> None: ...


@dg.job
def plain() -> None:
    nothing()


@dg.job(executor_def=k8s_job_executor)
def in_step_pods() -> None:
    nothing()


@dg.job(executor_def=k8s_job_executor)
def gpus_in_step_pods() -> None:
    on_a_gpu()


def storage(directory: Path) -> dict[str, Any]:
    """One database for all events: one a run costs half a second each."""
    config = {"base_dir": str(directory / "events")}
    event_log = {"module": "dagster._core.storage.event_log", "class": "ConsolidatedSqliteEventLogStorage"}
    return {"event_log_storage": event_log | {"config": config}}


@pytest.fixture(scope="module")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DAGSTER_HOME whose databases are made: copying them is ten times cheaper than making them."""
    directory = tmp_path_factory.mktemp("home")
    (directory / "dagster.yaml").write_text(yaml.safe_dump(storage(directory)))
    with DagsterInstance.from_config(str(directory)) as instance:
        instance.get_runs(limit=1)
        instance.event_log_storage.get_maximum_record_id()
    return directory


class Site:
    """One Dagster instance on one mock cluster."""

    def __init__(self, cluster: MockCluster, directory: Path, settings: dict[str, Any]) -> None:
        self.cluster = cluster
        dagster_yaml = {
            "run_launcher": {
                "module": "headrace_dagster.launchers.gpu_k8s_launcher",
                "class": "GpuK8sRunLauncher",
                "config": launcher_config(cluster.url, directory) | settings.pop("launcher", {}),
            },
            "run_coordinator": {"module": "headrace_dagster.coordinator.run_coordinator", "class": "GpuRunCoordinator"},
            "run_monitoring": {"enabled": True, "start_timeout_seconds": settings.pop("start_timeout_seconds", 180)},
            "run_retries": {"enabled": True, "max_retries": 1},
            **storage(directory),
            **settings,
        }
        (directory / "dagster.yaml").write_text(yaml.safe_dump(dagster_yaml))
        self.instance = DagsterInstance.from_config(str(directory))
        launcher = self.instance.run_launcher
        assert isinstance(launcher, GpuK8sRunLauncher)
        self.launcher: GpuK8sRunLauncher = launcher

    def make_run(self, job: dg.JobDefinition = plain, **arguments: Any) -> DagsterRun:
        location = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("pipelines"), "__repository__")
        return self.instance.create_run_for_job(
            job,
            job_code_origin=reconstructable(globals()[job.name]).get_python_origin(),
            remote_job_origin=location.get_job_origin(job.name),
            **arguments,
        )

    def admit(self, run: DagsterRun, demand: Demand = TWO_GPUS, placement: Placement = ON_NODE_A) -> DagsterRun:
        admission = Admission(run_id=run.run_id, at=1.0, placement=placement)
        tags = self.launcher.admission_tags(run, RunNeeds(demand=demand), placement)
        self.instance.add_run_tags(run.run_id, {GATE_TAG: ADMITTED, PLACEMENT_TAG: admission.to_json(), **tags})
        return self.now(run)

    def launch(self, run: DagsterRun) -> dict[str, Any]:
        """The Job that it made."""
        before = {job["metadata"]["name"] for job in self.cluster.jobs()}
        self.instance.launch_run(run.run_id, None)  # pyright: ignore[reportArgumentType]
        (job,) = [job for job in self.cluster.jobs() if job["metadata"]["name"] not in before]
        return job

    def launched(self) -> tuple[DagsterRun, dict[str, Any]]:
        run = self.admit(self.make_run())
        return run, self.launch(run)

    def start(self, run: DagsterRun) -> None:
        event = DagsterEvent(event_type_value=DagsterEventType.RUN_START.value, job_name=run.job_name)
        self.instance.report_dagster_event(event, run_id=run.run_id)

    def now(self, run: DagsterRun) -> DagsterRun:
        found = self.instance.get_run_by_id(run.run_id)
        assert found
        return found

    def messages(self, run: DagsterRun) -> str:
        return "\n".join(entry.message for entry in self.instance.all_logs(run.run_id))


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    with mock_cluster() as cluster:
        yield cluster


@pytest.fixture
def make_site(cluster: MockCluster, empty_home: Path, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    shutil.copytree(empty_home, tmp_path, dirs_exist_ok=True)
    sites: list[Site] = []

    def make(**settings: Any) -> Site:
        sites.append(Site(cluster, tmp_path, settings))
        return sites[-1]

    yield make
    for site in sites:
        site.instance.dispose()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]["containers"][0]


def expressions_of(job: dict[str, Any]) -> list[dict[str, Any]]:
    affinity = job["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return term["matchExpressions"]
