"""What library adapters use of a sealed version (`headrace.handoff.sealed.Handoff`): its manifest, and its rows."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import pyarrow as pa

from headrace.handoff.manifest import Manifest, Part

_Told = TypeVar("_Told")


class _OfManifest(Generic[_Told]):
    """A property that the manifest has too."""

    def __init__(self, told: Callable[[Manifest], _Told]) -> None:
        self._told = told

    def __get__(self, rows: "SealedRows", kind: type["SealedRows"]) -> _Told:
        return self._told(rows.manifest)


@dataclass(frozen=True)
class SealedRows(ABC):
    manifest: Manifest

    asset = _OfManifest(lambda manifest: manifest.asset)
    partition = _OfManifest(lambda manifest: manifest.partition)
    version = _OfManifest(lambda manifest: manifest.version)
    label = _OfManifest(lambda manifest: manifest.label)
    content_digest = _OfManifest(lambda manifest: manifest.content_digest)
    num_rows = _OfManifest(lambda manifest: manifest.num_rows)
    num_bytes = _OfManifest(lambda manifest: manifest.num_bytes)
    attributes = _OfManifest(lambda manifest: manifest.attributes)

    @property
    @abstractmethod
    def schema(self) -> pa.Schema: ...

    @abstractmethod
    def hold(self) -> None: ...

    @abstractmethod
    def table(
        self, columns: Sequence[str] | None = None, *, rows: range | None = None, plain: bool = False
    ) -> pa.Table: ...

    @abstractmethod
    def batches(
        self, columns: Sequence[str] | None = None, *, rows: range | None = None
    ) -> Iterator[pa.RecordBatch]: ...

    @abstractmethod
    def part_path(self, part: Part, columns: Sequence[int] | None) -> Path:
        """The part as a local file, with at least these columns in it; None: all."""
        ...
