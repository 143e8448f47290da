"""Edits a copy of a journal as an attacker or a failing disk would, and checks whether the library notices."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from headrace.rollout.journal import ENTRY, Journal, JournalCorrupt
from headrace.store.chain import MARK
from headrace.store.small_objects import encode_object
from simulation.disk import Disk, Kept
from simulation.scheduler import Scheduler, SimulatedClock
from simulation.stores import SimulatedStore
from simulation.world import NAME

KINDS = ("an edited field", "an edited entry with a new digest", "swapped entries", "a missing entry", "a foreign file",
         "a cut end", "a flipped bit", "an entry of another journal")  # fmt: skip


def tamper(disk: Disk, chance: random.Random, directory: Path) -> tuple[str, bool]:
    """The edit of a copy of the journal, and whether `verify` found it. Needs at least two entries."""
    copy = Disk(directory)
    prefix = f"rollout/{NAME}/journal/"
    copy.objects = {key: kept for key, kept in disk.objects.items() if key.startswith(prefix)}
    scheduler = Scheduler()
    store = SimulatedStore(copy, scheduler, chance, [])
    reader = Journal(store, NAME, SimulatedClock(scheduler))
    kind = chance.choice(KINDS)
    keys = sorted(key for key in copy.objects if key.endswith(".json"))
    if kind == "a cut end":
        # A reader that saw the end finds this; the chain alone cannot know it.
        reader.entries()
    _edit(copy, kind, keys, chance)
    try:
        reader.verify()
    except JournalCorrupt:
        return kind, True
    return kind, False


def _edit(copy: Disk, kind: str, keys: list[str], chance: random.Random) -> None:
    key = chance.choice(keys)
    kept = copy.objects[key]
    body = json.loads(kept.body)
    if kind in ("an edited field", "an edited entry with a new digest"):
        if kind == "an edited field":
            body["fields"]["reason"] = "edited"
            chance.choice([body, body["fields"]])["version_set"] = "0" * 64
        else:
            key = keys[chance.randrange(len(keys) - 1)]
            body = _with_new_digests(key, copy.objects[key].body)
        copy.objects[key] = Kept(json.dumps(body).encode(), kept.at, kept.by)
    elif kind == "swapped entries":
        first, second = chance.sample(keys, 2)
        copy.objects[first], copy.objects[second] = copy.objects[second], copy.objects[first]
    elif kind == "a missing entry":
        del copy.objects[keys[chance.randrange(len(keys) - 1)]]
    elif kind == "a foreign file":
        copy.objects[key + "~"] = kept
    elif kind == "a cut end":
        del copy.objects[keys[-1]]
        # A writer that was killed right after the entry has left no mark.
        copy.objects.pop(keys[-1].removesuffix(".json") + MARK, None)
    elif kind == "a flipped bit":
        raw = bytearray(kept.body)
        place = raw.index(b'"nonce":"') + len(b'"nonce":"') + chance.randrange(32)
        raw[place] = ord("0") if raw[place] != ord("0") else ord("1")
        copy.objects[key] = Kept(bytes(raw), kept.at, kept.by)
    else:
        other = Disk(copy.directory)
        store = SimulatedStore(other, Scheduler(), chance, [])
        journal = Journal(store, "another", SimulatedClock(Scheduler()))
        for number in range(len(keys)):
            journal.append("initialized", {"version_set": "0" * 64, "weights_digest": "x"}, expected=number)
        copy.objects[key] = other.objects[key.replace(NAME, "another")]


def _with_new_digests(key: str, raw: bytes) -> dict[str, Any]:
    """Like an edit by somebody who knows how digests are made."""
    entry = ENTRY.checked(raw)
    entry = replace(entry, fields={**entry.fields, "reason": "edited"})
    journal = Journal(None, NAME, None)  # pyright: ignore[reportArgumentType]
    return json.loads(encode_object(key, ENTRY, replace(entry, digest=journal._digest(entry)), nonce=entry.nonce))
