"""A sealed version's metadata for Dagster's UI: its content, origin, cost and growth.

Each number is its own metadata entry, so that the asset page plots it over time.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import dagster as dg
import pyarrow as pa

from headrace.handoff.layout import partition_prefix
from headrace.handoff.preview import preview_markdown
from headrace.handoff.schemas import empty_table
from headrace.handoff.spelling import plain_type
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.text import markdown

_PREVIEW_ROWS = 5
_DIGEST_CHARS = 12


class PreviewedRows(Iterable[pa.RecordBatch]):
    """Rows on their way into a handoff; keeps the first ones, so that a preview reads nothing back."""

    def __init__(self, rows: Any, schema: pa.Schema) -> None:
        """`rows`: a table, or record batches."""
        self._batches: Iterable[pa.RecordBatch] = rows.to_batches() if isinstance(rows, pa.Table) else rows
        self.markdown = preview_markdown(empty_table(schema))
        self._is_noted = False

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._batches:
            if batch.num_rows and not self._is_noted:
                self.markdown = preview_markdown(pa.Table.from_batches([batch.slice(0, _PREVIEW_ROWS)]))
                self._is_noted = True
            yield batch


def preview_of(handoff: Handoff) -> str:
    """A preview of rows from another writer. Unverified: a preview alone must not read every byte."""
    return preview_markdown(handoff.with_verification("off").head(_PREVIEW_ROWS))


def handoff_metadata(
    handoff: Handoff, handoffs: HandoffStore, input_versions: Mapping[str, str], *, preview: str | None
) -> dict[str, Any]:
    """Metadata of one materialization. `kept_*`: all versions of the partition, and parts that are being written.

    The UI's table is as wide as its longest word, and cuts what does not fit on its right: digests are shortened. The
    whole content digest is the data version.

    Args:
        preview: Markdown; None: the asset states what people see first of it.
    """
    kept = handoff.objects.entries(partition_prefix(handoff.asset, handoff.partition))
    columns = [
        dg.TableColumn(
            field.name,
            str(plain_type(field.type)),
            constraints=dg.TableColumnConstraints(nullable=field.nullable),
        )
        for field in handoff.schema
    ]
    # In the UI's order: what people look at, then numbers, then ids.
    metadata: dict[str, Any] = {} if preview is None else {"preview": dg.MetadataValue.md(preview)}
    metadata |= {
        "num_rows": handoff.num_rows,
        "handoff_bytes": handoff.num_bytes,
        "version": handoff.version,
        "reused": handoff.reused,
        "kept_versions": len(handoffs.versions(handoff.asset, handoff.partition)),
        "kept_bytes": sum(entry.num_bytes for entry in kept),
        "content_digest": handoff.content_digest[:_DIGEST_CHARS],
        "input_versions": dg.MetadataValue.json({name: _short(stated) for name, stated in input_versions.items()}),
        "uri": handoff.uri,
        # With these keys Dagster's asset page shows columns and row count.
        "dagster/column_schema": dg.TableSchema(columns=columns),
        "dagster/row_count": handoff.num_rows,
    }
    if input_versions:
        metadata["lineage"] = dg.MetadataValue.md(lineage_markdown(input_versions))
    seconds = handoff.manifest.write_seconds
    # An earlier run wrote a reused version, and that run's record has its speed.
    if seconds and not handoff.reused:
        metadata["write_mb_per_s"] = round(handoff.num_bytes / 1e6 / seconds, 3)
    return metadata


def _short(stated: str) -> str:
    """`v7 <digest>` with the beginning of the digest."""
    version, _, digest = stated.partition(" ")
    return f"{version} {digest[:_DIGEST_CHARS]}"


def lineage_markdown(input_versions: Mapping[str, str]) -> str:
    """A table of a version's inputs; as many lines as the UI shows in place, then a count."""
    rows = []
    for name, stated in input_versions.items():
        version, _, digest = _short(stated).partition(" ")
        rows.append([name, version, digest])
    return markdown.fitting_table(["made from", "version", "content digest"], rows)
