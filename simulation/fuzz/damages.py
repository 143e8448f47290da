"""Damages one object at a time in a copy of a store in memory, and runs every affected reader on that copy.

An object is flipped (a bit), cut, emptied, removed, replaced by another JSON value, or swapped with one of its kind. A
reader that never looked at the object behaves as before, and is not run again.
"""

import random
import re
import shutil
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from headrace.errors import HeadraceError
from simulation.disk import Disk, Kept
from simulation.fuzz.readers import Truth, Wrong, readers
from simulation.fuzz.store import FuzzStore, Looks
from simulation.fuzz.world import World, build

_NAMED = ("mirrors", "runs", "parts")
_JSON = (b"{}", b"[]", b"null", b"0", b'""', b'{"format":1}', b"\xff\xfe", b"[" * 5000)
_NUM_SHOWN = 20


@dataclass
class Tally:
    num_damages: int = 0
    num_readings: int = 0
    num_aborts: int = 0
    num_aborts_refused: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


def kind_of(key: str) -> str:
    """Keys of one kind differ only in names and numbers: `rollout/journal/#.json`, `handoff/v#/manifest.json`."""
    root, *middle, last = key.split("/")
    area = [middle[1]] if root == "rollout" and len(middle) > 1 else []
    marks = [one for one in middle if one in _NAMED]
    pattern = re.sub(r"[0-9a-f]{12,}|[a-z]{32,}|\d+", "#", last)
    if area == ["prepared"] or "runs" in marks:
        pattern = "NAME.json"
    if root == "weights" and "parts" in marks:
        pattern = "FILE"
    return "/".join([root, *area, *marks, pattern])


class Fuzz:
    def __init__(self, seed: int, kinds: str = "") -> None:
        shared = Path("/dev/shm")
        self.files = Path(tempfile.mkdtemp(prefix="store-fuzz-", dir=shared if shared.is_dir() else None))
        self.world = build(self.files)
        self.truth = Truth(self.world)
        self.chance = random.Random(seed)
        self.readers = list(readers(self.truth))
        self.objects = dict(self.world.store.bodies)
        self.by_kind: dict[str, list[str]] = defaultdict(list)
        for key in sorted(self.objects):
            if re.search(kinds, kind_of(key)):
                self.by_kind[kind_of(key)].append(key)
        self.looks = {name: self._looks(name, read) for name, read in self.readers}
        self.tally = Tally()

    def close(self) -> None:
        shutil.rmtree(self.files, ignore_errors=True)

    def run(self, num_damages: int, *, say: Callable[[str], None] = lambda line: None) -> Tally:
        order = list(self.by_kind)
        began = time.monotonic()
        for number in range(num_damages):
            self._one(order[number % len(order)])
            if number % 500 == 499:
                rate = (number + 1) / (time.monotonic() - began)
                say(f"{number + 1:>7,} damages, {rate:.0f} a second, found {dict(self.tally.found)}")
        return self.tally

    def _one(self, kind: str) -> None:
        how, damaged = self._damaged(kind)
        self.tally.num_damages += 1
        self.tally.kinds[kind] += 1
        gone = self.objects.keys() - damaged.keys()
        touched = {key for key in self.objects if damaged.get(key) is not self.objects[key]}
        for name, read in self.readers:
            looks = self.looks[name]
            if any(looks.concern(key, is_gone=key in gone, left=damaged) for key in touched):
                self.tally.num_readings += 1
                self._read(name, read, damaged, f"{how} {', '.join(sorted(touched))}")
        # An abort that did not look at the damaged object works as before.
        self.tally.num_aborts += 2

    def _read(self, name: str, read: Callable[[World], object], objects: Mapping[str, Kept], what: str) -> None:
        try:
            read(self._sight(objects))
        except Wrong as wrong:
            self._found(wrong.bar, f"{what}: {name}: {wrong}")
        except HeadraceError:
            self.tally.num_aborts_refused += name.startswith("abort ")
        except Exception as error:  # noqa: BLE001 (this is what is looked for)
            place = traceback.extract_tb(error.__traceback__)[-1]
            self._found("raw", f"{what}: {name}: {error!r} at {place.filename}:{place.lineno}")

    def _found(self, bar: str, example: str) -> None:
        self.tally.found[bar] += 1
        if len(self.tally.examples) < _NUM_SHOWN:
            self.tally.examples.append(f"{bar}: {example}")

    def _damaged(self, kind: str) -> tuple[str, Mapping[str, Kept]]:
        keys, objects = self.by_kind[kind], dict(self.objects)
        key = self.chance.choice(keys)
        body, how = objects[key].body, self.chance.choice(("flip", "flip", "cut", "empty", "remove", "replace", "swap"))
        others = [other for other in keys if objects[other].body != body]
        if how == "swap" and others:
            other = self.chance.choice(others)
            objects[key], objects[other] = objects[other], objects[key]
        elif how == "remove" or not body:
            how = "remove"
            del objects[key]
        elif how == "empty":
            objects[key] = Kept(b"")
        elif how == "cut":
            objects[key] = Kept(body[: self.chance.randrange(len(body))])
        elif how == "replace":
            objects[key] = Kept(self.chance.choice(_JSON))
        else:
            how, at = "flip", self.chance.randrange(len(body))
            objects[key] = Kept(body[:at] + bytes([body[at] ^ 1 << self.chance.randrange(8)]) + body[at + 1 :])
        return how, objects

    def _sight(self, objects: Mapping[str, Kept]) -> World:
        """Another process's first look at a copy."""
        return World(FuzzStore(Disk(self.files, objects)), replace(self.world.clock))

    def _looks(self, name: str, read: Callable[[World], object]) -> Looks:
        """What a reader looks at in an undamaged store; that it succeeds there is a check of this program."""
        world = self._sight(self.objects)
        try:
            read(world)
        except HeadraceError as error:
            raise AssertionError(f"{name} does not work on a whole store: {error}") from error
        return world.store.looks
