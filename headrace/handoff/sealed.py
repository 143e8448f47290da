"""One sealed version for its readers: pages of the files, in each library's form.

Data stay uncopied where possible: Arrow, polars, DuckDB and torch read the same pages, which the operating system
shares among all processes of a node. Other columns and row ranges than the requested ones are never touched, and never
fetched over a network.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import pyarrow as pa

from headrace.errors import HandoffCollected, InvalidInput, ObjectMissing, PartMissing
from headrace.handoff.layout import manifest_key
from headrace.handoff.manifest import Manifest, Part
from headrace.handoff.parts import Pages, SealedSchema, batch_of, check_segments, mismatch, open_pages
from headrace.handoff.schemas import schema_differences
from headrace.handoff.spelling import large_type, respell, respelled
from headrace.store.leases import Lease, Leases
from headrace.store.objects import ObjectStore
from headrace.store.verified import verified_once

if TYPE_CHECKING:
    import datasets
    import duckdb
    import polars as pl
    import torch

# once: when this machine first opens the version; marks remember it.
# lazy: a column when it is returned (reading a mapped page triggers no code, so no later moment exists).
# eager: every byte, at each access. off: only sizes.
Verification = Literal["once", "off", "lazy", "eager"]

# Opening a part means waiting for the network; more threads only compete for it.
_OPENING_THREADS = 8
# Two keep the disk busy while digests are computed; more make it seek.
_DIGESTING_THREADS = 2

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Handoff:
    """Creating one reads only the manifest. The first access to data takes a lease, which lives as long as this object
    or any buffer from it.

    `reused`: the publish found its content already sealed and wrote nothing.

    Raises, wherever data is accessed:
        HandoffCorrupt: PartMissing, PartTorn, PartForeign or PartFlipped, naming the part.
        HandoffCollected: garbage collection deleted the version before the lease existed.
    """

    objects: ObjectStore = field(repr=False, compare=False)
    manifest: Manifest
    reused: bool = False
    verification: Verification = "once"
    leases: Leases | None = field(default=None, repr=False, compare=False)
    _state: "_State" = field(default_factory=lambda: _State(), repr=False, compare=False)

    @property
    def asset(self) -> str:
        return self.manifest.asset

    @property
    def partition(self) -> str:
        return self.manifest.partition

    @property
    def uri(self) -> str:
        return self.objects.uri(manifest_key(self.asset, self.partition, self.version))

    @property
    def version(self) -> int:
        return self.manifest.version

    @property
    def label(self) -> str:
        return self.manifest.label

    @property
    def schema(self) -> pa.Schema:
        """The files' schema, from the manifest: text is `string_view`."""
        return self._sealed_schema.schema

    @property
    def content_digest(self) -> str:
        """Over schema and values, however chunked or spelled; Dagster's data version."""
        return self.manifest.content_digest

    @property
    def num_rows(self) -> int:
        return self.manifest.num_rows

    @property
    def num_bytes(self) -> int:
        """Of all parts."""
        return self.manifest.num_bytes

    @property
    def attributes(self) -> dict[str, str]:
        return self.manifest.attributes

    @property
    def paths(self) -> list[Path]:
        """The Arrow IPC files, in row order, as local files. Read only; a remote store fetches them whole."""
        self.hold()
        return [self.part_path(part, None) for part in self.manifest.parts]

    def with_verification(self, verification: Verification) -> "Handoff":
        """Raises: InvalidInput: the mode does not exist."""
        return replace(self, verification=checked_verification(verification), _state=_State())

    def hold(self) -> None:
        """Takes the reader's lease now instead of at the first access."""
        if self.leases is None:
            return
        with self._state.lock:
            if self._state.lease is None:
                key = manifest_key(self.asset, self.partition, self.version)
                self._state.lease = self.leases.hold(self.manifest.nonce, manifest_key=key)
        self._state.lease.check()

    def expect(self, schema: pa.Schema) -> None:
        """Raises: InvalidInput: the columns differ; one line for each difference."""
        if differences := list(schema_differences(self.schema, schema)):
            lines = "\n".join(f"  {difference}" for difference in differences)
            raise InvalidInput(
                f"Handoff {self.label} does not have the columns that its reader wants:\n{lines}\n"
                f"Materialize {self.asset}[{self.partition}] with the present code, or ask for what it has."
            )

    def table(
        self, columns: Sequence[str] | None = None, *, rows: range | None = None, plain: bool = False
    ) -> pa.Table:
        """One chunk for each part; its buffers are pages of the sealed files.

        Args:
            plain: text as large strings, which pyarrow's kernels support (they support few views). Copies text.

        Raises:
            InvalidInput: an unknown column, or rows beyond the end.
        """
        wanted = self._columns(columns)
        slices = self._slices(rows)
        batches = _in_parallel(lambda part: self._batch(part, wanted), slices, self._num_threads)
        table = pa.Table.from_batches(batches, schema=wanted.schema)
        if not plain:
            return table
        spelled = respelled(wanted.schema, large_type)
        return pa.Table.from_arrays(
            [respell(column, each.type) for column, each in zip(table.columns, spelled, strict=True)], schema=spelled
        )

    def batches(self, columns: Sequence[str] | None = None, *, rows: range | None = None) -> Iterator[pa.RecordBatch]:
        """One batch for each part, mapped in turn: for more rows than memory holds."""
        wanted = self._columns(columns)
        return (self._batch(part, wanted) for part in self._slices(rows))

    def reader(self, columns: Sequence[str] | None = None, *, rows: range | None = None) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self._columns(columns).schema, self.batches(columns, rows=rows))

    def head(self, num_rows: int) -> pa.Table:
        """The first rows."""
        return self.table(rows=range(min(num_rows, self.num_rows)))

    def polars(self, columns: Sequence[str] | None = None, *, rows: range | None = None) -> "pl.DataFrame":
        """Shares the files' pages except for dictionaries, list offsets and columns with small decimals."""
        from headrace.handoff.polars_frame import polars_frame

        return polars_frame(self.table(columns, rows=rows))

    def lazy(self, columns: Sequence[str] | None = None) -> "pl.LazyFrame":
        """Opens nothing yet; the query's columns, predicate and number of rows are pushed down."""
        from headrace.handoff.lazy import lazy_frame

        return lazy_frame([self], columns)

    def torch(self, column: str, *, rows: range | None = None, copy: bool = False) -> "torch.Tensor":
        """See `headrace.handoff.tensors.tensor`: read-only unless copied."""
        from headrace.handoff.tensors import tensor

        return tensor(self, column, rows=rows, copy=copy)

    def duckdb(self, connection: "duckdb.DuckDBPyConnection | None" = None) -> "duckdb.DuckDBPyRelation":
        """See `headrace.handoff.relations.relation`."""
        from headrace.handoff.relations import relation

        return relation(self, connection)

    def dataset(self, columns: Sequence[str] | None = None) -> "datasets.Dataset":
        """See `headrace.handoff.hf_datasets.dataset`: Hugging Face."""
        from headrace.handoff.hf_datasets import dataset

        return dataset(self, columns)

    def verify(self, progress: Callable[[int], None] = lambda num_bytes: None) -> None:
        """Reads every byte of every part, verified before or not; calls `progress` with each part's bytes."""

        def check(part: Part) -> None:
            self._check(open_pages(self.part_path(part, None), part, self.label), part, None)
            progress(part.num_bytes)

        _in_parallel(check, self.manifest.parts, _DIGESTING_THREADS)

    def _batch(self, rows: "_Slice", wanted: "_Columns") -> pa.RecordBatch:
        self.hold()
        part, columns = rows.part, wanted.indices
        # `eager` checks columns that were not requested too, so it needs them.
        path = self.part_path(part, None if self.verification == "eager" else columns)
        if self.verification == "once" and not self.objects.checks_what_it_fetches:
            self._verify_once()
        pages = self._pages(path, part)
        if self.verification == "eager":
            self._check(pages, part, None)
        elif self.verification == "lazy":
            self._check(pages, part, columns)
        batch = batch_of(pages, part, self.label, columns, self._sealed_schema)
        return batch if rows.is_whole else batch.slice(rows.start, rows.stop - rows.start)

    def _pages(self, path: Path, part: Part) -> Pages:
        try:
            return open_pages(path, part, self.label, self._state.lease)
        except PartMissing:
            if self.objects.exists(manifest_key(self.asset, self.partition, self.version)):
                raise
            raise HandoffCollected(
                f"Handoff {self.label} was garbage-collected before it was read. Open the newest version of "
                f"{self.asset}[{self.partition}], or keep more of them (`headrace gc --keep`).",
                handoff=self.label,
            ) from None

    def part_path(self, part: Part, columns: Sequence[int] | None) -> Path:
        """The part as a local file, with at least these columns in it; None: all."""
        if not self.objects.checks_what_it_fetches:
            return self.objects.local_path(part.key)
        segments = part.segments if columns is None else part.segments_of(columns)
        try:
            return self.objects.local_segments(
                part.key, digest=part.xxh3_128, num_bytes=part.num_bytes, segments=segments
            )
        except ObjectMissing as error:
            raise mismatch(PartMissing, self.label, part, "is missing") from error

    def _verify_once(self) -> None:
        if not self._state.is_verified:
            paths = [self.part_path(part, None) for part in self.manifest.parts]
            verified_once(self.objects, f"handoff-{self.manifest.nonce}", paths, self.verify)
            self._state.is_verified = True

    def _check(self, pages: Pages, part: Part, columns: Sequence[int] | None) -> None:
        wanted = None if columns is None else {-1, *columns}
        pairs = zip(part.segments, part.columns, strict=True)
        chosen = [(segment, column) for segment, column in pairs if wanted is None or column in wanted]
        check_segments(pages, part, self.label, self.schema.names, chosen)

    @property
    def _sealed_schema(self) -> SealedSchema:
        if self._state.schema is None:
            self._state.schema = SealedSchema(self.manifest.serialized_schema)
        return self._state.schema

    @property
    def _num_threads(self) -> int:
        if self.objects.checks_what_it_fetches:
            return _OPENING_THREADS
        return _DIGESTING_THREADS if self.verification in {"eager", "lazy"} else 1

    def _columns(self, columns: Sequence[str] | None) -> "_Columns":
        if columns is None:
            return _Columns(schema=self.schema, indices=None)
        names = self.schema.names
        if missing := [name for name in columns if name not in names]:
            there = ", ".join(f"{each.name}: {each.type}" for each in self.schema)
            raise InvalidInput(f"Handoff {self.label} has no column {', '.join(map(repr, missing))}. It has {there}.")
        indices = [names.index(name) for name in columns]
        return _Columns(schema=pa.schema([self.schema.field(index) for index in indices]), indices=indices)

    def _slices(self, rows: range | None) -> "list[_Slice]":
        """The parts that hold any of `rows`."""
        rows = range(self.num_rows) if rows is None else rows
        if rows.step != 1 or rows.start < 0 or rows.stop > self.num_rows:
            raise InvalidInput(
                f"Handoff {self.label} has rows 0 to {self.num_rows}; wanted a range within, with step 1, got {rows}."
            )
        slices, first = [], 0
        for part in self.manifest.parts:
            start, stop = max(rows.start - first, 0), min(rows.stop - first, part.num_rows)
            if start < stop:
                slices.append(_Slice(part, start, stop))
            first += part.num_rows
        return slices


@dataclass(frozen=True)
class _Slice:
    """Rows of one part: the first, and the one after the last."""

    part: Part
    start: int
    stop: int

    @property
    def is_whole(self) -> bool:
        return self.start == 0 and self.stop == self.part.num_rows


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """The requested columns, in order. `indices` in the file; None: all."""

    schema: pa.Schema
    indices: list[int] | None


def _in_parallel(action: Callable[[_Item], _Made], items: Sequence[_Item], num_threads: int) -> list[_Made]:
    if num_threads < 2 or len(items) < 2:
        return [action(item) for item in items]
    with ThreadPoolExecutor(num_threads) as threads:
        return list(threads.map(action, items))


class _State:
    """What a Handoff learns in use."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lease: Lease | Any = None
        self.is_verified = False
        self.schema: SealedSchema | None = None


def checked_verification(verification: str) -> Verification:
    if verification not in get_args(Verification):
        raise InvalidInput(f"Verification must be one of {', '.join(get_args(Verification))}, got {verification!r}.")
    return verification  # pyright: ignore[reportReturnType]
