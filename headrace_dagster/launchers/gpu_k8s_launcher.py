"""Starts each admitted run as a Kubernetes Job that requests the GPUs of its admission.

The run's pod config is computed at its admission, kept in the run tag `headrace/run_pod`, and laid over the config that
dagster-k8s merged from the launcher, the code location and the run's `dagster-k8s/config`. That last tag stays the
user's: a re-execution copies it unchanged, and an allowlist of config fields (`only_allow_user_defined_…`) applies to
users only.

With `kueue_queue`, Kueue admits: Jobs are created suspended for that LocalQueue, and the coordinator counts no GPUs.
There is one authority, never two.

Tried against a mock of the Kubernetes API over HTTP and its schemas (tests/kube, tests/headrace_dagster): no scheduler,
kubelet or Kueue has run it. Its Role must allow it to list, create and delete Jobs and to list and delete pods;
`inventory` needs a ClusterRole that lists nodes and pods.
"""

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock, Thread
from typing import Any, Self

from dagster import Array, DagsterRun, Field, Float, Int, RunsFilter
from dagster._config import StringSource
from dagster._core.errors import DagsterLaunchFailedError
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._serdes import ConfigurableClassData
from dagster_k8s import K8sRunLauncher
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import UserDefinedDagsterK8sConfig

from headrace.kube.cluster import Cluster, ClusterUnavailable
from headrace.kube.merging import merged_config, overridden_gpus
from headrace.kube.nodes import demand_on, nodes_to_inventory, products_of
from headrace.kube.occupancy import is_being_deleted, occupied_runs
from headrace.kube.resources import GpuResources, gpus_asked
from headrace.kube.run_pod import PodWishes, run_pod_config
from headrace.placement.demand import Demand
from headrace.placement.inventory import Inventory
from headrace.placement.needs import RunNeeds
from headrace.placement.placements import Placement
from headrace.store.small_objects import Record
from headrace_dagster.coordinator.admission import ADMITTED, GATE_TAG, admission_of
from headrace_dagster.launchers.eviction import (
    UNDER_WAY,
    is_being_evicted,
    record_eviction,
    report_evicted,
    unfinished_evictions,
)
from headrace_dagster.launchers.k8s_jobs import RunJobs
from headrace_dagster.launchers.k8s_step_pods import step_pods_refusal
from headrace_dagster.launchers.putting_back import is_gated, put_back
from headrace_dagster.run_records import own_record

RUN_POD_TAG = "headrace/run_pod"
"""What the run's pod was asked to have: limits, affinity and labels of its placement."""
# A run that has just reported its end is still writing its last logs.
_REAP_SECONDS = 60.0
# Waiting in Kueue counts as starting: below an hour, a start timeout would fail Jobs that only wait.
_KUEUE_START_SECONDS_MIN = 3600
_UNFINISHED_EVICTIONS = timedelta(hours=1)
_EVICTION_POLL_SECONDS = 2.0
# Longer than any grace period in use. A pod on a lost node stays forever, and its run is retried elsewhere.
_EVICTION_SECONDS_MAX = 600.0


