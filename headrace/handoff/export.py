"""Copies a version for programs that cannot read Arrow files: as Parquet, CSV, JSON lines, or one plain Arrow file.

Rows stream: memory holds about one window of them. A copy appears when it is complete.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, Protocol, get_args

import pyarrow as pa
import pyarrow.compute as pc

from headrace.errors import InvalidInput
from headrace.handoff.schemas import schema_differences
from headrace.handoff.sealed import Handoff
from headrace.handoff.spelling import large_type, respell, respelled
from headrace.store.whole_files import renamed_when_whole

# A Parquet row group, and the amount converted to text at once.
WINDOW_BYTES = 64 * 1024 * 1024

Format = Literal["parquet", "csv", "jsonl", "arrow"]
FORMATS: tuple[Format, ...] = get_args(Format)
# Called with the number of newly written rows.
Progress = Callable[[int], object]


class Rows(Protocol):
    """What can be exported: one version, or a selection from several."""

    @property
    def label(self) -> str: ...

    @property
    def schema(self) -> pa.Schema: ...

    @property
    def num_rows(self) -> int: ...

    @property
    def num_bytes(self) -> int: ...

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]: ...


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The rows of several versions with the same columns; of these, those with the values of `where`.

    `num_rows` and `num_bytes` count before `where`.
    """

    label: str
    handoffs: tuple[Handoff, ...]
    where: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises: InvalidInput: there is no version, or two have other columns."""
        if not self.handoffs:
            raise InvalidInput(f"There is nothing to export: {self.label} has no sealed rows.")
        first = self.handoffs[0]
        for other in self.handoffs[1:]:
            # Not whether nulls are allowed: rows say so themselves.
            if differences := list(schema_differences(other.schema, first.schema)):
                raise InvalidInput(
                    f"The columns of {other.label} are not those of {first.label} ({'; '.join(differences)}): export "
                    "them one by one."
                )

    @property
    def schema(self) -> pa.Schema:
        return self.handoffs[0].schema

    @property
    def num_rows(self) -> int:
        return sum(one.num_rows for one in self.handoffs)

    @property
    def num_bytes(self) -> int:
        return sum(one.num_bytes for one in self.handoffs)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        names = list(columns) if columns is not None else self.schema.names
        read = [*names, *(name for name in self.where if name not in names)]
        for handoff in self.handoffs:
            for batch in handoff.batches(read):
                yield self._kept(batch).select(names)

    def _kept(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if not self.where:
            return batch
        # Arrow neither compares nor filters text views.
        schema = respelled(batch.schema, large_type)
        columns = [respell(column, each.type) for column, each in zip(batch.columns, schema, strict=True)]
        batch = pa.RecordBatch.from_arrays(columns, schema=schema)
        for name, value in self.where.items():
            batch = batch.filter(
                pc.call_function("equal", [batch.column(name), pa.scalar(value, schema.field(name).type)])
            )
        return batch


def export_file(
    rows: Rows,
    target: Path,
    file_format: Format,
    *,
    columns: Sequence[str] | None = None,
    overwrite: bool = False,
    verbatim: bool = False,
    progress: Progress = lambda num_rows: None,
    window_bytes: int = WINDOW_BYTES,
) -> Path:
    """Writes `target`, whole or not at all.

    People open CSV with spreadsheets: a text that one of them would evaluate gets an apostrophe in front, unless
    `verbatim` is set.

    Raises:
        InvalidInput: `target` exists and `overwrite` is not set, or it is no file; a column's type has no form in this
            format.
        StoreUnavailable: `target` cannot be written.
        HandoffCorrupt: the version is damaged; the export is removed.
    """
    check_types(rows, file_format, columns)
    with renamed_when_whole(target, overwrite=overwrite) as partial, partial.open("xb") as file:
        write_rows(
            rows,
            file,
            file_format,
            columns=columns,
            verbatim=verbatim,
            progress=progress,
            window_bytes=window_bytes,
        )
    return target


def write_rows(
    rows: Rows,
    file: IO[bytes],
    file_format: Format,
    *,
    columns: Sequence[str] | None = None,
    verbatim: bool = False,
    progress: Progress = lambda num_rows: None,
    window_bytes: int = WINDOW_BYTES,
) -> None:
    """Writes into an open file, or a pipe."""
    check_types(rows, file_format, columns)
    names = list(columns) if columns is not None else rows.schema.names
    # Spells text for older readers.
    schema = respelled(pa.schema([rows.schema.field(name) for name in names]), large_type)
    windows = _windows(rows, names, schema, window_bytes)
    if file_format == "parquet":
        import pyarrow.parquet as pq

        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for window in windows:
                writer.write_batch(window)
                progress(window.num_rows)
    elif file_format == "arrow":
        with pa.ipc.new_file(file, schema) as writer:
            for window in windows:
                writer.write_batch(window)
                progress(window.num_rows)
    else:
        _write_text(file, file_format, schema, windows, progress, verbatim=verbatim)


def check_types(rows: Rows, file_format: str, columns: Sequence[str] | None = None) -> None:
    """Raises: InvalidInput: the format does not exist, or cannot hold a column's type."""
    if file_format not in FORMATS:
        raise InvalidInput(f"Export format must be one of {', '.join(FORMATS)}, got {file_format!r}.")
    if file_format not in {"csv", "jsonl"}:
        return
    has_no_form = _has_no_cell if file_format == "csv" else _has_no_json
    for name in columns if columns is not None else rows.schema.names:
        kind = rows.schema.field(name).type
        if has_no_form(kind):
            others = "parquet or jsonl" if file_format == "csv" else "parquet or arrow"
            raise InvalidInput(
                f"Column {name} of {rows.label} has type {kind}, which {file_format} has no form for. Export "
                f"{others}, or leave the column out (--columns)."
            )


