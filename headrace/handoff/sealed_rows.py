"""The interface of a sealed version (`headrace.handoff.sealed.Handoff`) that library adapters use."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from headrace.handoff.manifest import Manifest, Part


class SealedRows(Protocol):
    @property
    def manifest(self) -> Manifest: ...

    @property
    def label(self) -> str: ...

    @property
    def content_digest(self) -> str: ...

    @property
    def num_rows(self) -> int: ...

    @property
    def schema(self) -> pa.Schema: ...

    def hold(self) -> None: ...

    def table(
        self, columns: Sequence[str] | None = None, *, rows: range | None = None, plain: bool = False
    ) -> pa.Table: ...

    def batches(
        self, columns: Sequence[str] | None = None, *, rows: range | None = None
    ) -> Iterator[pa.RecordBatch]: ...

    def part_path(self, part: Part, columns: Sequence[int] | None) -> Path:
        """The part as a local file, with at least these columns in it; None: all."""
        ...