class GpuK8sRunLauncher(K8sRunLauncher):
    """`run_launcher: {module: headrace_dagster.launchers.gpu_k8s_launcher, class: GpuK8sRunLauncher}` in dagster.yaml.

    Takes `K8sRunLauncher`'s settings, and:

    Args:
        gpu_resource: the resource name of whole GPUs in this cluster.
        shared_gpu_resource: a resource whose unit is a part of a GPU; fractions are refused without it.
        shared_gpu_milli: one such unit's thousandths of a GPU.
        kueue_queue: a LocalQueue's name: Kueue admits, and GPUs are not counted here.
        more_namespaces: further namespaces of code locations' runs, beside `job_namespace`.
        reap_seconds: how long a run's Job may outlive the run before it is deleted.

    Raises:
        InvalidInput: names or sizes that no cluster can have.
    """

    def __init__(
        self,
        *,
        gpu_resource: str = "nvidia.com/gpu",
        shared_gpu_resource: str = "",
        shared_gpu_milli: int = 0,
        kueue_queue: str = "",
        more_namespaces: Sequence[str] = (),
        reap_seconds: float = _REAP_SECONDS,
        **of_k8s_run_launcher: Any,
    ) -> None:
        self.gpus = GpuResources(whole=gpu_resource, shared=shared_gpu_resource, shared_milli=shared_gpu_milli)
        super().__init__(**of_k8s_run_launcher)
        self._kueue_queue = kueue_queue
        self._reap_seconds = reap_seconds
        stock = self._api_client
        self._cluster = Cluster(stock.batch_api, stock.core_api, namespaces=[self.job_namespace, *more_namespaces])
        self._api_client = RunJobs(stock, self._cluster)
        self._lock = Lock()
        self._being_evicted: set[str] = set()

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {
            **super().config_type(),
            "gpu_resource": Field(
                StringSource, default_value="nvidia.com/gpu", description="What whole GPUs are called in this cluster."
            ),
            "shared_gpu_resource": Field(
                StringSource,
                default_value="",
                description=(
                    "A resource whose unit is a part of a GPU, such as nvidia.com/gpu.shared or "
                    "nvidia.com/mig-1g.10gb; without it, runs that ask for a fraction are refused."
                ),
            ),
            "shared_gpu_milli": Field(
                Int, default_value=0, description="Thousandths of a GPU that one unit of shared_gpu_resource is."
            ),
            "kueue_queue": Field(
                StringSource,
                default_value="",
                description="Name of a LocalQueue: Jobs are handed over to Kueue, and GPUs are not counted here.",
            ),
            "more_namespaces": Field(
                Array(StringSource),
                default_value=[],
                description="Namespaces beside job_namespace that code locations put runs into.",
            ),
            "reap_seconds": Field(
                Float,
                default_value=_REAP_SECONDS,
                description="How long the Job of a finished run may go on before it is deleted.",
            ),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        return cls(inst_data=inst_data, **config_value)

    @property
    def hands_over(self) -> bool:
        """Whether Kueue admits; then every run is admitted here at once, without a placement."""
        return bool(self._kueue_queue)

    @property
    def counts_gpus(self) -> bool:
        return not self.hands_over

    def inventory(self, held: Mapping[str, Collection[str]] | None = None) -> Inventory:
        """What the cluster's nodes can give to runs now.

        Args:
            held: our runs' slots, by node; other pods are not counted against these.

        Raises:
            ClusterUnavailable.
        """
        return nodes_to_inventory(self._cluster.nodes(), self._cluster.pods(), self.gpus, held=held)

    def demand_on(self, inventory: Inventory, demand: Demand) -> Demand:
        """Translates a run's demand to that inventory; a fraction becomes one shared unit.

        Raises:
            NotOnePod: the cluster cannot give the fraction; the run can never start.
        """
        return demand_on(inventory, demand, self.gpus)

    def admission_tags(self, run: DagsterRun, needs: RunNeeds, placement: Placement) -> Mapping[str, str]:
        """The run's pod config as a tag; computed for each admission, and void in a re-execution that copies it.

        Raises:
            NotOnePod: no pod of this cluster can have that.
            ClusterUnavailable: the nodes of the wanted models cannot be listed (only with Kueue).
        """
        models = needs.demand.gpu_models
        products = products_of(self._cluster.nodes(), models) if self.hands_over and models else frozenset()
        wishes = PodWishes(gpus=self.gpus, products=products, kueue_queue=self._kueue_queue)
        config = run_pod_config(needs.demand, placement, wishes)
        return {RUN_POD_TAG: json.dumps({"run_id": run.run_id, "config": config}, separators=(",", ":"))}

    def get_container_context_for_run(self, dagster_run: DagsterRun) -> K8sContainerContext:
        context = super().get_container_context_for_run(dagster_run)
        ours = run_pod_of(dagster_run)
        if ours is None:
            return context
        merged = merged_config(context.run_k8s_config.to_dict(), ours, self.gpus)
        return context._replace(run_k8s_config=UserDefinedDagsterK8sConfig.from_dict(merged))

    def launch_run(self, context: LaunchRunContext) -> None:
        """Raises: DagsterLaunchFailedError: the run cannot start in its present form; Dagster fails it."""
        run = context.dagster_run
        ours = run_pod_of(run)
        if ours is None or admission_of(run) is None or run.tags.get(GATE_TAG) != ADMITTED:
            self._put_back(run)
            return
        stock_context = super().get_container_context_for_run(run)
        if reason := self._refusal_of_run(run, stock_context, has_gpus=bool(gpus_asked(ours, self.gpus))):
            raise DagsterLaunchFailedError(reason)
        if overridden := overridden_gpus(stock_context.run_k8s_config.to_dict(), ours, self.gpus):
            self._instance.report_engine_event(overridden, run, cls=self.__class__)
        super().launch_run(context)

    def _put_back(self, run: DagsterRun) -> None:
        """Returns a run without a promise to the queue."""
        if not is_gated(self._instance):
            raise DagsterLaunchFailedError(
                f"Run {run.run_id} was launched without an admission: GpuK8sRunLauncher needs GpuRunCoordinator as "
                "run_coordinator in dagster.yaml."
            )
        message = "Not started: no pod was promised to this run itself. It is back in the queue."
        put_back(self._instance, run, message, by=self.__class__)

    def _refusal_of_run(self, run: DagsterRun, context: K8sContainerContext, *, has_gpus: bool) -> str | None:
        if context.namespace not in self._cluster.namespaces:
            return (
                f"Run {run.run_id} would go to namespace {context.namespace}, where its pods are not looked for: add "
                "it to more_namespaces."
            )
        beside = {
            key: found
            for key in ("containers", "init_containers")
            if (found := gpus_asked(context.run_k8s_config.pod_spec_config.get(key), self.gpus))
        }
        if beside:
            return f"Run {run.run_id} asks for GPUs in {', '.join(beside)} of its pod, which nobody counts: drop them."
        if run.execution_plan_snapshot_id is None:
            return None
        plan = self._instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
        return step_pods_refusal(run, plan, self.gpus, has_gpus=has_gpus, counts_gpus=self.counts_gpus)

    def occupied_run_ids(self) -> set[str]:
        """Runs with a pod in the cluster, or with a Job that may still make one.

        Raises:
            ClusterUnavailable: the answer is unknown, so nothing may be admitted.
        """
        return self._occupied()

    def _occupied(self, run_id: str | None = None) -> set[str]:
        # Jobs first: a run whose Job is gone by then makes no pod that the second list could miss.
        jobs = self._cluster.jobs_of_runs(run_id)
        return occupied_runs(jobs, self._cluster.pods_of_runs(run_id))

    def evict(self, run: DagsterRun, reason: str) -> None:
        """Deletes a run's Jobs, waits until its pods are gone, then fails it so that Dagster retries it.

        Returns at once; does nothing for a run that is being evicted already, or is not under way.
        """
        with self._lock:
            if run.run_id in self._being_evicted:
                return
            self._being_evicted.add(run.run_id)
        Thread(target=self._evict, args=(run.run_id, reason), name=f"evict-{run.run_id}", daemon=True).start()

    def finish_evictions(self) -> list[str]:
        """Continues an earlier daemon's evictions; returns run ids."""
        runs = unfinished_evictions(self._instance, since=datetime.now().astimezone() - _UNFINISHED_EVICTIONS)
        for run in runs:
            self.evict(run, "The daemon ended while it was preempted.")
        return [run.run_id for run in runs]

    def _evict(self, run_id: str, reason: str) -> None:
        try:
            run = self._instance.get_run_by_id(run_id)
            if run is None or (run.status not in UNDER_WAY and not is_being_evicted(run)):
                return
            record_eviction(self._instance, run, time.time())
            self._wait_for_its_pods(run)
            report_evicted(self._instance, run_id, f"Preempted, to be retried from failure. {reason}")
        finally:
            with self._lock:
                self._being_evicted.discard(run_id)

    def _wait_for_its_pods(self, run: DagsterRun) -> None:
        """Waits, since a retry beside the old pod's last seconds would write the same partitions."""
        deadline = time.monotonic() + _EVICTION_SECONDS_MAX
        said = ""
        while time.monotonic() < deadline:
            try:
                self._delete_jobs(run.run_id)
                if run.run_id not in self._occupied(run.run_id):
                    return
            except ClusterUnavailable as error:
                if str(error) != said:
                    said = str(error)
                    self._instance.report_engine_event(f"Preemption waits: {said}", run, cls=self.__class__)
            time.sleep(_EVICTION_POLL_SECONDS)
        message = f"Its pods have not ended {_EVICTION_SECONDS_MAX:g} s after they were to; their GPUs stay taken."
        self._instance.report_engine_event(message, run, cls=self.__class__)

    def reap(self, run_ids: Collection[str]) -> None:
        """Deletes finished runs' Jobs: at once if the run never started, otherwise after `reap_seconds`.

        Dagster fails a run after a start timeout but leaves its Job, which may start long after
        (tests/upstream/test_dagster_k8s.py). Such runs count as occupied until their pods are gone.

        Raises:
            ClusterUnavailable.
        """
        if not run_ids:
            return
        now = time.time()
        for record in self._instance.get_run_records(RunsFilter(run_ids=sorted(run_ids))):
            ended = record.end_time or record.update_timestamp.timestamp()
            is_due = record.start_time is None or now - ended > self._reap_seconds
            if record.dagster_run.is_finished and is_due:
                self._delete_jobs(record.dagster_run.run_id)

    def _delete_jobs(self, run_id: str) -> None:
        """Deletes the Jobs of the run and its steps, and pods that somebody orphaned."""
        jobs = self._cluster.jobs_of_runs(run_id)
        for job in jobs:
            if not is_being_deleted(job):
                self._cluster.delete_job(job["metadata"]["name"], job["metadata"]["namespace"])
        for pod in [] if jobs else self._cluster.pods_of_runs(run_id):
            if not is_being_deleted(pod):
                self._cluster.delete_pod(pod["metadata"]["name"], pod["metadata"]["namespace"])

    def refusal(self, inventory: Inventory) -> str | None:
        own_config = {"resources": self.resources, "run_k8s_config": self.run_k8s_config}
        if asked := gpus_asked(own_config, self.gpus):
            names = ", ".join(sorted(asked))
            return f"The launcher's own config gives every run {names}, uncounted: leave that to headrace/gpus."
        timeout = self._instance.run_monitoring_start_timeout_seconds
        if self.hands_over and self._instance.run_monitoring_enabled and 0 < timeout < _KUEUE_START_SECONDS_MIN:
            return (
                f"run_monitoring.start_timeout_seconds is {timeout}, and a Job that waits in Kueue counts as starting: "
                f"set it to 0 (no limit), or to at least {_KUEUE_START_SECONDS_MIN}."
            )
        strange = [
            f"{node.name}:{gpu.device}"
            for node in inventory.nodes
            for gpu in node.gpus
            if self.gpus.resource_of(gpu.device) is None
        ]
        if strange and self.counts_gpus:
            return (
                f"The inventory names device {strange[0]}, and Kubernetes gives out counts, not devices: take the "
                "inventory from the cluster's nodes, or use GpuRunLauncher on one machine."
            )
        try:
            self.occupied_run_ids()
        except ClusterUnavailable as error:
            # An API that is down may return; one that forbids the request stays that way.
            return str(error) if error.is_forbidden else None
        return None

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """As stock, except if the API does not answer: run monitoring would then fail every started run."""
        health = super().check_run_worker_health(run)
        if health.status != WorkerStatus.UNKNOWN:
            return health
        try:
            is_there = run.run_id in self._occupied(run.run_id)
        except ClusterUnavailable as error:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"Not known to have ended: {error}")
        return CheckRunHealthResult(WorkerStatus.RUNNING, health.msg) if is_there else health


@dataclass(frozen=True, kw_only=True)
class _RunPod:
    run_id: str
    config: dict[str, Any]


_RUN_POD = Record("Run pod", _RunPod)


def run_pod_of(run: DagsterRun) -> dict[str, Any] | None:
    """The pod config that this very run was admitted with."""
    record = own_record(run, RUN_POD_TAG, _RUN_POD)
    return record.config if record else None
