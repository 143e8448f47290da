"""What follows by itself, on a real instance: conditions rest on data versions, not on materializations."""

import itertools
from datetime import UTC, datetime, timedelta

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

    def __init__(
        self, instance: dg.DagsterInstance, definitions: dg.Definitions = DEFS, *, at: datetime | None = None
    ) -> None:
        self.instance, self.definitions = instance, definitions
        self.cursor: AssetDaemonCursor | None = None
        # Dagster lists the partitions of one moment once.
        self.moments = (at + timedelta(seconds=number) if at else None for number in itertools.count())

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
        result = dg.evaluate_automation_conditions(
            self.definitions, self.instance, cursor=self.cursor, evaluation_time=next(self.moments)
        )
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


DAYS = dg.DailyPartitionsDefinition("2026-11-20")
CONTENT = dg.MultiPartitionsDefinition({"day": DAYS, "shard": dg.DynamicPartitionsDefinition(name="shards")})
TONIGHT = datetime(2026, 11, 23, 4, tzinfo=UTC)


@dg.asset(partitions_def=CONTENT)
def listed() -> None: ...


@dg.asset(partitions_def=CONTENT, deps=[listed])
def written() -> None: ...


@dg.asset(
    partitions_def=DAYS,
    deps=[dg.AssetDep(written, partition_mapping=dg.MultiToSingleDimensionPartitionMapping("day"))],
    automation_condition=on_changed_inputs(without_idle_inputs=True),
)
def report() -> None: ...


@pytest.fixture
def night() -> Watch:
    """Two shards of one campaign, and one of another."""
    watch = Watch(dg.DagsterInstance.ephemeral(), dg.Definitions([listed, written, report]), at=TONIGHT)
    watch.instance.add_dynamic_partitions("shards", ["tales-00", "tales-01", "fables-00"])
    watch.requested(report)
    return watch


def test_nothing_is_reported_of_a_day_on_which_nothing_is_made(night: Watch) -> None:
    assert night.requested(report) == set()
    night.make(listed, partition="2026-11-22|tales-00")
    assert night.requested(report) == set()


def test_a_report_waits_for_what_was_begun_and_not_for_a_campaign_that_nobody_generates(night: Watch) -> None:
    """Keys of deleted files stay: else no report would ever follow by itself again."""
    for shard in ("tales-00", "tales-01"):
        night.make(listed, partition=f"2026-11-22|{shard}")
    night.make(written, partition="2026-11-22|tales-00")
    assert night.requested(report) == set()
    night.make(written, partition="2026-11-22|tales-01")
    assert night.requested(report) == {"2026-11-22"}
    assert night.requested(report) == set()


def test_a_new_campaign_asks_for_no_report_of_the_others_again(night: Watch) -> None:
    night.make(listed, partition="2026-11-22|tales-00")
    night.make(written, partition="2026-11-22|tales-00")
    assert night.requested(report) == {"2026-11-22"}
    night.make(report, partition="2026-11-22")
    night.instance.add_dynamic_partitions("shards", ["epics-00"])
    assert night.requested(report) == set()
    night.make(listed, partition="2026-11-22|epics-00")
    assert night.requested(report) == set()
    night.make(written, partition="2026-11-22|epics-00")
    assert night.requested(report) == {"2026-11-22"}


def test_training_generation_and_prompts_wait_to_be_told() -> None:
    """A late corpus shard re-trains nothing by itself; a night's prompts come from the schedule."""
    graph = defs.resolve_asset_graph()

    by_itself = {key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).automation_condition}

    assert by_itself == set(FOLLOWERS)
    assert not by_itself & {"base_model", "trained_model", "prompts", "generated_content", "rollout"}


@dg.asset(
    automation_condition=on_changed_inputs(),
    ins={"source": dg.AssetIn(partition_mapping=dg.AllPartitionMapping(), dagster_type=dg.Nothing)},
)
def of_all(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """As image_verdicts: one for all shards."""
    return dg.MaterializeResult(data_version=dg.DataVersion(context.run.tags.get("content", "1")))


@dg.asset(partitions_def=SHARDS, deps=[source, of_all], automation_condition=on_changed_inputs())
def of_each(context: dg.AssetExecutionContext) -> None:
    """As clean_images."""


def test_what_judges_all_shards_waits_for_the_last_one_and_each_shard_follows_it() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        watch = Watch(instance, dg.Definitions([source, of_all, of_each]))
        watch.requested(of_all)
        watch.make(source)
        assert watch.requested(of_all) == set()
        watch.make(source, partition="b")
        assert watch.requested(of_all) == {None}
        dg.materialize([of_all], instance=instance)
        assert watch.requested(of_each) == {"a", "b"}
