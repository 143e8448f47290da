"""What `headrace run` asks of a project's webserver, answered by Dagster's own GraphQL on a real instance."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster_graphql.client.query import LAUNCH_PARTITION_BACKFILL_MUTATION

from headrace_dagster.project.webserver import LaunchRefused
from tests.headrace_dagster.answering_webserver import Answering

DAY = "2026-11-22"
CONTENT = dg.MultiPartitionsDefinition(
    {
        "day": dg.DailyPartitionsDefinition("2026-11-20", end_offset=1),
        "shard": dg.DynamicPartitionsDefinition(name="campaign_shard"),
    }
)


@dg.asset(partitions_def=CONTENT)
def prompts() -> None: ...


defs = dg.Definitions([prompts], jobs=[dg.define_asset_job("list_prompts", selection=[prompts])])


@pytest.fixture
def webserver() -> Iterator[Answering]:
    code = LoadableTargetOrigin(python_file=__file__, attribute="defs")
    target = InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(code, location_name="theirs"))
    queued = {"run_coordinator": {"module": "dagster", "class": "QueuedRunCoordinator"}}
    with dg.instance_for_test(overrides=queued) as instance, WorkspaceProcessContext(instance, target) as workspace:
        yield Answering(workspace)


def test_keys_are_added_many_at_once_and_those_that_are_there_stay(webserver: Answering) -> None:
    webserver.add_partitions("campaign_shard", ["tales-00", "tales-01"])
    assert webserver.shards == ["tales-00", "tales-01"]

    shards = [f"tales-{number:02d}" for number in range(150)]
    webserver.add_partitions("campaign_shard", shards)
    assert webserver.shards == shards
    assert webserver.num_requests == 1 + 2


def test_a_key_of_no_dynamic_partitions_is_refused_in_dagsters_words(webserver: Answering) -> None:
    with pytest.raises(LaunchRefused, match=r"refused the partition x of nobody: The repository does not contain"):
        webserver.add_partitions("nobody", ["x"])


def test_a_run_of_a_key_that_was_just_added_is_queued_under_both_dimensions(webserver: Answering) -> None:
    webserver.add_partitions("campaign_shard", ["tales-00"])
    run_id = webserver.launch("list_prompts", f"{DAY}|tales-00", requested_by="a test", tags={"mine": "yes"})
    (run,) = webserver.runs({"mine": "yes"})
    assert (run.run_id, run.partition, run.status) == (run_id, f"{DAY}|tales-00", "QUEUED")
    stored = webserver.workspace.instance.get_run_by_id(run_id)
    assert stored
    assert stored.tags["dagster/partition/shard"] == "tales-00"


def test_a_backfill_makes_a_run_of_each_partition_that_it_names(webserver: Answering) -> None:
    """Dagster's, over a dimension whose keys came after the definitions were loaded."""
    webserver.add_partitions("campaign_shard", ["tales-00", "tales-01"])
    wanted = [f"{DAY}|tales-00", f"{DAY}|tales-01"]
    parameters: Mapping[str, Any] = {"partitionNames": wanted, "assetSelection": [{"path": ["prompts"]}]}
    answer = webserver._query(LAUNCH_PARTITION_BACKFILL_MUTATION, {"backfillParams": parameters})
    assert answer["launchPartitionBackfill"]["__typename"] == "LaunchBackfillSuccess", answer
    errors = execute_backfill_iteration(webserver.workspace, logging.getLogger("test"))
    assert [error for error in errors if error] == []
    assert sorted(run.tags["dagster/partition"] for run in webserver.workspace.instance.get_runs()) == wanted
