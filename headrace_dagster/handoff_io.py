"""Hands sealed Arrow versions from asset to asset: no pickle, no copy, nothing half written.

An asset's partition is one handoff of the same names. What a step loaded is written into the manifest of what it makes.
The data version that Dagster sees is the content digest: making the same rows again changes nothing downstream.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, get_origin
from weakref import WeakKeyDictionary

import dagster as dg
import polars as pl
import pyarrow as pa
from pydantic import Field

from headrace.handoff.frames import arrow_table
from headrace.handoff.preview import preview_markdown
from headrace.handoff.schemas import schema_differences
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.store.local import LocalStore
from headrace_dagster.failures import translated_errors

# The one "partition" of an asset that has none.
UNPARTITIONED = "all"
# Input metadata, in the spelling of Dagster's own UPathIOManager.
ALLOW_MISSING_PARTITIONS = "allow_missing_partitions"

# What each running step has loaded: "asset[partition]" to "v7 <content digest>". Of the module, since a step may load
# through one IO manager and store through another; weak, so that nothing outlives its step.
_loaded: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()


class StoreResource(dg.ConfigurableResource):
    """The object store, for assets that read or seal by themselves."""

    directory: str = Field(description="Directory of the store: an absolute path.")

    def objects(self) -> LocalStore:
        return LocalStore(Path(self.directory))

    def handoffs(self) -> HandoffStore:
        return HandoffStore(self.objects())


class ArrowHandoffIOManager(dg.ConfigurableIOManager):
    """Stores `pa.Table`, `pl.DataFrame`, `pl.LazyFrame`, record batch streams and sealed `Handoff`s.

    Loads by the input's annotation: `pa.Table` (and none), `pl.DataFrame`, `pl.LazyFrame`, `Handoff`, or
    `dict[str, Handoff]` by partition. The first three concatenate several partitions, without a copy. With the input
    metadata `allow_missing_partitions: True`, what is not sealed yet is left out.
    """

    directory: str = Field(description="Directory of the store: an absolute path.")

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        if obj is None:
            return
        asset, partition = context.asset_key.to_user_string(), _output_partition(context)
        loaded = _loaded.get(context.step_context, {})
        with translated_errors():
            if isinstance(obj, Handoff):
                handoff = _check_own(obj, asset, partition)
            else:
                rows, schema = _rows(obj, asset)
                handoff = self._handoffs().publish(
                    asset,
                    partition,
                    rows,
                    schema=schema,
                    code_version=context.asset_spec.code_version or "",
                    run_id=context.run_id,
                    input_versions=loaded,
                )
            # A reused version keeps the inputs it was first made from; this run's own belong to this run's record.
            metadata = _metadata(handoff, loaded or handoff.manifest.input_versions)
        # The one way to a data version from here: tests/upstream/test_data_version.py.
        context.step_context.set_data_version(context.asset_key, dg.DataVersion(handoff.content_digest))
        context.add_output_metadata(metadata)

    def load_input(self, context: dg.InputContext) -> Any:
        asset = context.asset_key.to_user_string()
        kind = context.dagster_type.typing_type
        wanted = list(context.asset_partition_keys) if context.has_asset_partitions else [UNPARTITIONED]
        allow_missing = bool((context.definition_metadata or {}).get(ALLOW_MISSING_PARTITIONS))
        with translated_errors():
            found = {partition: self._handoffs().newest(asset, partition) for partition in wanted}
            handoffs = {partition: handoff for partition, handoff in found.items() if handoff}
            if len(handoffs) < len(wanted) and not allow_missing:
                raise _missing(context, asset, [partition for partition in wanted if partition not in handoffs])
            _remember(context, handoffs)
            return _as_annotated(kind, handoffs, asset)

    def _handoffs(self) -> HandoffStore:
        return HandoffStore(LocalStore(Path(self.directory)))


def _output_partition(context: dg.OutputContext) -> str:
    if not context.has_asset_partitions:
        return UNPARTITIONED
    keys = context.asset_partition_keys
    if len(keys) != 1:
        raise dg.Failure(
            f"{context.asset_key.to_user_string()} was asked for {len(keys)} partitions in one run, and a handoff is "
            "one partition. Launch one run a partition (BackfillPolicy.multi_run(1)).",
            allow_retries=False,
        )
    return keys[0]


def _check_own(handoff: Handoff, asset: str, partition: str) -> Handoff:
    if (handoff.asset, handoff.partition) != (asset, partition):
        raise dg.Failure(
            f"{asset}[{partition}] returned the handoff {handoff.asset}[{handoff.partition}]. "
            "Publish under the asset's own key and partition.",
            allow_retries=False,
        )
    return handoff


def _rows(obj: Any, asset: str) -> tuple[Any, pa.Schema | None]:
    if isinstance(obj, (pa.Table, pl.DataFrame, pl.LazyFrame)):
        return arrow_table(obj), None
    if isinstance(obj, pa.RecordBatchReader):
        return obj, None
    if isinstance(obj, Iterator):
        first: Any = next(obj, None)
        if isinstance(first, pa.RecordBatch):
            return chain([first], obj), first.schema
    raise dg.Failure(
        f"{asset} returned {type(obj).__name__}. Return a pyarrow Table, a polars frame, a RecordBatchReader, an "
        "iterator of at least one record batch, or a sealed Handoff.",
        allow_retries=False,
    )


def _metadata(handoff: Handoff, input_versions: Mapping[str, str]) -> dict[str, Any]:
    columns = [
        dg.TableColumn(field.name, str(field.type), constraints=dg.TableColumnConstraints(nullable=field.nullable))
        for field in handoff.schema
    ]
    return {
        "num_rows": handoff.num_rows,
        "handoff_bytes": handoff.num_bytes,
        "version": handoff.version,
        "content_digest": handoff.content_digest,
        "reused": handoff.reused,
        "preview": dg.MetadataValue.md(preview_markdown(handoff.head(5))),
        "input_versions": dg.MetadataValue.json(dict(input_versions)),
        # The keys that give Dagster's asset page its columns tab and its row count.
        "dagster/column_schema": dg.TableSchema(columns=columns),
        "dagster/row_count": handoff.num_rows,
    }


def _missing(context: dg.InputContext, asset: str, missing: list[str]) -> dg.Failure:
    named = ", ".join(f"{asset}[{partition}]" for partition in missing[:5])
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    partitions = "" if missing == [UNPARTITIONED] else f", partitions {', '.join(missing[:5])}{more},"
    return dg.Failure(
        f"Input {context.name} has no sealed handoff of {named}{more}. Materialize {asset}{partitions} first.",
        allow_retries=False,
    )


def _remember(context: dg.InputContext, handoffs: Mapping[str, Handoff]) -> None:
    try:
        step = context.step_context
    except dg.DagsterInvariantViolationError:  # loaded by hand, outside of any step
        return
    versions = {
        f"{each.asset}[{each.partition}]": f"v{each.version} {each.content_digest}" for each in handoffs.values()
    }
    _loaded.setdefault(step, {}).update(versions)


def _as_annotated(kind: Any, handoffs: Mapping[str, Handoff], asset: str) -> Any:
    if (get_origin(kind) or kind) in (dict, Mapping):
        return dict(handoffs)
    if kind is Handoff:
        if len(handoffs) == 1:
            return next(iter(handoffs.values()))
        raise dg.Failure(
            f"Input {asset} has {len(handoffs)} partitions. Annotate it as dict[str, Handoff].", allow_retries=False
        )
    if not handoffs:
        raise dg.Failure(
            f"No partition of {asset} is sealed, so that its columns are unknown. Materialize one of them first.",
            allow_retries=False,
        )
    table = _concatenated(handoffs)
    if kind in (pl.DataFrame, pl.LazyFrame):
        frame = pl.from_arrow(table, rechunk=False)
        assert isinstance(frame, pl.DataFrame)
        return frame if kind is pl.DataFrame else frame.lazy()
    return table


def _concatenated(handoffs: Mapping[str, Handoff]) -> pa.Table:
    tables = {partition: handoff.table() for partition, handoff in handoffs.items()}
    (first, table), *others = tables.items()
    for partition, other in others:
        if not other.schema.equals(table.schema):
            asset = handoffs[first].asset
            raise dg.Failure(
                f"{asset}[{partition}] does not have the columns of {asset}[{first}]: "
                f"{'; '.join(schema_differences(other.schema, table.schema)) or 'nullability differs'}. "
                "Materialize the older of the two again.",
                allow_retries=False,
            )
    return pa.concat_tables(tables.values())
