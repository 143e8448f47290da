"""Opens an asset's input as its annotation asks: one partition, many or none; as a frame, a stream, or handles.

Nothing is copied, except for pandas. Several partitions open in parallel (their manifests, leases and first
verification). Lazy inputs stay lazy: a `pl.LazyFrame` reads the columns and rows that its query touches, a stream maps
one part at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import polars as pl
import pyarrow as pa

from headrace.handoff.frames import pandas_frame, pandas_frame_type
from headrace.handoff.lazy import lazy_frame
from headrace.handoff.schemas import empty_table, schema_differences, schema_named
from headrace.handoff.versions import Handoff
from headrace_dagster.failures import permanent_failure, translated_errors

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")
# Threads that open one input's partitions: each waits for a few small reads, which a remote store serves in parallel.
NUM_OPENERS = 16
ANNOTATIONS = (
    "pa.Table, pl.DataFrame, pl.LazyFrame, pd.DataFrame, Handoff, pa.RecordBatchReader, RecordBatches, "
    "or dict[str, X] by partition, X being Handoff, pa.Table, pl.DataFrame, pl.LazyFrame or pd.DataFrame; "
    "with `| None` where there may be no partition; or HandoffsWhenAsked"
)


class HandoffsWhenAsked:
    """An input that the body opens only if it needs it, by partition.

    For an asset whose partitions read different assets. What is not asked for is no input of what is sealed: it may be
    missing, and no lineage names it.
    """

    def __init__(self, opened: Callable[[], dict[str, Handoff]]) -> None:
        self._opened = opened

    def open(self) -> dict[str, Handoff]:
        """Raises: dg.Failure: a partition is missing."""
        return self._opened()


class RecordBatches(Iterator[pa.RecordBatch]):
    """A stream of record batches that knows its schema: an annotation for inputs, a value for outputs.

    Dagster refuses `Iterator[pa.RecordBatch]` as an annotation (tests/upstream/test_handoff_types.py), and an output
    without batches needs the schema in any case.
    """

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self.schema = schema
        self._batches = iter(batches)

    def __next__(self) -> pa.RecordBatch:
        return next(self._batches)


@dataclass(frozen=True, kw_only=True)
class InputRequest:
    """One input's wishes. `columns`: only these are opened; `schema`: a name in `headrace.handoff.schemas`."""

    name: str
    asset: str
    kind: Any
    columns: tuple[str, ...] | None = None
    schema: str | None = None

    def open(self, handoffs: Mapping[str, Handoff]) -> Any:
        """The input's value; `handoffs` by partition, in the order of their rows.

        None if there is no partition and the annotation allows it: an asset that reads its own yesterday has none on
        its first day.

        Raises:
            dg.Failure: the annotation is not in `ANNOTATIONS`, or columns are missing.
            HandoffCorrupt: a part is damaged.
        """
        kind = _without_none(pa.Table if self.kind is Any else self.kind)
        if not handoffs and kind is not self.kind and self.kind is not Any:
            return None
        if _is_by_partition(kind):
            return self._by_partition(handoffs, kind)
        if kind is Handoff:
            return self._only(handoffs)
        opener = {**_OPENERS, pandas_frame_type(): InputRequest._pandas}.get(kind)
        if opener is None:
            raise permanent_failure(f"Input {self.name} is annotated {_name(kind)}. Annotate it as {ANNOTATIONS}.")
        for handoff in handoffs.values():
            self._check_columns(handoff)
        return opener(self, list(handoffs.values()), self._common_schema(handoffs))

    def _by_partition(self, handoffs: Mapping[str, Handoff], kind: Any) -> dict[str, Any]:
        value = get_args(kind)[1] if len(get_args(kind)) == 2 else Handoff
        opened: dict[Any, Callable[[Handoff], Any]] = {
            Handoff: lambda handoff: handoff,
            pa.Table: lambda handoff: handoff.table(self.columns),
            pl.DataFrame: lambda handoff: handoff.polars(self.columns),
            pl.LazyFrame: lambda handoff: handoff.lazy(self.columns),
            pandas_frame_type(): lambda handoff: pandas_frame(handoff.table(self.columns)),
        }
        if value not in opened:
            raise permanent_failure(f"Input {self.name} is annotated {_name(kind)}. Annotate it as {ANNOTATIONS}.")
        for handoff in handoffs.values():
            self._check_columns(handoff)
        return dict(zip(handoffs, in_parallel(opened[value], list(handoffs.values())), strict=True))

    def _only(self, handoffs: Mapping[str, Handoff]) -> Handoff:
        if len(handoffs) != 1:
            wanted = "dict[str, Handoff]" if handoffs else "Handoff | None, and look whether it is None"
            raise permanent_failure(f"Input {self.name} has {len(handoffs)} partitions. Annotate it as {wanted}.")
        (handoff,) = handoffs.values()
        self._check_columns(handoff)
        return handoff

    def _check_columns(self, handoff: Handoff) -> None:
        """Checks one version's schema against the input's wishes, before its data is touched."""
        there = handoff.schema
        if self.schema:
            handoff.expect(schema_named(self.schema, there))
        missing = [column for column in self.columns or () if column not in there.names]
        if missing:
            raise permanent_failure(
                f"Input {self.name} asks for columns {', '.join(missing)}, and {handoff.label} has none of that name. "
                f"It has {', '.join(f'{field.name}: {field.type}' for field in there)}. "
                "Correct the input's columns, or materialize what it reads again."
            )

    def _common_schema(self, handoffs: Mapping[str, Handoff]) -> pa.Schema:
        """One schema for all partitions' rows: the first one's types, nullable if any partition's is."""
        if not handoffs:
            return self._selected(self._declared_schema())
        first, *others = handoffs.values()
        schema = self._selected(first.schema)
        for other in others:
            theirs = self._selected(other.schema)
            if differences := list(schema_differences(theirs, schema)):
                raise permanent_failure(
                    f"{self.asset}[{other.partition}] does not have the columns of {self.asset}[{first.partition}]: "
                    f"{'; '.join(differences)}. Materialize the older of the two again."
                )
            nullable = [field.nullable or theirs.field(field.name).nullable for field in schema]
            schema = pa.schema([field.with_nullable(may) for field, may in zip(schema, nullable, strict=True)])
        return schema.remove_metadata()

    def _declared_schema(self) -> pa.Schema:
        if self.schema is None:
            raise permanent_failure(
                f"Input {self.name} reads no partition of {self.asset} here, so that its columns are unknown. "
                f"Annotate it as {_name(self.kind)} | None, and look whether it is None; or name the schema of its "
                "columns in the input's metadata (schema: one of headrace.handoff.schemas)."
            )
        return schema_named(self.schema, pa.schema([]))

    def _selected(self, schema: pa.Schema) -> pa.Schema:
        return schema if self.columns is None else pa.schema([schema.field(name) for name in self.columns])

    def _table(self, handoffs: list[Handoff], schema: pa.Schema) -> pa.Table:
        tables = in_parallel(lambda handoff: _conformed(handoff.table(self.columns), schema), handoffs)
        return pa.concat_tables(tables) if tables else empty_table(schema)

    def _pandas(self, handoffs: list[Handoff], schema: pa.Schema) -> Any:
        return pandas_frame(self._table(handoffs, schema))

    def _frame(self, handoffs: list[Handoff], schema: pa.Schema) -> pl.DataFrame:
        frames = in_parallel(lambda handoff: handoff.polars(self.columns), handoffs)
        return pl.concat(frames, rechunk=False) if frames else pl.DataFrame(empty_table(schema))

    def _lazy(self, handoffs: list[Handoff], schema: pa.Schema) -> pl.LazyFrame:
        if not handoffs:
            return pl.DataFrame(empty_table(schema)).lazy()
        return lazy_frame(handoffs, self.columns)

    def _batches(self, handoffs: list[Handoff], schema: pa.Schema) -> RecordBatches:
        def stream() -> Iterator[pa.RecordBatch]:
            # The asset's body opens parts while it runs, outside of the IO manager.
            with translated_errors():
                for handoff in handoffs:
                    for batch in handoff.batches(self.columns):
                        yield batch if batch.schema.equals(schema) else batch.cast(schema)

        return RecordBatches(schema, stream())

    def _reader(self, handoffs: list[Handoff], schema: pa.Schema) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(schema, self._batches(handoffs, schema))


