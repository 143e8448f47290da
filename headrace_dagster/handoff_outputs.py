"""An asset's return value as rows to seal: for one partition, or for several partitions of one run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import polars as pl
import pyarrow as pa

from headrace.handoff.frames import arrow_table, pandas_frame_type
from headrace.handoff.schemas import schema_differences, schema_named
from headrace_dagster.failures import errors_of_the_asset, permanent_failure, stream_of_the_asset
from headrace_dagster.handoff_inputs import RecordBatches
from headrace_dagster.handoff_names import UNPARTITIONED

VALUES = (
    "a pyarrow Table, a polars or pandas frame, a RecordBatchReader, an iterator of record batches, or a sealed Handoff"
)
Rows = tuple[pa.Table | Iterable[pa.RecordBatch], pa.Schema]


def rows_of(value: Any, asset: str, declared: str | None) -> Rows:
    """The rows of one partition and their schema; streams stay streams.

    Args:
        declared: the name of the schema that the rows must have; a stream without batches gets it.

    Raises:
        dg.Failure: `value` is not in `VALUES`, its columns differ from the declared ones, or it is an empty stream
            without a declared schema.
    """
    rows, schema = _opened(value, asset, declared)
    if declared:
        wanted = schema_named(declared, schema)
        if differences := list(schema_differences(schema, wanted)):
            raise permanent_failure(
                f"{asset} declares the schema {declared}, and what it returned differs from it: "
                f"{'; '.join(differences)}. Return its columns (headrace.handoff.schemas.conform), or declare another."
            )
    return rows, schema


def _opened(value: Any, asset: str, declared: str | None) -> Rows:
    if isinstance(value, (pa.Table, pl.DataFrame, pl.LazyFrame, pandas_frame_type())):
        with errors_of_the_asset():
            table = arrow_table(value)
        return table, table.schema
    if isinstance(value, (pa.RecordBatchReader, RecordBatches)):
        return stream_of_the_asset(value), value.schema
    if isinstance(value, Iterator):
        value = stream_of_the_asset(value)
        first: Any = next(value, None)
        if isinstance(first, pa.RecordBatch):
            return chain([first], value), first.schema
        if first is None and declared:
            return iter(()), schema_named(declared, pa.schema([]))
        if first is None:
            raise permanent_failure(
                f"{asset} returned an iterator without a record batch, so that its columns are unknown. Return "
                "RecordBatches(schema, batches) or a RecordBatchReader, or name a schema in the output's metadata."
            )
    raise permanent_failure(f"{asset} returned {type(value).__name__}. Return {VALUES}.")


def values_by_partition(value: Any, asset: str, keys: Sequence[str] | None) -> Iterator[tuple[str, Any]]:
    """The returned value as (partition, value) pairs: from a mapping, a stream of pairs, or one partition's value.

    Checks partitions before any is sealed; checks a stream's as they come.

    Args:
        keys: the run's partitions; None for an asset without partitions.

    Raises:
        dg.Failure: a partition is unexpected, repeated or missing.
    """
    if keys is None:
        return iter([(UNPARTITIONED, value)])
    if isinstance(value, Mapping):
        _check_partitions(asset, list(value), keys)
        return iter(value.items())
    if isinstance(value, Iterator) and not isinstance(value, RecordBatches):
        value = stream_of_the_asset(value)
        first: Any = next(value, None)
        value = chain([] if first is None else [first], value)
        if isinstance(first, tuple):
            return _checked_pairs(value, asset, keys)
    if len(keys) == 1:
        return iter([(keys[0], value)])
    raise permanent_failure(
        f"{asset} was asked for {len(keys)} partitions in one run and returned one {type(value).__name__}. Return "
        "dict[partition key, frame] or an iterator of (partition key, frame), or launch one run a partition "
        "(BackfillPolicy.multi_run(1))."
    )


def _checked_pairs(pairs: Iterator[tuple[str, Any]], asset: str, keys: Sequence[str]) -> Iterator[tuple[str, Any]]:
    wanted, seen = set(keys), set[str]()
    for partition, value in pairs:
        if partition in seen:
            raise permanent_failure(f"{asset} returned the partition {partition} twice. Return each one once.")
        if partition not in wanted:
            _check_partitions(asset, [*keys, partition], keys)
        seen.add(partition)
        yield partition, value
    _check_partitions(asset, list(seen), keys)


def _check_partitions(asset: str, returned: Sequence[str], keys: Sequence[str]) -> None:
    missing = [key for key in keys if key not in set(returned)]
    surplus = [str(key) for key in returned if key not in set(keys)]
    if missing or surplus:
        faults = [f"did not return {_some(missing)}"] if missing else []
        faults += [f"returned {_some(surplus)}"] if surplus else []
        raise permanent_failure(
            f"{asset} was asked for the partitions {_some(keys)} and {' and '.join(faults)}. Return exactly these."
        )


def _some(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return f"{', '.join(keys[:5])}{more}"
