"""Decides which sealed weights may go, by one listing and a read of each manifest.

Weights state their model and recipe in their attributes. The newest of each recipe stay, as the newest versions of a
partition do. Older ones stay if a room names them (`headrace.store.protection`) or a lease holds them
(`headrace.store.leases`). Weights without these attributes (a base model's) stay while they are named, or while an
adapter stays that needs them. A damaged manifest may name any files, and need any weights: then orphans stay too, and
weights of no recipe.

Whole files go once their tensors are in segments, all of which are there, and nobody has opened them for a day. A
segment goes when no index names it; while an index cannot be read, all segments stay.
"""

import os
import re
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from headrace.clock import iso
from headrace.errors import HandoffCorrupt, ObjectMissing
from headrace.store.listings import by_prefix, size_and_time
from headrace.store.objects import Entry, ObjectStore
from headrace.store.protection import Asked, Leaving
from headrace.store.sealed_directory import (
    NEEDS,
    WEIGHTS,
    SealedDirectory,
    collected_key,
    directory_key,
    find_index,
    parts_prefix,
    read_index,
    read_sealing,
)
from headrace.store.tensors.index import segment_key, segment_prefix
from headrace.store.tensors.neighbours import ROOT as NEIGHBOURS
from headrace.store.tombstones import Condemned, standing

_OFFER_SECONDS = 24 * 3600.0
_MANIFEST = re.compile(rf"{WEIGHTS}/([0-9a-f]+)/manifest(?:-(\d{{6,}}))?\.json")


def sealed_leavings(asked: Asked, *, keep_versions: int) -> Iterator[Leaving]:
    """Every sealing whose files were not collected, and files that no manifest names."""
    entries = asked.objects.entries(WEIGHTS)
    parts = by_prefix((entry for entry in entries if entry.key.startswith(parts_prefix(WEIGHTS, ""))), depth=3)
    segments = by_prefix((entry for entry in entries if entry.key.startswith(segment_prefix(WEIGHTS, ""))), depth=3)
    manifests = [entry for entry in entries if _MANIFEST.fullmatch(entry.key)]
    notes = {entry.key for entry in entries}
    live = [entry for entry in manifests if collected_key(entry.key) not in notes]
    found = [*_sealings(asked, live)]
    named = _named_segments(asked, [sealed for _, sealed in found])
    may_be_named = named is None or len(found) < len(live)
    whole_in_segments = {
        sealed.digest for _, sealed in found if sealed.is_indexed and named and named[sealed.digest] <= segments.keys()
    }
    groups: dict[str, list[tuple[float, SealedDirectory]]] = defaultdict(list)
    for entry, sealed in found:
        if not sealed.is_indexed and sealed.digest in whole_in_segments:
            yield _superseded(asked, sealed, parts.pop(sealed.key, []))
        else:
            groups[_group(sealed)].append((entry.modified_at, sealed))
    for group, members in groups.items():
        members.sort(key=lambda one: (one[0], one[1].digest), reverse=True)
        digests = [*dict.fromkeys(sealed.digest for _, sealed in members)]
        for _, sealed in members:
            is_newest = bool(group) and digests.index(sealed.digest) < keep_versions
            may_be_needed = not group and len(found) < len(live)
            reason = _reason(group, keep_versions, is_newest=is_newest)
            if may_be_needed:
                reason = "a damaged manifest may be an adapter's that needs them"
            yield _leaving(asked, sealed, parts.pop(sealed.key, []), reason, is_kept=is_newest or may_be_needed)
    # A collector was killed, or a power failure undid its deletions.
    dead = [entry for entry in manifests if collected_key(entry.key) in notes] if parts else []
    for _, sealed in _sealings(asked, dead):
        if listed := parts.pop(sealed.key, None):
            leaving = _leaving(asked, sealed, listed, "collected before, this is left of it", is_kept=False)
            yield replace(leaving, key=sealed.key)
    for prefix, listed in parts.items():
        needed = partial(_names_nonce, asked.objects, prefix.rpartition("/")[2])
        yield _orphan(asked, "parts", prefix, listed, needed, is_damaged=len(found) < len(live))
    for prefix in segments.keys() - {one for own in (named or {}).values() for one in own}:
        needed = partial(_names_segment, asked.objects, prefix)
        yield _orphan(asked, "segment", prefix, segments[prefix], needed, is_damaged=may_be_named)
    yield from _old_offers(asked)


def _old_offers(asked: Asked) -> Iterator[Leaving]:
    """What processes said that they offer: those that still do say so again when they open weights."""
    for entry in asked.objects.entries(NEIGHBOURS):
        age = asked.now - entry.modified_at
        if age > max(asked.grace_seconds, _OFFER_SECONDS):
            reason = f"made {age / 3600:.1f} h ago"
            yield Leaving.of_object(entry, kind="neighbour", label=f"offer {entry.key}", reason=reason)


def _named_segments(asked: Asked, sealings: Iterable[SealedDirectory]) -> dict[str, set[str]] | None:
    """Digest → the prefixes of its segments; None: an index cannot be read, and may name any."""
    named: dict[str, set[str]] = {}
    is_known = True
    for sealed in sealings:
        if sealed.is_indexed:
            try:
                index = read_index(asked.objects, sealed)
            except HandoffCorrupt as error:
                asked.damaged(error)
                is_known = False
                continue
            named[sealed.digest] = {segment_prefix(WEIGHTS, one.nonce) for one in index.segments}
    return named if is_known else None


