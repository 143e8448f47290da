"""Runs that carry no tag of ours get the GPUs that their assets' op tags ask for, from whatever launched them."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterRun
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster_graphql.client.query import LAUNCH_PARTITION_BACKFILL_MUTATION, LAUNCH_PIPELINE_EXECUTION_MUTATION
from dagster_graphql.test.utils import execute_dagster_graphql

from tests.headrace_dagster.coordinator.builders import Deployment

CODE = Path(__file__).with_name("asset_project.py")


@pytest.fixture
def workspace(deployment: Deployment) -> Iterator[WorkspaceProcessContext]:
    code = LoadableTargetOrigin(python_file=str(CODE), attribute="defs")
    target = InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(code, location_name="theirs"))
    with WorkspaceProcessContext(deployment.instance, target) as workspace:
        yield workspace


def materialize(workspace: WorkspaceProcessContext, asset: str, tags: dict[str, str] | None = None) -> DagsterRun:
    """As a click on "Materialize" does."""
    parameters = {
        "mode": "default",
        "runConfigData": {},
        "selector": {
            "repositoryLocationName": "theirs",
            "repositoryName": "__repository__",
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": [asset]}],
        },
        "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in (tags or {}).items()]},
    }
    answer = execute_dagster_graphql(
        workspace.create_request_context(), LAUNCH_PIPELINE_EXECUTION_MUTATION, {"executionParams": parameters}
    ).data["launchPipelineExecution"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    run = workspace.instance.get_run_by_id(answer["run"]["runId"])
    assert run
    return run


def backfill(workspace: WorkspaceProcessContext) -> list[str]:
    parameters = {"partitionNames": ["mon", "tue"], "assetSelection": [{"path": ["trained"]}]}
    answer = execute_dagster_graphql(
        workspace.create_request_context(), LAUNCH_PARTITION_BACKFILL_MUTATION, {"backfillParams": parameters}
    ).data["launchPartitionBackfill"]
    assert answer["__typename"] == "LaunchBackfillSuccess", answer
    assert [error for error in execute_backfill_iteration(workspace, logging.getLogger("test")) if error] == []
    return [run.run_id for run in workspace.instance.get_runs()]


def test_a_backfill_gets_the_gpus_of_its_assets_one_partition_after_the_other(
    deployment: Deployment, workspace: WorkspaceProcessContext
) -> None:
    runs = backfill(workspace)
    assert len(runs) == 2

    (first,) = deployment.iterate()
    assert len(deployment.devices(first)) == 3
    assert deployment.iterate() == []
    deployment.finish(first)
    assert deployment.iterate() == [run_id for run_id in runs if run_id != first]


def test_an_asset_materialized_in_the_ui_gets_its_share_beside_others(
    deployment: Deployment, workspace: WorkspaceProcessContext
) -> None:
    holder = deployment.submit(gpus=3)
    runs = [materialize(workspace, "scored").run_id for _ in range(3)]

    assert deployment.iterate() == [holder, *runs[:2]]
    assert deployment.devices(runs[0]) == deployment.devices(runs[1])
    assert deployment.status(runs[2]) == "QUEUED"


def test_a_tag_set_in_the_launchpad_goes_before_the_assets(
    deployment: Deployment, workspace: WorkspaceProcessContext
) -> None:
    run = materialize(workspace, "scored", {"headrace/gpus": "2"})
    deployment.iterate()

    assert len(deployment.devices(run.run_id)) == 2


def test_an_asset_whose_tag_cannot_be_read_fails_when_it_is_launched_and_names_the_step(
    deployment: Deployment, workspace: WorkspaceProcessContext
) -> None:
    run = materialize(workspace, "mistaken")

    assert deployment.status(run.run_id) == "FAILURE"
    assert "headrace/gpus" in deployment.why(run.run_id)
    assert "mistaken" in deployment.why(run.run_id)
