"""What `headrace_dagster.partition_events` leans on, undocumented: one event for each partition, with its own tags.

A failure here reads: Dagster changed, look at that module.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.definition.asset_spec import AssetExecutionType
from dagster._core.execution.plan.execute_step import _get_output_asset_events

LETTERS = dg.StaticPartitionsDefinition(["a", "b", "c"])
TWO = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "b"}


@dg.asset(partitions_def=LETTERS)
def source() -> str:
    return "source"


@dg.asset(partitions_def=LETTERS, code_version="7", backfill_policy=dg.BackfillPolicy.single_run())
def ranged(source: str) -> dg.MaterializeResult[str]:
    return dg.MaterializeResult(value="rows", metadata={"stated": 1})


class Stores(dg.IOManager):
    def handle_output(self, context: dg.OutputContext, obj: Any) -> None: ...

    def load_input(self, context: dg.InputContext) -> Any:
        return "source"


class SetsOneVersion(Stores):
    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        for partition in context.asset_partition_keys:
            context.step_context.set_data_version(context.asset_key, dg.DataVersion(f"of-{partition}"))


class LosesItsAssetKey(Stores):
    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        context._asset_key = None


class MakesItsOwnEvents(Stores):
    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        step = context.step_context
        output = dg.Output(None, metadata=dict(context.output_metadata))
        output_def = step.op_def.output_def_named(context.name)
        key, kind = context.asset_key, AssetExecutionType.MATERIALIZATION
        for partition in context.asset_partition_keys:
            step.set_data_version(key, dg.DataVersion(f"of-{partition}"))
            for event in _get_output_asset_events(key, [partition], output, output_def, {}, step, kind):
                context.log_event(event)
        context._asset_key = None


def materializations(io_manager: dg.IOManager) -> Mapping[str, dg.AssetMaterialization]:
    with dg.DagsterInstance.ephemeral() as instance:
        for partition in ("a", "b"):
            dg.materialize([source], partition_key=partition, instance=instance)
        result = dg.materialize(
            [ranged, source],
            selection=[ranged],
            tags=TWO,
            instance=instance,
            resources={"io_manager": io_manager},
        )
        assert result.success
        events = result.asset_materializations_for_node("ranged")
        stored = instance.fetch_materializations(ranged.key, limit=10).records
        assert len(stored) == len(events)
        return {str(event.partition): event for event in events}


def tags(event: dg.AssetMaterialization) -> Mapping[str, str]:
    return event.tags or {}


def test_a_step_has_one_data_version_for_all_its_partitions() -> None:
    """The reason for all of this; when it fails, see whether Dagster has a way of its own."""
    made = materializations(SetsOneVersion())
    assert len(made) == 2
    assert len({tags(event)["dagster/data_version"] for event in made.values()}) == 1


def test_an_output_whose_asset_key_was_taken_away_records_nothing() -> None:
    assert materializations(LosesItsAssetKey()) == {}


def test_events_made_one_by_one_carry_their_own_version_and_all_that_dagster_adds() -> None:
    made = materializations(MakesItsOwnEvents())
    assert {partition: tags(event)["dagster/data_version"] for partition, event in made.items()} == {
        "a": "of-a",
        "b": "of-b",
    }
    for event in made.values():
        assert tags(event)["dagster/code_version"] == "7"
        assert "dagster/input_data_version/source" in tags(event)
        assert event.metadata["stated"].value == 1


def test_partition_keys_are_handed_out_of_a_set() -> None:
    """Why they are put in order: rows of several partitions follow each other in theirs."""
    subset = LETTERS.subset_with_partition_keys(["c", "a", "b"])
    assert isinstance(subset.get_partition_keys(), set | frozenset)