def _superseded(asked: Asked, sealed: SealedDirectory, parts: Sequence[Entry]) -> Leaving:
    """Whole files beside the same bytes in segments. Their own key: what names the weights does not name them."""
    reason = "its tensors are in segments, and each node puts them together"
    leaving = _leaving(asked, sealed, parts, reason, is_kept=False)
    age = asked.now - max((entry.modified_at for entry in parts), default=0.0)
    is_young = age <= asked.grace_seconds
    return replace(
        leaving,
        kind="whole files",
        label=f"whole files of {leaving.label}",
        key=sealed.key,
        is_kept=is_young,
        reason=f"written {age / 3600:.1f} h ago, less than the grace time" if is_young else reason,
        is_needed=partial(_lacks_segments, asked.objects, sealed.digest),
    )


def _sealings(asked: Asked, manifests: Iterable[Entry]) -> Iterator[tuple[Entry, SealedDirectory]]:
    """The readable ones."""
    for entry in manifests:
        try:
            yield entry, _read(asked.objects, entry.key)
        except ObjectMissing:
            continue
        except HandoffCorrupt as error:
            asked.damaged(error)


def _read(objects: ObjectStore, key: str) -> SealedDirectory:
    match = _MANIFEST.fullmatch(key)
    assert match
    return read_sealing(objects, WEIGHTS, match[1], int(match[2] or 1))


def _group(sealed: SealedDirectory) -> str:
    model, recipe = sealed.attributes.get("model"), sealed.attributes.get("recipe")
    return f"{model}.{recipe}" if model and recipe else ""


def _reason(group: str, keep_versions: int, *, is_newest: bool) -> str:
    if is_newest:
        return f"among the newest {keep_versions} of {group}"
    return f"older than the newest {keep_versions} of {group}, and nobody names them" if group else "nobody names them"


def _leaving(asked: Asked, sealed: SealedDirectory, parts: Sequence[Entry], reason: str, *, is_kept: bool) -> Leaving:
    group = _group(sealed)
    note = {
        "kind": sealed.kind,
        "digest": sealed.digest,
        "num_bytes": sealed.num_bytes,
        "collected_at": iso(asked.clock.now()),
        "collected_by": f"{socket.gethostname()}/{os.getpid()}",
    }
    return Leaving(
        kind=WEIGHTS,
        label=f"{WEIGHTS} {sealed.digest[:12]}" + (f" of {group}" if group else ""),
        key=directory_key(sealed.digest),
        num_bytes=sum(entry.num_bytes for entry in parts),
        reason=reason,
        is_kept=is_kept,
        nonce=sealed.nonce,
        needs=directory_key(sealed.attributes[NEEDS]) if NEEDS in sealed.attributes else None,
        condemned=Condemned(prefix=sealed.key, clears=True, note_key=collected_key(sealed.manifest_key), note=note),
    )


def _orphan(
    asked: Asked, what: str, prefix: str, listed: list[Entry], is_needed: Callable[[], bool], *, is_damaged: bool
) -> Leaving:
    num_bytes, written_at = size_and_time(listed)
    nonce, age = prefix.rpartition("/")[2], asked.now - written_at
    leaving = Leaving(
        kind="orphan",
        label=f"{WEIGHTS} {what} {nonce[:8]}",
        key=prefix,
        num_bytes=num_bytes,
        reason=f"no manifest names it, last written {age / 3600:.1f} h ago",
        nonce=nonce,
        condemned=Condemned(prefix=prefix, clears=False),
        is_needed=is_needed,
    )
    if is_damaged:
        return replace(leaving, is_kept=True, reason="a damaged manifest may name it")
    if age <= asked.grace_seconds:
        return replace(leaving, is_kept=True, reason=f"written {age / 3600:.1f} h ago, less than the grace time")
    return leaving


def _names_nonce(objects: ObjectStore, nonce: str) -> bool:
    """Whether the writer sealed it meanwhile; an unreadable manifest may name it, too."""
    try:
        return any(sealed.key == parts_prefix(WEIGHTS, nonce) for sealed in _live(objects))
    except HandoffCorrupt:
        return True


def _names_segment(objects: ObjectStore, prefix: str) -> bool:
    """Whether an index names it meanwhile; an unreadable one may, too."""
    try:
        return any(
            segment_prefix(WEIGHTS, one.nonce) == prefix
            for sealed in _live(objects)
            if sealed.is_indexed
            for one in read_index(objects, sealed).segments
        )
    except HandoffCorrupt:
        return True


def _lacks_segments(objects: ObjectStore, digest: str) -> bool:
    """Whether the whole files are needed after all."""
    try:
        indexed = find_index(objects, digest)
        segments = read_index(objects, indexed).segments if indexed else ()
    except HandoffCorrupt:
        return True
    # A collector that wants a segment may not have seen the index: its decision would come after ours.
    return indexed is None or not all(
        standing(objects, one.nonce) == "none" and objects.exists(segment_key(WEIGHTS, one.nonce)) for one in segments
    )


def _live(objects: ObjectStore) -> Iterator[SealedDirectory]:
    """The sealings that were not collected. Raises: HandoffCorrupt: one cannot be read."""
    keys = {entry.key for entry in objects.entries(WEIGHTS)}
    for key in filter(_MANIFEST.fullmatch, sorted(keys)):
        if collected_key(key) not in keys:
            with suppress(ObjectMissing):
                yield _read(objects, key)