def in_parallel(action: Callable[[_Item], _Made], items: list[_Item]) -> list[_Made]:
    """`action` of each, in order; the first error is raised."""
    if len(items) < 2:
        return [action(item) for item in items]
    with ThreadPoolExecutor(min(NUM_OPENERS, len(items)), thread_name_prefix="open-handoff") as openers:
        return list(openers.map(action, items))


_OPENERS: dict[Any, Callable[[InputRequest, list[Handoff], pa.Schema], Any]] = {
    pa.Table: InputRequest._table,
    pl.DataFrame: InputRequest._frame,
    pl.LazyFrame: InputRequest._lazy,
    pa.RecordBatchReader: InputRequest._reader,
    RecordBatches: InputRequest._batches,
    Iterator: InputRequest._batches,
}


def _without_none(kind: Any) -> Any:
    """`X` of `X | None` in any spelling; anything else unchanged."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    others = [each for each in get_args(kind) if each is not NoneType]
    return others[0] if len(others) == 1 and len(get_args(kind)) == 2 else kind


def _is_by_partition(kind: Any) -> bool:
    return (get_origin(kind) or kind) in (dict, Mapping)


def _conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Partitions may differ in text spelling and nullability; adapting either copies at most offsets."""
    return table if table.schema.equals(schema) else table.cast(schema)


def _name(kind: Any) -> str:
    if kind is Any:
        return "pa.Table"
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
