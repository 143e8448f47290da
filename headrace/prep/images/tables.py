"""The rows of a table with pictures, or with their paths: JSON Lines, CSV, Parquet.

A few hundred bytes of Parquet can stand for gigabytes: one picture that every row names. So pictures are read as their
stored dictionaries, a few rows at a time, and one that is too large is never taken out.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.prep.images.decoding import IMAGE_BYTES_MAX
from headrace.prep.images.tars import CAPTION_BYTES_MAX
from headrace.user_files.layout import FileLayout, Unreadable, header_fault, missing_columns
from headrace.user_files.records import read_records

# The pictures of one batch, by their mean.
_BATCH_BYTES = 32 * 2**20
_BATCH_ROWS_MAX = 1024

Row = tuple[int, bytes | str, str | None]  # line, picture or its path, caption


def rows_of_table(path: Path, columns: Mapping[str, str], *, is_parquet: bool) -> Iterator[Row | Unreadable]:
    """Args: columns: `image` and `caption` → the table's columns."""
    image, caption = columns["image"], columns["caption"]
    if is_parquet:
        try:
            yield from _parquet_rows(path, image, caption)
        except (OSError, pa.ArrowException, ValueError) as error:
            yield Unreadable(line=0, reason=f"unreadable: {error}", loses_file=True)
        return
    for record in read_records(path, FileLayout(columns=(image, caption))):
        if isinstance(record, Unreadable):
            yield record
        elif image not in record.fields:
            yield Unreadable(line=record.line, reason=f"missing column {image!r}", excerpt=repr(record.fields))
        else:
            yield _checked(record.line, record.fields.get(image), record.fields.get(caption), columns)


def _parquet_rows(path: Path, image: str, caption: str) -> Iterator[Row | Unreadable]:
    with pq.ParquetFile(path) as file:
        leaves = [file.schema.column(index).path for index in range(len(file.schema))]
    # Only of what is there: it raises for another name.
    stored = [name for name in (image, f"{image}.bytes") if name in leaves]
    with pq.ParquetFile(path, read_dictionary=stored) as file:
        if fault := header_fault((image, caption), file.schema_arrow.names):
            yield fault
            return
        kind = file.schema_arrow.field(image).type
        if not _holds_pictures(kind):
            reason = f"column {image!r} must be bytes or a path, got {kind}"
            yield Unreadable(line=0, reason=reason, loses_file=True)
            return
        if pa.types.is_struct(kind) and "bytes" not in [field.name for field in kind]:
            yield missing_columns([f"{image}.bytes"], [field.name for field in kind])
            return
        line = 0
        for batch in _batches(file, image, caption):
            captions = batch.column(caption)
            for place in range(batch.num_rows):
                line += 1
                found = _picture(batch.column(image), place)
                if isinstance(found, int):
                    reason = f"its picture has {found:,} bytes, the most that is read is {IMAGE_BYTES_MAX:,}"
                    yield Unreadable(line=line, reason=reason)
                else:
                    yield _checked(line, found, captions[place].as_py(), {"image": image, "caption": caption})


def _holds_pictures(kind: pa.DataType) -> bool:
    """Columns of nulls, too: each row then says so."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_struct, pa.types.is_null, pa.types.is_string, pa.types.is_large_string, _is_bytes)
    return any(test(kind) for test in tests)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _batches(file: pq.ParquetFile, image: str, caption: str) -> Iterator[pa.RecordBatch]:
    # Each row group has a dictionary of its own, and Arrow reads no struct across two of them.
    for group in range(file.num_row_groups):
        rows = _batch_rows(file.metadata.row_group(group), image)
        yield from file.iter_batches(rows, row_groups=[group], columns=[image, caption])


def _batch_rows(group: pq.RowGroupMetaData, image: str) -> int:
    chunks = [group.column(index) for index in range(group.num_columns)]
    num_bytes = sum(one.total_uncompressed_size for one in chunks if one.path_in_schema.partition(".")[0] == image)
    mean = num_bytes / max(1, group.num_rows)
    return max(1, min(_BATCH_ROWS_MAX, int(_BATCH_BYTES / max(1.0, mean))))


def _picture(column: pa.Array, place: int) -> Any:
    """The bytes or path of one row; a number: how many bytes it has that are too many."""
    if isinstance(column, pa.StructArray):
        if not column[place].is_valid:
            return None
        body = _picture(column.field("bytes"), place)
        names = [field.name for field in column.type]
        return column.field("path")[place].as_py() if body is None and "path" in names else body
    value: Any = column[place]
    if isinstance(value, pa.DictionaryScalar):
        value = value.value
    # A scalar of strings is one of bytes by its class.
    if value.is_valid and _is_bytes(value.type):
        buffer = value.as_buffer()
        return buffer.size if buffer.size > IMAGE_BYTES_MAX else buffer.to_pybytes()
    return value.as_py()


def _checked(line: int, image: object, caption: object, columns: Mapping[str, str]) -> Row | Unreadable:
    if not isinstance(image, bytes | str):
        got = "null" if image is None else type(image).__name__
        return Unreadable(line=line, reason=f"column {columns['image']!r} must be bytes or a path, got {got}")
    if isinstance(image, str) and not _is_path(image):
        return Unreadable(line=line, reason=f"column {columns['image']!r} must be bytes or a path, got {image!r}")
    if caption is not None and not isinstance(caption, str):
        kind = type(caption).__name__
        return Unreadable(line=line, reason=f"column {columns['caption']!r} must be a string, got {kind}")
    if caption and len(caption.encode("utf-8", "surrogatepass")) > CAPTION_BYTES_MAX:
        return Unreadable(
            line=line, reason=f"its caption has more than {CAPTION_BYTES_MAX:,} bytes, the most that is read"
        )
    return line, image, caption


def _is_path(text: str) -> bool:
    """Whether a file can have it: half of a surrogate pair, which JSON can state, is no character."""
    try:
        return bool(text) and b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False
