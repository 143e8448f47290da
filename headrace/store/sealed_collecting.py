"""Decides which sealed weights may go, by one listing and a read of each manifest.

Weights state their model and recipe in their attributes. The newest of each recipe stay, as the newest versions of a
partition do. Older ones stay if a room names them (`headrace.store.protection`) or a lease holds them
(`headrace.store.leases`). Weights without these attributes (a base model's) stay while they are named, or while an
adapter stays that needs them. A damaged manifest may name any files, and need any weights: then orphans stay too, and
weights of no recipe.
"""

import os
import re
import socket
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
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
    parts_prefix,
    read_sealing,
)
from headrace.store.tombstones import Condemned

_MANIFEST = re.compile(rf"{WEIGHTS}/([0-9a-f]+)/manifest(?:-(\d{{6,}}))?\.json")


def sealed_leavings(asked: Asked, *, keep_versions: int) -> Iterator[Leaving]:
    """Every sealing whose files were not collected, and files that no manifest names."""
    entries = asked.objects.entries(WEIGHTS)
    parts = by_prefix((entry for entry in entries if entry.key.startswith(parts_prefix(WEIGHTS, ""))), depth=3)
    manifests = [entry for entry in entries if _MANIFEST.fullmatch(entry.key)]
    notes = {entry.key for entry in entries}
    live = [entry for entry in manifests if collected_key(entry.key) not in notes]
    groups: dict[str, list[tuple[float, SealedDirectory]]] = defaultdict(list)
    num_read = 0
    for entry, sealed in _sealings(asked, live):
        num_read += 1
        groups[_group(sealed)].append((entry.modified_at, sealed))
    for group, members in groups.items():
        members.sort(key=lambda one: (one[0], one[1].digest), reverse=True)
        for place, (_, sealed) in enumerate(members):
            is_newest = bool(group) and place < keep_versions
            may_be_needed = not group and num_read < len(live)
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
        yield _orphan(asked, prefix, listed, is_damaged=num_read < len(live))


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


def _orphan(asked: Asked, prefix: str, listed: list[Entry], *, is_damaged: bool) -> Leaving:
    num_bytes, written_at = size_and_time(listed)
    nonce, age = prefix.rpartition("/")[2], asked.now - written_at
    leaving = Leaving(
        kind="orphan",
        label=f"{WEIGHTS} parts {nonce[:8]}",
        key=prefix,
        num_bytes=num_bytes,
        reason=f"no manifest names it, last written {age / 3600:.1f} h ago",
        nonce=nonce,
        condemned=Condemned(prefix=prefix, clears=False),
        is_needed=partial(_names_nonce, asked.objects, nonce),
    )
    if is_damaged:
        return replace(leaving, is_kept=True, reason="a damaged manifest may name it")
    if age <= asked.grace_seconds:
        return replace(leaving, is_kept=True, reason=f"written {age / 3600:.1f} h ago, less than the grace time")
    return leaving


def _names_nonce(objects: ObjectStore, nonce: str) -> bool:
    """Whether the writer sealed it meanwhile; an unreadable manifest may name it, too."""
    keys = [entry.key for entry in objects.entries(WEIGHTS)]
    for key in filter(_MANIFEST.fullmatch, keys):
        try:
            is_named = _read(objects, key).key == parts_prefix(WEIGHTS, nonce)
        except ObjectMissing:
            continue
        except HandoffCorrupt:
            return True
        if is_named and collected_key(key) not in keys:
            return True
    return False
