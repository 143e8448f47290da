"""Every way in which Dagster queues a run brings its assets' `op_tags` along, in the execution plan."""

import datetime
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import AssetKey, DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.execution.api import execute_run
from dagster._core.execution.plan.resume_retry import ReexecutionStrategy
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.asset_daemon import AssetDaemon
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._scheduler.scheduler import launch_scheduled_runs
from dagster_graphql.client.query import LAUNCH_PARTITION_BACKFILL_MUTATION, LAUNCH_PIPELINE_EXECUTION_MUTATION
from dagster_graphql.test.utils import execute_dagster_graphql

from headrace.placement.demand import Demand
from headrace.placement.needs import InvalidNeeds, RunNeeds
from headrace_dagster.coordinator.run_needs import RunPlans, kind_of, needs_of_run

CODE = Path(__file__).with_name("gpu_assets.py")
LOCATION = "gpu_assets"
REPOSITORY = {"repositoryLocationName": LOCATION, "repositoryName": "__repository__"}
TRAINING = RunNeeds(demand=Demand(num_gpus=2, gpu_memory_mib=16_000), stage="training")
QUEUE = {"module": "dagster._core.run_coordinator", "class": "QueuedRunCoordinator"}


class Deployment:
    """A code location and an instance that queues runs and starts none."""

    def __init__(self, instance: DagsterInstance, workspace: WorkspaceProcessContext) -> None:
        self.instance = instance
        self.workspace = workspace
        self.plans = RunPlans(instance)

    def launch(self, job_name: str, *, assets: tuple[str, ...] = (), **params: Any) -> DagsterRun:
        """As the UI's buttons do."""
        selector = {**REPOSITORY, "pipelineName": job_name, "assetSelection": [{"path": [name]} for name in assets]}
        params = {
            "selector": selector if assets else {**REPOSITORY, "pipelineName": job_name},
            "mode": "default",
        } | params
        answer = self._ask(LAUNCH_PIPELINE_EXECUTION_MUTATION, {"executionParams": params})
        launched = answer["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run = self.instance.get_run_by_id(launched["run"]["runId"])
        assert run
        return run

    def backfill(self, **params: Any) -> Sequence[DagsterRun]:
        answer = self._ask(LAUNCH_PARTITION_BACKFILL_MUTATION, {"backfillParams": params})
        assert answer["launchPartitionBackfill"]["__typename"] == "LaunchBackfillSuccess", answer
        for error in execute_backfill_iteration(self.workspace, logging.getLogger("backfill")):
            assert error is None, error
        return self.queued()

    def execute(self, run: DagsterRun) -> DagsterRun:
        """In this process, whether or not it was its turn."""
        job = ReconstructableRepository.for_file(str(CODE), "defs").get_reconstructable_job(run.job_name)
        starting = DagsterEvent(DagsterEventType.RUN_STARTING.value, run.job_name)
        self.instance.report_dagster_event(starting, run_id=run.run_id)
        started = self.instance.get_run_by_id(run.run_id)
        assert started
        execute_run(job, started, self.instance)
        ended = self.instance.get_run_by_id(run.run_id)
        assert ended
        return ended

    def retry(self, run: DagsterRun) -> DagsterRun:
        """As Dagster's own retries and the UI's "from failure" do."""
        context = self.workspace.create_request_context()
        location = context.get_code_location(LOCATION)
        return self.instance.create_reexecuted_run(
            parent_run=run,
            request_context=context,
            code_location=location,
            remote_job=location.get_repository("__repository__").get_full_job(run.job_name),
            strategy=ReexecutionStrategy.FROM_FAILURE,
        )

    def queued(self) -> Sequence[DagsterRun]:
        runs = self.instance.get_runs()
        assert all(run.status == DagsterRunStatus.QUEUED for run in runs)
        return runs

    def needs(self, run: DagsterRun) -> RunNeeds:
        return needs_of_run(run, self.plans.of(run))

    def _ask(self, query: str, variables: dict[str, Any]) -> Mapping[str, Any]:
        return execute_dagster_graphql(self.workspace.create_request_context(), query, variables).data


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    settings = {"run_coordinator": QUEUE, "telemetry": {"enabled": False}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    code = LoadableTargetOrigin(python_file=str(CODE), attribute="defs")
    target = InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(code, location_name=LOCATION))
    with (
        DagsterInstance.from_config(str(tmp_path)) as instance,
        WorkspaceProcessContext(instance, target) as workspace,
    ):
        yield Deployment(instance, workspace)


def test_assets_materialized_in_the_ui_ask_for_their_gpus(deployment: Deployment) -> None:
    tags = [{"key": "dagster/partition", "value": "mon"}]
    run = deployment.launch("__ASSET_JOB", assets=("model",), executionMetadata={"tags": tags})
    assert run.status == DagsterRunStatus.QUEUED
    assert not any(tag.startswith("headrace/") for tag in run.tags)
    assert deployment.needs(run) == TRAINING


def test_assets_that_are_not_selected_ask_for_nothing(deployment: Deployment) -> None:
    run = deployment.launch("__ASSET_JOB", assets=("examples",))
    assert deployment.needs(run) == RunNeeds()


def test_assets_of_one_run_share_a_gpu_by_the_sum_of_their_shares(deployment: Deployment) -> None:
    """The default executor is `multiprocess`: they run together, and in turn only where the config says so."""
    run = deployment.launch("__ASSET_JOB", assets=("embeddings", "scores"))
    assert deployment.needs(run).demand == Demand(num_gpus=1, gpu_milli=750)
    in_turn = {"execution": {"config": {"in_process": {}}}}
    run = deployment.launch("__ASSET_JOB", assets=("embeddings", "scores"), runConfigData=in_turn)
    assert deployment.needs(run).demand == Demand(num_gpus=1, gpu_milli=500)


def test_a_tag_set_in_the_launchpad_goes_before_the_assets(deployment: Deployment) -> None:
    tags = [{"key": "headrace/gpus", "value": "0"}]
    run = deployment.launch("__ASSET_JOB", assets=("embeddings",), executionMetadata={"tags": tags})
    assert deployment.needs(run).demand == Demand()


def test_a_backfill_of_assets_asks_for_their_gpus(deployment: Deployment) -> None:
    runs = deployment.backfill(partitionNames=["mon", "tue"], assetSelection=[{"path": ["model"]}])
    assert len(runs) == 2
    assert [deployment.needs(run) for run in runs] == [TRAINING, TRAINING]
    assert len({kind_of(run, deployment.plans.of(run)) for run in runs}) == 1


def test_a_schedule_asks_for_the_gpus_of_its_assets(deployment: Deployment) -> None:
    now = datetime.datetime.now(datetime.UTC)
    iteration_times: dict[str, Any] = {}
    for moment in (now, now + datetime.timedelta(days=1)):
        logger = logging.getLogger("schedule")
        for error in launch_scheduled_runs(deployment.workspace, logger, moment, iteration_times):
            assert error is None, error
    (run,) = deployment.queued()
    assert run.tags["dagster/schedule_name"] == "every_night"
    assert deployment.needs(run) == RunNeeds(demand=Demand(num_gpus=1, gpu_milli=750), queue="nightly")


def test_an_automation_condition_asks_for_the_gpus_of_its_asset(deployment: Deployment) -> None:
    daemon = AssetDaemon(deployment.instance.get_auto_materialize_settings(), pre_sensor_interval_seconds=1)
    for _ in range(2):
        daemon._run_iteration_impl(deployment.workspace, None, {}, {})
    (run,) = deployment.queued()
    assert run.asset_selection == {AssetKey("embeddings")}
    assert deployment.needs(run).demand == Demand(num_gpus=1, gpu_milli=500)


def test_a_job_asks_for_what_its_executor_runs_together(deployment: Deployment) -> None:
    def num_gpus(job_name: str, **execution: Any) -> int:
        config = {"execution": {"config": execution}} if execution else {}
        return deployment.needs(deployment.launch(job_name, runConfigData=config)).demand.num_gpus

    assert num_gpus("two_heavy_steps") == 2
    assert num_gpus("two_heavy_steps", multiprocess={"max_concurrent": 1}) == 1
    assert num_gpus("two_heavy_steps", multiprocess={"max_concurrent": 0}) == 2
    assert num_gpus("two_heavy_steps", in_process={}) == 1
    assert num_gpus("two_heavy_steps_in_process") == 1
    assert num_gpus("two_heavy_steps_one_at_a_time") == 1
    assert num_gpus("two_heavy_steps_one_at_a_time", multiprocess={"max_concurrent": 2}) == 2


@pytest.mark.parametrize(
    "limit",
    [
        {"key": "headrace/gpus", "limit": 1},
        {"key": "headrace/gpus", "value": "1", "limit": 1},
        {"key": "headrace/gpus", "value": {"applyLimitPerUniqueValue": True}, "limit": 1},
    ],
)
def test_steps_that_the_executor_keeps_apart_by_their_tags_do_not_add_up(
    deployment: Deployment, limit: dict[str, Any]
) -> None:
    config = {"execution": {"config": {"multiprocess": {"tag_concurrency_limits": [limit]}}}}
    run = deployment.launch("two_heavy_steps", runConfigData=config)
    assert deployment.needs(run).demand.num_gpus == 1


def test_a_job_asks_only_for_the_ops_that_it_runs(deployment: Deployment) -> None:
    run = deployment.launch("two_heavy_steps", stepKeys=["left"])
    assert deployment.needs(run).demand.num_gpus == 1


def test_a_mapped_op_is_counted_where_the_executor_is_bounded(deployment: Deployment) -> None:
    bounded = {"execution": {"config": {"multiprocess": {"max_concurrent": 3}}}}
    assert deployment.needs(deployment.launch("mapped", runConfigData=bounded)).demand.num_gpus == 3
    run = deployment.launch("mapped")
    with pytest.raises(InvalidNeeds, match=r"^Step render\[\?\] has tag headrace/gpus and maps over a number"):
        deployment.needs(run)


def test_a_reexecution_from_failure_asks_for_the_steps_that_are_left(deployment: Deployment) -> None:
    in_turn = {"execution": {"config": {"in_process": {}}}}
    parent = deployment.launch("fails", runConfigData=in_turn)
    assert deployment.needs(parent).demand.num_gpus == 3
    failed = deployment.execute(parent)
    assert failed.status == DagsterRunStatus.FAILURE

    retry = deployment.retry(failed)
    assert set(retry.step_keys_to_execute or ()) == {"fail_but_for_b[a]", "fail_but_for_b[c]"}
    assert deployment.needs(retry).demand.num_gpus == 1
    together = DagsterRun(job_name=retry.job_name, step_keys_to_execute=retry.step_keys_to_execute)
    assert needs_of_run(together, deployment.plans.of(retry)).demand.num_gpus == 2


def test_runs_of_the_same_steps_are_of_one_kind(deployment: Deployment) -> None:
    def kind(*assets: str) -> str:
        run = deployment.launch("__ASSET_JOB", assets=assets)
        return kind_of(run, deployment.plans.of(run))

    assert kind("embeddings", "scores") == kind("scores", "embeddings")
    assert len({kind("embeddings"), kind("scores"), kind("embeddings", "scores")}) == 3


def test_plans_are_read_once(deployment: Deployment) -> None:
    first, second = (deployment.launch("__ASSET_JOB", assets=("scores",)) for _ in range(2))
    assert first.execution_plan_snapshot_id == second.execution_plan_snapshot_id
    assert deployment.plans.of(first) is deployment.plans.of(second)


def test_a_run_without_a_plan_asks_for_what_its_tags_say(deployment: Deployment) -> None:
    run = DagsterRun(job_name="any", tags={"headrace/gpus": "2"})
    assert deployment.plans.of(run) is None
    assert deployment.needs(run).demand == Demand(num_gpus=2)


def test_a_run_whose_plan_is_lost_asks_for_what_its_tags_say(deployment: Deployment) -> None:
    run = DagsterRun(job_name="any", execution_plan_snapshot_id="lost", job_snapshot_id="lost")
    assert deployment.needs(run) == RunNeeds()
