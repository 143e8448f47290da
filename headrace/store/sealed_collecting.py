"""Which sealed weights may go: a listing, a read of each manifest, and a rule.

Weights say in their attributes which model and recipe they are of. The newest of each recipe stay, as the newest
versions of a partition do; of the others those that somebody names (`headrace.store.protection`), or holds
(`headrace.store.leases`). Weights that say nothing (a base model's) stay while they are named. A damaged manifest may
be the one of any files: then no orphan goes either.
"""

import os
import re
import socket
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from headrace.clock import iso
from headrace.errors import HandoffCorrupt, ObjectMissing
from headrace.store.listings import by_prefix, size_and_time
from headrace.store.objects import Entry, ObjectStore
from headrace.store.protection import Asked, Leaving
from headrace.store.sealed_directory import (
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
    """Every sealing whose files were not collected, and what no manifest names."""
    entries = asked.objects.entries(WEIGHTS)
    sealings, is_damaged = _sealings(asked, entries)
    parts = by_prefix((entry for entry in entries if entry.key.startswith(f"{WEIGHTS}/parts/")), depth=3)
    groups: dict[str, list[tuple[float, SealedDirectory]]] = defaultdict(list)
    for sealed_at, sealed in sealings:
        groups[_group(sealed)].append((sealed_at, sealed))
    for group, members in groups.items():
        members.sort(key=lambda one: (one[0], one[1].digest))
        for place, (_, sealed) in enumerate(reversed(members)):
            num_bytes = sum(entry.num_bytes for entry in parts.pop(sealed.key, []))
            yield _leaving(
                asked, sealed, num_bytes, group, is_newest=bool(group) and place < keep_versions, kept=keep_versions
            )
    for prefix, listed in parts.items():
        yield _orphan(asked, prefix, listed, is_damaged=is_damaged)


def _sealings(asked: Asked, entries: list[Entry]) -> tuple[list[tuple[float, SealedDirectory]], bool]:
    """With when they were sealed; and whether a manifest cannot be read."""
    keys, found, is_damaged = {entry.key for entry in entries}, [], False
    for entry in entries:
        match = _MANIFEST.fullmatch(entry.key)
        if match is None or collected_key(entry.key) in keys:
            continue
        try:
            found.append((entry.modified_at, read_sealing(asked.objects, WEIGHTS, match[1], int(match[2] or 1))))
        except ObjectMissing:
            continue
        except HandoffCorrupt as error:
            asked.damaged(error)
            is_damaged = True
    return found, is_damaged


def _group(sealed: SealedDirectory) -> str:
    model, recipe = sealed.attributes.get("model"), sealed.attributes.get("recipe")
    return f"{model}.{recipe}" if model and recipe else ""


def _leaving(
    asked: Asked, sealed: SealedDirectory, num_bytes: int, group: str, *, is_newest: bool, kept: int
) -> Leaving:
    if is_newest:
        reason = f"among the newest {kept} of {group}"
    elif group:
        reason = f"older than the newest {kept} of {group}, and nobody names them"
    else:
        reason = "nobody names them"
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
        num_bytes=num_bytes,
        reason=reason,
        is_kept=is_newest,
        nonce=sealed.nonce,
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
    """Whether its writer sealed it meanwhile; a manifest that cannot be read may say so."""
    for entry in objects.entries(WEIGHTS):
        if match := _MANIFEST.fullmatch(entry.key):
            try:
                sealed = read_sealing(objects, WEIGHTS, match[1], int(match[2] or 1))
            except ObjectMissing:
                continue
            except HandoffCorrupt:
                return True
            if sealed.key == parts_prefix(WEIGHTS, nonce) and not objects.exists(collected_key(entry.key)):
                return True
    return False
