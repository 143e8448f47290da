"""A store, an instance, and the assets that one test materializes on them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from headrace_dagster.handoff_io import ArrowHandoffIOManager, StoreResource

SHARDS = dg.StaticPartitionsDefinition(["shard-00", "shard-01"])


@dataclass(frozen=True, kw_only=True)
class Made:
    """What Dagster recorded of one materialization."""

    partition: str | None
    metadata: dict[str, Any]
    tags: dict[str, str]

    @property
    def data_version(self) -> str:
        return self.tags["dagster/data_version"]


class Project:
    def __init__(self, directory: Path, instance: dg.DagsterInstance) -> None:
        self.directory = directory
        self.instance = instance
        self.handoffs = HandoffStore(LocalStore(directory))

    def resources(self, **io_settings: Any) -> dict[str, Any]:
        url = str(self.directory)
        return {"io_manager": ArrowHandoffIOManager(url=url, **io_settings), "store": StoreResource(url=url)}

    def make(self, asset: Any, *others: Any, **arguments: Any) -> Made:
        """Materializes `asset`; `others` are what it reads."""
        return self.make_all(asset, *others, **arguments)[-1]

    def make_all(
        self, asset: Any, *others: Any, partitions: tuple[str, str] | None = None, **arguments: Any
    ) -> list[Made]:
        """Every materialization of one run; `partitions`: the first and the last of one run's range."""
        if partitions:
            first, last = partitions
            tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
            arguments["tags"] = arguments.get("tags", {}) | tags
        io_settings = arguments.pop("io_settings", {})
        result = dg.materialize(
            [asset, *others],
            selection=[asset],
            instance=self.instance,
            resources=self.resources(**io_settings),
            **arguments,
        )
        return [
            Made(
                partition=event.partition,
                metadata={name: value.value for name, value in event.metadata.items()},
                tags=dict(event.tags or {}),
            )
            for event in result.asset_materializations_for_node(asset.op.name)
        ]


def failure_of(project: Project, *assets: Any, **arguments: Any) -> str:
    """What a failing, not to be retried, materialization says."""
    with pytest.raises(dg.Failure) as failure:
        project.make(*assets, **arguments)
    assert failure.value.allow_retries is False
    return str(failure.value.description)


@dg.asset(partitions_def=SHARDS, code_version="7")
def docs(context: dg.AssetExecutionContext) -> pa.Table:
    return pa.table({"shard": [context.partition_key] * 3, "number": [1, 2, 3]})
