"""Verifies the store's bytes of versions, and notes each damage."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import xxhash

from headrace.command_line.bodies.handoffs import Damage
from headrace.command_line.opening import Reference, known_asset, known_partition
from headrace.errors import HandoffCorrupt, HandoffMissing, ObjectMissing, PartMissing
from headrace.handoff.manifest import Part
from headrace.handoff.media.layout import Layout, is_media
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.parts import flipped, mismatch
from headrace.handoff.sealed import Handoff
from headrace.handoff.versions import HandoffStore

# Bytes fetched at once from a remote store.
_WINDOW_BYTES = 32 * 1024 * 1024


def verify_stored(handoff: Handoff, advance: Callable[[int], None] = lambda num_bytes: None) -> None:
    """Verifies the store's bytes, not the node cache's copy.

    Raises:
        HandoffCorrupt: names the part, or the media item. HandoffCollected: it was collected meanwhile.
    """
    handoff.hold()
    if not handoff.objects.checks_what_it_fetches:
        handoff.verify(advance)
    else:
        for part in handoff.manifest.parts:
            _verify_remote(handoff, part)
            advance(part.num_bytes)
    if is_media(handoff.manifest):
        for _, chunks in MediaSet.open(handoff).contents():
            for chunk in chunks:
                advance(len(chunk))


def _verify_remote(handoff: Handoff, part: Part) -> None:
    names = handoff.schema.names
    try:
        for segment, column in zip(part.segments, part.columns, strict=True):
            digest = xxhash.xxh3_128()
            for start in range(0, segment.num_bytes, _WINDOW_BYTES):
                num_bytes = min(_WINDOW_BYTES, segment.num_bytes - start)
                digest.update(handoff.objects.read_ranges(part.key, [(segment.offset + start, num_bytes)])[0])
            if digest.hexdigest() != segment.xxh3_128:
                raise flipped(handoff.label, part, names[column] if column >= 0 else None, digest.hexdigest(), segment)
    except ObjectMissing as error:
        raise mismatch(PartMissing, handoff.label, part, "is missing") from error


def opened_versions(
    handoffs: HandoffStore, words: Sequence[str], *, all_versions: bool, damages: list[Damage]
) -> Iterator[Handoff]:
    for asset, partition, version in _chosen(handoffs, words, all_versions=all_versions):
        try:
            yield handoffs.open(asset, partition, version)
        except HandoffCorrupt as error:
            damages.append(damage_of(asset, partition, version, error))
        except HandoffMissing:
            if words:
                raise


def _chosen(
    handoffs: HandoffStore, words: Sequence[str], *, all_versions: bool
) -> Iterator[tuple[str, str, int | None]]:
    """Raises: HandoffMissing: a name does not exist."""
    reference = Reference.parse(words, assets=handoffs.assets()) if words else None
    assets = [known_asset(handoffs, reference.asset)] if reference else handoffs.assets()
    for asset in assets:
        if reference and reference.partition is not None:
            partitions = [known_partition(handoffs, asset, reference.partition)]
        else:
            partitions = handoffs.partitions(asset)
        for partition in partitions:
            if reference and reference.version is not None:
                yield asset, partition, reference.version
                continue
            versions = handoffs.versions(asset, partition)
            # Without a version there is nothing to check; opening refuses a partition that was asked for by name.
            for version in (versions if all_versions else versions[-1:]) or [None]:
                yield asset, partition, version


def media_bytes(handoff: Handoff) -> int:
    """Size of its shards; reading them later reports what is wrong with them."""
    if not is_media(handoff.manifest):
        return 0
    with suppress(HandoffCorrupt):
        return Layout.read(handoff.objects, handoff.manifest).num_bytes
    return 0


def damage_of(asset: str, partition: str, version: int | None, error: HandoffCorrupt) -> Damage:
    what = " ".join(str(error).split())
    return Damage(asset=asset, partition=partition, version=version, kind=type(error).__name__, what=what)
