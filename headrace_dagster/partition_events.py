"""Records each partition of a step with its own data version, metadata and lineage.

Dagster gives all partitions of a step one data version, so one changed partition would request everything downstream of
all of them. There is no option for it: this uses three internals, each with its test in
tests/upstream/test_partition_events.py.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.definition.asset_spec import AssetExecutionType
from dagster._core.definitions.metadata import normalize_metadata
from dagster._core.execution.plan.execute_step import _get_output_asset_events

from headrace_dagster.handoff_names import handoff_name


class PartitionEvents:
    """Records one output's materializations instead of Dagster."""

    def __init__(self, context: dg.OutputContext) -> None:
        self._context = context
        self._asset_key = context.asset_key
        # What the asset's body stated about all its partitions. Its tags do not reach this place.
        self._output = dg.Output(None, output_name=context.name, metadata=dict(context.output_metadata))

    def record(self, partition: str, data_version: dg.DataVersion, metadata: Mapping[str, Any]) -> None:
        """Stores the event at once, so a run that fails later has still recorded what it sealed."""
        step = self._context.step_context
        step.set_data_version(self._asset_key, data_version)
        events = _get_output_asset_events(
            self._asset_key,
            [partition],
            self._output,
            step.op_def.output_def_named(self._context.name),
            normalize_metadata(dict(metadata)),
            step,
            AssetExecutionType.MATERIALIZATION,
        )
        for event in events:
            self._context.log_event(event)

    def close(self) -> None:
        """Leaves only our events: without an asset key, Dagster records no materialization for this output."""
        self._context._asset_key = None


def upstream_partitions(context: dg.OutputContext, partition: str) -> dict[str, set[str]]:
    """For each partitioned input asset: the partitions from which one partition of this output's asset is made.

    Assets are named as in handoffs. An asset whose partitions are unknown is left out.
    """
    step = context.step_context
    graph = step.job_def.asset_layer.asset_graph
    own = graph.get(context.asset_key).partitions_def
    found: dict[str, set[str]] = {}
    if own is None:
        return found
    for parent in graph.get(context.asset_key).parent_keys:
        theirs = graph.get(parent).partitions_def
        if theirs is None:
            continue
        mapped = graph.get_partition_mapping(
            context.asset_key, parent
        ).get_upstream_mapped_partitions_result_for_partitions(
            downstream_partitions_subset=own.subset_with_partition_keys([partition]),
            downstream_partitions_def=own,
            upstream_partitions_def=theirs,
            dynamic_partitions_store=step.instance,
        )
        found[handoff_name(parent, graph.get(parent).metadata)] = set(mapped.partitions_subset.get_partition_keys())
    return found


def ordered_partitions(context: dg.InputContext | dg.OutputContext) -> list[str]:
    """The partitions of an input or output; Dagster returns a set, ordered differently in every process.

    In the order of the definition if it has one, otherwise by name, which for days and hours is by time.
    """
    keys, definition = context.asset_partition_keys, context.asset_partitions_def
    if isinstance(definition, dg.StaticPartitionsDefinition):
        place = {key: index for index, key in enumerate(definition.get_partition_keys())}
        return sorted(keys, key=lambda key: place.get(key, len(place)))
    return sorted(keys)