def _windows(rows: Rows, names: Sequence[str], schema: pa.Schema, window_bytes: int) -> Iterator[pa.RecordBatch]:
    num_rows = max(1, window_bytes * max(rows.num_rows, 1) // max(rows.num_bytes, 1))
    for batch in rows.batches(names):
        for start in range(0, batch.num_rows, num_rows):
            window = batch.slice(start, num_rows)
            arrays = [respell(column, field.type) for column, field in zip(window.columns, schema, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _write_text(
    file: IO[bytes],
    file_format: str,
    schema: pa.Schema,
    windows: Iterator[pa.RecordBatch],
    progress: Progress,
    *,
    verbatim: bool,
) -> None:
    import polars as pl

    from headrace.handoff.polars_frame import polars_frame
    from headrace.text.spreadsheets import without_formulas

    raw = [field.name for field in schema if _is_bytes(field.type)]
    texts = [field.name for field in schema if _is_text(field.type)]

    def text_of(table: pa.Table) -> pl.DataFrame:
        frame = polars_frame(table).with_columns(pl.col(raw).bin.encode("base64"))
        return frame if verbatim or file_format != "csv" else without_formulas(frame, texts)

    if file_format == "csv":
        text_of(schema.empty_table()).write_csv(file)  # the header, even without rows
    for window in windows:
        frame = text_of(pa.Table.from_batches([window]))
        # Not directly into the file: a pipe that closes early would give an error without its errno.
        text = io.BytesIO()
        if file_format == "csv":
            frame.write_csv(text, include_header=False)
        else:
            frame.write_ndjson(text)
        file.write(text.getbuffer())
        progress(window.num_rows)


def _is_bytes(kind: pa.DataType) -> bool:
    return any(
        check(kind)
        for check in (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            pa.types.is_fixed_size_binary,
        )
    )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _has_no_cell(kind: pa.DataType) -> bool:
    """Bytes become base64; a table in a cell becomes nothing."""
    if pa.types.is_dictionary(kind):
        return _has_no_cell(kind.value_type)
    return pa.types.is_nested(kind) or pa.types.is_interval(kind)


def _has_no_json(kind: pa.DataType) -> bool:
    """Bytes become base64 in a column of their own, not inside of another value."""
    if pa.types.is_dictionary(kind):
        return _has_no_json(kind.value_type)
    if pa.types.is_nested(kind):
        return any(_is_bytes(each) or _has_no_json(each) for each in _inner(kind))
    return pa.types.is_interval(kind)


def _inner(kind: pa.DataType) -> list[pa.DataType]:
    return [kind.field(index).type for index in range(kind.num_fields)]
