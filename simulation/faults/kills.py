"""Kills a writer or a collector at each system call that touches the store; flips bits, breaks files.

After each fault the checker of `simulation.faults.cases`, which knows what was sealed, opens everything.
"""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import WEIGHTS, find_directory, open_directory, seal_directory
from simulation.faults.cases import (
    ASSET,
    PARTITION,
    Later,
    Tally,
    broken_files,
    check_everything,
    collect_all,
    damages,
    fresh_copy,
    publish,
    read_damaged,
)
from simulation.system_calls.tracing import Traced, run_traced

Say = Callable[[bytes], Any]
# Content sealed in the template before any kill; killed processes and the checker write 90 and 91.
SEALED = (1, 2, 3)
KILLED_WRITES, CHECKER_WRITES = 90, 91
_TWO_DAYS = 2 * 24 * 3600.0
# By name, in the checker's order: the first stays because of its recipe, the other is deleted.
_WEIGHTS = {"tuned": {"model": "tiny", "recipe": "flash"}, "base": {}}


def publish_work(directory: Path, say: Say) -> None:
    say(str(publish(LocalStore(directory), KILLED_WRITES).version).encode())


def publish_same_work(directory: Path, say: Say) -> None:
    """Existing sealed content is found, not sealed again."""
    version = publish(LocalStore(directory), SEALED[-1]).version
    assert version == len(SEALED)


def collect_work(directory: Path, say: Say) -> None:
    """Two days later no lease holds the weights, and nobody names those without a recipe."""
    collect_all(LocalStore(directory), Later(_TWO_DAYS))


WORKS: dict[str, Callable[[Path, Say], None]] = {
    "publish": publish_work,
    "publish, first of all": publish_work,
    "publish the same": publish_same_work,
    "collect garbage": collect_work,
}


def kill_everywhere(root: Path, num_kills: int, seed: int, advance: Callable[[], None]) -> list[Tally]:
    """Spreads kills evenly over all works and their points; with more kills than points it starts again.

    Raises:
        TracingRefused
    """
    template, target = root / "template", root / "killed"
    sealed_template(template)
    (root / "empty").mkdir()
    templates = {name: root / "empty" if name == "publish, first of all" else template for name in WORKS}
    points = []
    for name, work in WORKS.items():
        fresh_copy(templates[name], target)
        whole = run_traced(partial(work, target), target)
        assert whole.exit_status == 0, f"{name} fails without being killed"
        points += [(name, point) for point in range(len(whole.calls))]
    random.Random(seed).shuffle(points)
    tallies = {name: Tally(f"killed: {name}") for name in WORKS}
    for index in range(num_kills):
        name, point = points[index % len(points)]
        tally = tallies[name]
        fresh_copy(templates[name], target)
        traced = run_traced(partial(WORKS[name], target), target, point)
        while not traced.is_killed:
            # A library took another path this time, with fewer calls.
            fresh_copy(templates[name], target)
            point = max(min(point, len(traced.calls)) - 1, 0)
            traced = run_traced(partial(WORKS[name], target), target, point)
        tally.faults += 1
        known = {} if name == "publish, first of all" else {number: number for number in SEALED}
        _check_killed(target, name, known, traced, tally)
        advance()
    for tally in tallies.values():
        tally.notes.append(f"points at system calls: {sum(name == tally.kind[8:] for name, _ in points)}")
    return list(tallies.values())


def _check_killed(target: Path, name: str, known: dict[int, int], traced: Traced, tally: Tally) -> None:
    store = LocalStore(target)
    if name == "collect garbage":
        known = {SEALED[-1]: SEALED[-1]}
        # The next collection finishes the killed one's work: nothing of older versions is left.
        collect_all(store, Later(_TWO_DAYS + 7200.0))
        _check_weights(store, target.parent, tally)
        handoffs = HandoffStore(store, leased=False)
        if handoffs.versions(ASSET, PARTITION) != list(known):
            tally.wrong("lost", f"{handoffs.versions(ASSET, PARTITION)} are left after a second collection")
        if len(store.children(f"handoff/{ASSET}/{PARTITION}/parts")) != 1:
            tally.wrong("lost", "parts are left after a second collection")
    if traced.said:
        known[int(traced.said)] = KILLED_WRITES
    check_everything(store, tally, known, CHECKER_WRITES)


def _check_weights(store: LocalStore, root: Path, tally: Tally) -> None:
    """Weights with a recipe exist; the others were deleted, and can be sealed again."""
    for name, attributes in _WEIGHTS.items():
        source = root / name
        sealed = seal_directory(store, source, attributes=attributes) if name == "base" else None
        digests = [one for one in store.children(WEIGHTS) if one != "parts"]
        found = sealed or next(found for one in digests if (found := find_directory(store, one)))
        body = (open_directory(store, found.digest) / "model.safetensors").read_bytes()
        if body != (source / "model.safetensors").read_bytes():
            tally.wrong("silent", f"weights {name} hold other bytes")
    if len(store.children(f"{WEIGHTS}/parts")) != len(_WEIGHTS):
        tally.wrong("lost", "parts of collected weights are left after a second collection")


def sealed_template(directory: Path) -> None:
    for number in SEALED:
        publish(LocalStore(directory), number, leased=False)
    for name, attributes in _WEIGHTS.items():
        source = directory.parent / name
        source.mkdir(exist_ok=True)
        (source / "model.safetensors").write_bytes(name.encode() * 20_000)
        seal_directory(LocalStore(directory), source, attributes=attributes)


def flip_bits(root: Path, num_flips: int, seed: int, advance: Callable[[], None]) -> Tally:
    directory, tally, chance = root / "flipped", Tally("bits flipped, read eagerly"), random.Random(seed)
    sealed_template(directory)
    store = LocalStore(directory)
    for (what, flip), _ in zip(damages(directory, chance), range(num_flips), strict=False):
        flip()
        # The file's version does not matter: all are read, and the others must be right.
        for version in SEALED:
            read_damaged(store, tally, version, what)
        tally.faults -= len(SEALED) - 1
        advance()
    return tally


def break_files(root: Path, num_files: int, seed: int, advance: Callable[[], None]) -> Tally:
    directory, tally, chance = root / "broken", Tally("files cut, emptied, missing, foreign"), random.Random(seed)
    sealed_template(directory)
    store = LocalStore(directory)
    for (what, version), _ in zip(broken_files(directory, chance), range(num_files), strict=False):
        read_damaged(store, tally, version, what)
        advance()
    return tally
