"""What follows by itself, on a real instance: conditions rest on data versions, not on materializations."""

import dagster as dg
import pytest
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor

from pipelines.automation import FOLLOWERS, on_changed_inputs
from pipelines.definitions import defs

SHARDS = dg.StaticPartitionsDefinition(["a", "b"])


@dg.asset(partitions_def=SHARDS)
def source(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion(context.run.tags.get("content", "1")))


@dg.asset(partitions_def=SHARDS, deps=[source], automation_condition=on_changed_inputs())
def follower(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion(context.run.tags.get("content", "1")))


@dg.asset(partitions_def=SHARDS, deps=[follower], automation_condition=on_changed_inputs())
def next_stage(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion(context.run.tags.get("content", "1")))


DEFS = dg.Definitions([source, follower, next_stage])


class Watch:
    """Ticks of one automation sensor over one instance."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: AssetDaemonCursor | None = None

    def make(self, *assets: dg.AssetsDefinition, partition: str = "a", content: str = "1") -> None:
        dg.materialize(
            list(assets),
            partition_key=partition,
            instance=self.instance,
            tags={"content": content},
            selection=[asset.key for asset in assets],
        )

    def requested(self, asset: dg.AssetsDefinition = follower) -> set[str | None]:
        """Partitions of `asset` that this tick asks for."""
        result = dg.evaluate_automation_conditions(DEFS, self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        return set(result.get_requested_partitions(asset.key))


@pytest.fixture
def watch() -> Watch:
    watch = Watch(dg.DagsterInstance.ephemeral())
    watch.requested()
    return watch


def test_a_partition_whose_input_appears_is_requested_once(watch: Watch) -> None:
    watch.make(source)

    assert watch.requested() == {"a"}
    assert watch.requested() == set()


def test_an_input_made_again_with_the_same_data_version_requests_nothing(watch: Watch) -> None:
    watch.make(source)
    watch.requested()
    watch.make(source, follower)
    watch.requested()

    watch.make(source)

    assert watch.requested() == set()


def test_an_input_with_a_new_data_version_requests_its_follower_again(watch: Watch) -> None:
    watch.make(source)
    watch.requested()
    watch.make(follower)
    watch.requested()

    watch.make(source, content="2")

    assert watch.requested() == {"a"}


def test_a_run_that_made_both_asks_for_neither_again(watch: Watch) -> None:
    watch.make(source, follower)

    assert watch.requested() == set()
    assert watch.requested() == set()

    watch.make(source, follower, content="2")

    assert watch.requested() == set()


def test_one_shard_that_changes_does_not_ask_for_the_others(watch: Watch) -> None:
    for partition in ("a", "b"):
        watch.make(source, follower, partition=partition)
    watch.requested()

    watch.make(source, partition="b", content="2")

    assert watch.requested() == {"b"}


def test_a_follower_without_its_input_is_not_requested(watch: Watch) -> None:
    assert watch.requested() == set()


def test_the_next_stage_waits_for_a_run_of_its_own(watch: Watch) -> None:
    watch.make(source)

    assert watch.requested(next_stage) == set()

    watch.make(follower)

    assert watch.requested(next_stage) == {"a"}


def test_training_generation_and_prompts_wait_to_be_told() -> None:
    """A late corpus shard re-trains nothing by itself; a night's prompts come from the schedule."""
    graph = defs.resolve_asset_graph()

    by_itself = {key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).automation_condition}

    assert by_itself == set(FOLLOWERS)
    assert not by_itself & {"base_model", "trained_model", "prompts", "generated_content", "rollout"}
