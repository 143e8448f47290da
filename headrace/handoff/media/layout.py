"""Where the items of a media version lie: in shards beside the index's parts, in the index's order.

An item begins at a multiple of 64 bytes of its shard, right after the one before it. So the sizes in the index and the
number of items in each shard give every place; `shards.json` holds these numbers. Shards lie under the prefix of the
version's own nonce: whoever leases, keeps or deletes that prefix does so to the shards too, one unlink a shard.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from headrace.errors import FormatTooNew, HandoffCorrupt, InvalidInput, ObjectMissing, PartMissing
from headrace.handoff.manifest import Manifest
from headrace.handoff.schemas import MEDIA_INDEX, fingerprint
from headrace.handoff.sealed import partition_prefix
from headrace.store.objects import ObjectStore, canonical_json

# A cache line: an item can be handed to SIMD decoders where it lies.
ALIGNMENT = 64
SHARD_BYTES = 256 * 1024 * 1024
FORMAT_VERSION = 1
_REMEDY = "Materialize the partition again; what read it before has to be made again too."


def aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def writer_prefix(asset: str, partition: str, nonce: str) -> str:
    return f"{partition_prefix(asset, partition)}/parts/{nonce}"


def is_media(manifest: Manifest) -> bool:
    return manifest.schema_fingerprint == fingerprint(MEDIA_INDEX)


def media_prefix(manifest: Manifest) -> str:
    """Raises: InvalidInput: the handoff is no media index."""
    if not is_media(manifest):
        raise InvalidInput(
            f"Handoff {manifest.label} is no media index: its schema is {manifest.schema_fingerprint}, media have "
            f"{fingerprint(MEDIA_INDEX)}. Publish media with headrace.handoff.media.publishing.publish_media."
        )
    # Every version has at least one part, and the shards lie beside it.
    return manifest.parts[0].key.rpartition("/")[0]


def media_prefixes(manifest: Manifest) -> list[str]:
    """Key prefixes of a version's shards: for media the prefix that holds its parts too, none for other handoffs."""
    return [media_prefix(manifest)] if is_media(manifest) else []


def shard_key(prefix: str, number: int) -> str:
    return f"{prefix}/shard-{number:05d}.media"


@dataclass(frozen=True, kw_only=True)
class Shard:
    num_items: int
    num_bytes: int


@dataclass(frozen=True)
class Layout:
    """The shards of one version under their prefix, in order."""

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
        """Where each of N items begins in its shard, from the sizes of all (N,) int64: 8 bytes an item."""
        starts = np.zeros(len(num_bytes) + 1, np.int64)
        np.cumsum(-(-num_bytes // ALIGNMENT) * ALIGNMENT, out=starts[1:])
        firsts = np.array(self.first_items, np.int64)
        return starts[:-1] - np.repeat(starts[firsts[:-1]], np.diff(firsts))

    def write(self, store: ObjectStore) -> None:
        body = {
            "format_version": FORMAT_VERSION,
            "alignment": ALIGNMENT,
            "shards": [[shard.num_items, shard.num_bytes] for shard in self.shards],
        }
        store.create(_layout_key(self.prefix), canonical_json(body))

    @classmethod
    def read(cls, store: ObjectStore, manifest: Manifest) -> "Layout":
        """Raises: InvalidInput: no media. HandoffCorrupt: the layout is missing or says what cannot be."""
        prefix = media_prefix(manifest)
        try:
            body = json.loads(store.read(_layout_key(prefix)))
            if body["format_version"] > FORMAT_VERSION:
                raise FormatTooNew(
                    f"Media {manifest.label} have shard format {body['format_version']}, this Headrace reads "
                    f"{FORMAT_VERSION}. Upgrade Headrace to the version that wrote them, or a later one."
                )
            if body["alignment"] != ALIGNMENT:
                raise ValueError(f"its items are aligned to {body['alignment']} bytes, not {ALIGNMENT}")
            shards = [Shard(num_items=num_items, num_bytes=num_bytes) for num_items, num_bytes in body["shards"]]
            if sum(shard.num_items for shard in shards) != manifest.num_rows or any(s.num_items < 1 for s in shards):
                raise ValueError(f"its shards do not hold the {manifest.num_rows} items of the index")
        except ObjectMissing as error:
            raise PartMissing(f"Media {manifest.label} have lost their shards: {error} {_REMEDY}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise HandoffCorrupt(
                f"Media {manifest.label} have a damaged {store.uri(_layout_key(prefix))} ({error}). {_REMEDY}"
            ) from error
        return cls(prefix, shards)


def _layout_key(prefix: str) -> str:
    return f"{prefix}/shards.json"
