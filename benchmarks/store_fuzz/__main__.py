"""Damages every kind of object that a store holds and lets every reader at it; a kind that is new is there by itself.

    python -m benchmarks.store_fuzz --damages 20000

One object a time is flipped (a bit), cut, emptied, removed, replaced by another JSON value, or swapped with one of its
kind, in a copy of a store in memory. Then every reader that looked at it works on that copy: handoffs, weights and
media are opened, rollouts are ticked, paused and aborted, partitions made, sessions resolved and swept, garbage
collected. Who never looked at the object does what it did before, and is not asked again.

The bars: nothing ends in an exception that is not ours, no wrong row or byte comes out, no set that was rolled back
gets work, and an abort works whatever *else* is damaged. Where the damage is in the journal itself, the abort must be
refused with a clear error and nothing be written. What no reader can know, and what is therefore no wrong row here, is
that an object is gone which nothing else tells of: then an older version is the newest.
"""

import argparse
import json
import logging
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from headrace.errors import HeadraceError
from simulation.fuzz.readers import Truth, Wrong, readers
from simulation.fuzz.store import FuzzStore, Looks
from simulation.fuzz.world import World, build

BARS = ("raw", "wrong", "revived", "abort", "stopped")
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
    """Keys of one kind differ in names and numbers alone: `rollout/journal/#.json`, `handoff/v#/manifest.json`."""
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
        self.objects = dict(self.world.store.objects)
        self.by_kind: dict[str, list[str]] = defaultdict(list)
        for key in sorted(self.objects):
            if re.search(kinds, kind_of(key)):
                self.by_kind[kind_of(key)].append(key)
        self.looks = {name: self._looks(name, read) for name, read in self.readers}
        self.tally = Tally()

    def close(self) -> None:
        shutil.rmtree(self.files, ignore_errors=True)

    def run(self, num_damages: int, *, say: Callable[[str], None] = lambda line: None) -> Tally:
        order = [kind for kind in self.by_kind for _ in range(1)]
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
        # An abort that looked at nothing of this works as it did before.
        self.tally.num_aborts += 2

    def _read(self, name: str, read: Callable[[World], object], objects: dict[str, bytes], what: str) -> None:
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

    def _damaged(self, kind: str) -> tuple[str, dict[str, bytes]]:
        keys, objects = self.by_kind[kind], dict(self.objects)
        key = self.chance.choice(keys)
        body, how = objects[key], self.chance.choice(("flip", "flip", "cut", "empty", "remove", "replace", "swap"))
        others = [other for other in keys if objects[other] != body]
        if how == "swap" and others:
            other = self.chance.choice(others)
            objects[key], objects[other] = objects[other], body
        elif how == "remove" or not body:
            how = "remove"
            del objects[key]
        elif how == "empty":
            objects[key] = b""
        elif how == "cut":
            objects[key] = body[: self.chance.randrange(len(body))]
        elif how == "replace":
            objects[key] = self.chance.choice(_JSON)
        else:
            how, at = "flip", self.chance.randrange(len(body))
            objects[key] = body[:at] + bytes([body[at] ^ 1 << self.chance.randrange(8)]) + body[at + 1 :]
        return how, objects

    def _sight(self, objects: dict[str, bytes]) -> World:
        """Another process's first look at a copy."""
        return World(FuzzStore(self.files, objects), replace(self.world.clock))

    def _looks(self, name: str, read: Callable[[World], object]) -> Looks:
        """What a reader looks at where nothing is damaged; that it then works is a check of this program."""
        world = self._sight(self.objects)
        try:
            read(world)
        except HeadraceError as error:
            raise AssertionError(f"{name} does not work on a whole store: {error}") from error
        return world.store.looks


def result(tally: Tally) -> dict[str, object]:
    bars = {f"num_{bar}": {"value": tally.found[bar], "bar": 0, "met": not tally.found[bar]} for bar in BARS}
    return {
        "benchmark": "store_fuzz",
        "bars": bars,
        "num_damages": tally.num_damages,
        "num_readings": tally.num_readings,
        "num_aborts": tally.num_aborts,
        "num_aborts_refused_by_their_own_journal": tally.num_aborts_refused,
        "num_kinds": len(tally.kinds),
        "damages_by_kind": dict(sorted(tally.kinds.items())),
    }


def _lines(tally: Tally) -> Iterator[str]:
    width = max(map(len, tally.kinds))
    for kind, count in sorted(tally.kinds.items()):
        yield f"{kind:<{width}}  {count:>7,}"
    yield from tally.examples


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--damages", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default="", help="only kinds that this pattern is found in")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    fuzz = Fuzz(given.seed, given.kinds)
    try:
        tally = fuzz.run(given.damages, say=print)
    finally:
        fuzz.close()
    print("\n".join(_lines(tally)))
    print(json.dumps(result(tally)))
    sys.exit(0 if not tally.found else 1)


if __name__ == "__main__":
    main()
