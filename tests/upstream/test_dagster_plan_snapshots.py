"""What Dagster writes into the snapshots of plans and jobs, undocumented, that `run_needs` reads.

A failure here reads: Dagster changed, look at headrace_dagster/coordinator/run_needs.py.
"""

import json

import dagster as dg
import pytest
from dagster._core.execution.api import create_execution_plan
from dagster._core.snap import ExecutionPlanSnapshot, snapshot_from_execution_plan


@dg.asset(op_tags={"headrace/gpus": "1"}, tags={"headrace/cpus": "1"})
def model() -> None: ...


@dg.op(tags={"headrace/gpus": "2"})
def train() -> None: ...


def make_job(
    executor: dg.ExecutorDefinition | None = None, config: dict[str, object] | None = None
) -> dg.JobDefinition:
    @dg.job(executor_def=executor, config=config or {})
    def training() -> None:
        train()

    return training


def plan_of(job: dg.JobDefinition) -> ExecutionPlanSnapshot:
    return snapshot_from_execution_plan(create_execution_plan(job), "any")


def execution_default(job: dg.JobDefinition) -> object:
    snapshot = job.get_job_snapshot()
    root_key = snapshot.mode_def_snaps[0].root_config_key
    assert root_key
    field = snapshot.config_schema_snapshot.get_config_snap(root_key).get_field("execution")
    return json.loads(field.default_value_as_json_str or "null")


def test_steps_carry_the_op_tags_of_their_assets_and_not_their_tags() -> None:
    job = dg.Definitions(assets=[model]).resolve_implicit_global_asset_job_def()
    (step,) = plan_of(job).steps
    assert step.tags == {"headrace/gpus": "1"}


@pytest.mark.parametrize(
    ("executor", "name"),
    [
        (None, "multi_or_in_process_executor"),
        (dg.multi_or_in_process_executor, "multi_or_in_process_executor"),
        (dg.multiprocess_executor, "multiprocess"),
        (dg.in_process_executor, "in_process"),
    ],
)
def test_a_plan_names_its_executor(executor: dg.ExecutorDefinition | None, name: str) -> None:
    assert plan_of(make_job(executor)).executor_name == name


def test_a_jobs_own_config_is_the_default_of_its_schema() -> None:
    config = {"config": {"multiprocess": {"max_concurrent": 3}}}
    assert execution_default(make_job(config={"execution": config})) == config


def test_what_is_bound_to_an_executor_cannot_be_read() -> None:
    """Why such a job counts as unbounded, and its users are told to say it in the job's config."""
    job = make_job(dg.multiprocess_executor.configured({"max_concurrent": 1}))
    assert plan_of(job).executor_name == "multiprocess"
    assert "max_concurrent" not in json.dumps(execution_default(job))
