"""The index of a media version: one row describes one picture, sound or film.

The index is an ordinary handoff. Its rows describe the items but not the places of their bytes, so the same items have
one content digest however they were chunked or sharded. `headrace.handoff.media.layout` has the places.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import xxhash

from headrace.errors import InvalidInput
from headrace.handoff.schemas import MEDIA_INDEX
from headrace.store.objects import canonical_json

Chunk = bytes | bytearray | memoryview

_MEDIA_TYPE = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+-]*")


@dataclass(frozen=True, kw_only=True)
class MediaItem:
    """One item to publish. `content`: its bytes, or an iterable of chunks that is read once, in order.

    `num_bytes` is only needed for large streams: shards are then filled better. `attributes` must fit into JSON.
    """

    item_id: str
    media_type: str
    content: Chunk | Iterable[Chunk]
    num_bytes: int | None = None
    width: int | None = None
    height: int | None = None
    duration_seconds: float | None = None
    caption: str | None = None
    row_id: str | None = None
    version_set: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.item_id:
            raise InvalidInput("item_id must not be empty. Give every media item an id of its own.")
        if not _MEDIA_TYPE.fullmatch(self.media_type):
            raise InvalidInput(
                f"media_type of item {self.item_id!r} must be a MIME type such as image/png, got {self.media_type!r}."
            )

    def chunks(self) -> Iterator[memoryview]:
        """The content in chunks, as views of bytes."""
        content = self.content
        for chunk in (content,) if isinstance(content, (bytes, bytearray, memoryview)) else content:
            if not isinstance(chunk, (bytes, bytearray, memoryview)):
                raise InvalidInput(f"Item {self.item_id!r} must give chunks of bytes, got {type(chunk).__name__}.")
            if chunk:
                yield memoryview(chunk).cast("B")

    def row(self, id_xxh3_64: int, num_bytes: int, xxh3_128: bytes) -> tuple[Any, ...]:
        """The item in the order of MEDIA_INDEX.

        Raises:
            InvalidInput: JSON cannot hold an attribute.
        """
        try:
            attributes = canonical_json(dict(self.attributes)).decode() if self.attributes else "{}"
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"Attributes of item {self.item_id!r} must be JSON, got {error}.") from error
        return (
            self.item_id,
            id_xxh3_64,
            self.media_type,
            num_bytes,
            xxh3_128,
            self.width,
            self.height,
            self.duration_seconds,
            self.caption,
            self.row_id,
            self.version_set,
            attributes,
        )


def id_hash(item_id: str) -> int:
    """Raises: InvalidInput: the id has lone surrogates, which neither files nor Arrow columns can hold."""
    try:
        return xxhash.xxh3_64_intdigest(item_id.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(f"item_id must be Unicode text, got {item_id!r} ({error.reason}).") from error


def index_batch(rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    try:
        arrays = [pa.array(column, one.type) for column, one in zip(columns, MEDIA_INDEX, strict=True)]
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise InvalidInput(f"Item {rows[0][0]!r} or one of the {len(rows) - 1} after it: {error}.") from error
    return pa.RecordBatch.from_arrays(arrays, schema=MEDIA_INDEX)
