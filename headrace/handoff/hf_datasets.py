"""Sealed versions as Hugging Face datasets whose data stay in the files' pages.

By itself `datasets.Dataset(table)` would read or copy everything in three ways: it computes a fingerprint over all
bytes (here the content digest replaces it), sends all bytes to each worker of `map(num_proc=…)` (here a worker maps the
files itself), and decodes dictionaries (here they stay the only copy).
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
    """The rows of one version, or of several in turn; results of `map` are cached under their digests.

    Args:
        plain: text as large strings, which copies the text alone. `to_pandas`, `to_parquet`, and the formats "torch"
            and "numpy" need it for text in lists, `to_parquet` for any text: pyarrow supports these for older types
            only.

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
        """Is pickled as the parts' paths and its rows; another process of this machine then maps them itself.

        Not a `MemoryMappedTable`: datasets would write its caches beside the file, here into the store.
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
    """An in-memory table, as far as datasets knows: a worker sends nothing further."""
    from datasets.table import InMemoryTable

    batches = [batch_of(open_pages(path, part, label), part, label).select(names) for path, part, label in parts]
    table = pa.Table.from_batches(batches).slice(rows.start, len(rows))
    if plain:
        wanted = respelled(table.schema, large_type)
        columns = [respell(column, field.type) for column, field in zip(table.columns, wanted, strict=True)]
        table = pa.Table.from_arrays(columns, schema=wanted)
    return InMemoryTable(table.replace_schema_metadata(metadata))
