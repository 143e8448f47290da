"""Sealed versions as Hugging Face datasets that lie in the files' pages.

Three things that `datasets.Dataset(table)` does on its own would read, or copy, everything: it takes a fingerprint of
all bytes (here the content digest names them), it sends all bytes to each worker of `map(num_proc=…)` (here a worker
maps the files itself), and it decodes dictionaries (here they are its only copy).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from headrace.handoff.lazy import common_schema
from headrace.handoff.manifest import Part
from headrace.handoff.parts import batch_of, open_pages
from headrace.handoff.sealed_rows import SealedRows
from headrace.handoff.spelling import large_type, respell, respelled

if TYPE_CHECKING:
    import datasets


def dataset(
    handoff: SealedRows | Sequence[SealedRows], columns: Sequence[str] | None = None, *, plain: bool = False
) -> "datasets.Dataset":
    """The rows of one version, or of several one after the other; what `map` makes is cached under their digests.

    Args:
        plain: text as large strings, a copy of the text alone. `to_pandas`, `to_parquet`, and the formats "torch" and
            "numpy" need it for text in lists, and `to_parquet` for any text: pyarrow knows these for older types only.

    Raises:
        InvalidInput: no such column, or versions whose columns differ.
    """
    import datasets

    handoffs = list(handoff) if isinstance(handoff, Sequence) else [handoff]
    names = common_schema(handoffs, columns).names
    digests = ",".join(each.content_digest for each in handoffs)
    fingerprint = hashlib.sha256(f"{digests}:{names}:{plain}".encode()).hexdigest()[:16]
    table = _sealed_table(
        pa.concat_tables([each.table(names, plain=plain) for each in handoffs], promote_options="default"),
        handoffs,
        plain,
    )
    info = datasets.DatasetInfo(features=datasets.Features.from_arrow_schema(table.schema))
    return datasets.Dataset(table, info=info, fingerprint=fingerprint)


def _sealed_table(whole: pa.Table, handoffs: Sequence[SealedRows], plain: bool) -> Any:
    from datasets.table import InMemoryTable

    class SealedTable(InMemoryTable):
        """Goes to another process of this machine as the parts' paths and its rows, which that maps by itself.

        Not a `MemoryMappedTable`: next to its file, here in the store, datasets would write its caches.
        """

        def __init__(self, table: pa.Table, rows: range) -> None:
            super().__init__(table)
            self.rows = rows  # of `whole`

        def __reduce__(self) -> tuple[Any, ...]:
            names = self.table.schema.names
            parts = [
                (each.part_path(part, [each.schema.names.index(name) for name in names]), part, each.label)
                for each in handoffs
                for part in each.manifest.parts
            ]
            return _received_table, (parts, names, plain, self.rows, self.table.schema.metadata)

        def slice(self, offset: int = 0, length: int | None = None) -> "SealedTable":
            rows = self.rows[offset:] if length is None else self.rows[offset : offset + length]
            return SealedTable(self.fast_slice(offset, length), rows)

        def replace_schema_metadata(self, metadata: Any = None) -> "SealedTable":
            return SealedTable(self.table.replace_schema_metadata(metadata), self.rows)

    return SealedTable(whole.replace_schema_metadata(None), range(whole.num_rows))


def _received_table(
    parts: Sequence[tuple[Path, Part, str]], names: list[str], plain: bool, rows: range, metadata: Any
) -> Any:
    """In memory as far as datasets is concerned: a worker sends nothing on."""
    from datasets.table import InMemoryTable

    batches = [batch_of(open_pages(path, part, label), part, label).select(names) for path, part, label in parts]
    table = pa.Table.from_batches(batches).slice(rows.start, len(rows))
    if plain:
        wanted = respelled(table.schema, large_type)
        columns = [respell(column, field.type) for column, field in zip(table.columns, wanted, strict=True)]
        table = pa.Table.from_arrays(columns, schema=wanted)
    return InMemoryTable(table.replace_schema_metadata(metadata))
