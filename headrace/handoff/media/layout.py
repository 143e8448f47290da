"""The places of a media version's items: in shards beside the index's parts, in the index's order.

An item begins at a multiple of 64 bytes of its shard, right after the item before it. So the sizes in the index and the
number of items in each shard determine every place; `shards.json` holds these numbers. Shards lie under the prefix of
the version's own nonce: leasing, keeping or deleting that prefix includes them, at one unlink a shard.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Annotated

import numpy as np
from annotated_types import Ge

from headrace.errors import FormatTooNew, HandoffCorrupt, InvalidInput, ObjectMissing, PartMissing
from headrace.handoff.manifest import Manifest
from headrace.handoff.schemas import MEDIA_INDEX, fingerprint
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Kind, create_object, read_object

# A cache line: SIMD decoders can read an item in place.
ALIGNMENT = 64
SHARD_BYTES = 256 * 1024 * 1024
FORMAT_VERSION = 1
_REMEDY = "Materialize the partition again; what read it before has to be made again too."


def aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def is_media(manifest: Manifest) -> bool:
    return manifest.schema_fingerprint == fingerprint(MEDIA_INDEX)


def media_prefix(manifest: Manifest) -> str:
    """Raises: InvalidInput: the handoff is not a media index."""
    if not is_media(manifest):
        raise InvalidInput(
            f"Handoff {manifest.label} is no media index: its schema is {manifest.schema_fingerprint}, media have "
            f"{fingerprint(MEDIA_INDEX)}. Publish media with headrace.handoff.media.publishing.publish_media."
        )
    # Every version has at least one part, and the shards lie beside it.
    return manifest.parts[0].key.rpartition("/")[0]


def media_prefixes(manifest: Manifest) -> list[str]:
    """Key prefixes of a version's shards: for media the prefix of its parts, for other handoffs none."""
    return [media_prefix(manifest)] if is_media(manifest) else []


def shard_key(prefix: str, number: int) -> str:
    return f"{prefix}/shard-{number:05d}.media"


@dataclass(frozen=True, kw_only=True)
class Shard:
    num_items: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """`shards`: the number of items and bytes of each."""

    format_version: int = FORMAT_VERSION
    alignment: int = ALIGNMENT
    shards: tuple[tuple[Annotated[int, Ge(1)], Annotated[int, Ge(0)]], ...]


LAYOUT = Kind("Layout of media", _Stored, _REMEDY)


@dataclass(frozen=True)
class Layout:
    """The shards of one version, in order, and their prefix."""

    prefix: str
    shards: Sequence[Shard]

    @property
    def num_bytes(self) -> int:
        return sum(shard.num_bytes for shard in self.shards)

    @cached_property
    def first_items(self) -> list[int]:
        """Index row of each shard's first item, then the number of all items."""
        return [0, *accumulate(shard.num_items for shard in self.shards)]

    def key(self, shard: int) -> str:
        return shard_key(self.prefix, shard)

    def offsets(self, num_bytes: np.ndarray) -> np.ndarray:
        """The offset of each of N items in its shard, from all sizes (N,) int64: 8 bytes an item."""
        starts = np.zeros(len(num_bytes) + 1, np.int64)
        np.cumsum(-(-num_bytes // ALIGNMENT) * ALIGNMENT, out=starts[1:])
        firsts = np.array(self.first_items, np.int64)
        return starts[:-1] - np.repeat(starts[firsts[:-1]], np.diff(firsts))

    def write(self, store: ObjectStore) -> None:
        shards = tuple((shard.num_items, shard.num_bytes) for shard in self.shards)
        create_object(store, layout_key(self.prefix), LAYOUT, _Stored(shards=shards))

    @classmethod
    def read(cls, store: ObjectStore, manifest: Manifest) -> "Layout":
        """Raises: InvalidInput: not media. HandoffCorrupt: the layout is missing or impossible."""
        prefix = media_prefix(manifest)
        key = layout_key(prefix)
        try:
            stored = read_object(store, key, LAYOUT)
        except ObjectMissing as error:
            raise PartMissing(f"Media {manifest.label} have lost their shards: {error} {_REMEDY}", key=key) from error
        if stored.format_version > FORMAT_VERSION:
            raise FormatTooNew(
                f"Media {manifest.label} have shard format {stored.format_version}, this Headrace reads "
                f"{FORMAT_VERSION}. Upgrade Headrace to the version that wrote them, or a later one.",
                key=key,
            )
        shards = [Shard(num_items=num_items, num_bytes=num_bytes) for num_items, num_bytes in stored.shards]
        if stored.alignment != ALIGNMENT:
            raise _damaged(store, key, f"its items are aligned to {stored.alignment} bytes, not {ALIGNMENT}")
        if sum(shard.num_items for shard in shards) != manifest.num_rows:
            raise _damaged(store, key, f"its shards do not hold the {manifest.num_rows} items of the index")
        return cls(prefix, shards)


def _damaged(store: ObjectStore, key: str, why: str) -> HandoffCorrupt:
    return HandoffCorrupt(f"{LAYOUT.noun} {store.uri(key)} is damaged: {why}. {_REMEDY}", key=key)


def layout_key(prefix: str) -> str:
    return f"{prefix}/shards.json"
