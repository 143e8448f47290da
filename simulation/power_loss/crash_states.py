"""The possible contents of a file system after a power failure, derived from a process's earlier operations.

A trace is a list of operations on directory entries and file bytes, with their fsyncs. At any point of it, earlier
fsyncs determine what must be on disk; the rest may be there or not, as the model allows:

| model | entries without fsync | bytes without fsync |
|---|---|---|
| journal (ext4, xfs) | a prefix, in order; any fsync covers everything before it | a part, all, none; zeros |
| weak (POSIX) | any; only their directory's own fsync covers them; a rename may leave both names | the same |

The approach is ALICE's (Pillai et al., OSDI 2014) and CrashMonkey's (Mohan et al., OSDI 2018). Not modelled: a
half-written sector (checksums find it, like a flipped bit), and hardware that lies about its fsync.
"""

import hashlib
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ROOT = 0
_BLOCK_BYTES = 4096

Model = Literal["journal", "weak"]
# What happens to a file's bytes since its last fsync.
Fate = Literal["none", "all", "prefix", "zeros", "holes", "last alone"]
# Decides whether one more unforced change is on disk, or what happens to one more file.
_IsKept = Callable[[], bool]
_FateOf = Callable[[], Fate]
_FATES: tuple[Fate, ...] = ("none", "all", "prefix", "zeros", "holes", "last alone")


@dataclass(frozen=True, slots=True)
class Named:
    """Entry `name` of `directory` becomes `inode`; None: it is removed.

    Attributes:
        moved_from: for a rename, the inode's previous directory and name.
    """

    directory: int
    name: str
    inode: int | None
    moved_from: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Written:
    inode: int
    offset: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Sized:
    """The file is cut, or filled with zeros, to `num_bytes`."""

    inode: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Synced:
    """An fsync or fdatasync of a file or directory has returned."""

    inode: int


@dataclass(frozen=True, slots=True)
class Said:
    """A statement of the process to the outside, which must be true from then on."""

    text: str


Operation = Named | Written | Sized | Synced | Said


@dataclass(kw_only=True)
class Trace:
    """`entries` and `contents`: what was on disk before the first operation."""

    directories: set[int] = field(default_factory=lambda: {ROOT})
    entries: dict[tuple[int, str], int] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)

    def said(self, point: int) -> list[str]:
        """All statements before the power failed at `point`."""
        return [one.text for one in self.operations[:point] if isinstance(one, Said)]


@dataclass(frozen=True, kw_only=True)
class CrashState:
    """One tree: path to bytes (None: a directory). Paths of one inode are in one tuple of `links`."""

    point: int
    model: Model
    said: tuple[str, ...]
    tree: Mapping[str, bytes | None]
    links: tuple[tuple[str, ...], ...]

    @property
    def digest(self) -> str:
        """Identifies what a reader of the disk could see, and what it was told before."""
        seen = hashlib.sha256(repr((self.said, self.links)).encode())
        for path, body in sorted(self.tree.items()):
            seen.update(f"\0{path}\0{'directory' if body is None else hashlib.sha256(body).hexdigest()}".encode())
        return seen.hexdigest()

    def build(self, directory: Path) -> None:
        """Writes the tree into an empty directory."""
        directory.mkdir()
        for path in sorted(path for path, body in self.tree.items() if body is None):
            (directory / path).mkdir()
        for first, *others in self.links:
            body = self.tree[first]
            assert body is not None
            (directory / first).write_bytes(body)
            for other in others:
                os.link(directory / first, directory / other)


def crash_states(trace: Trace, num_states: int, seed: int) -> Iterator[CrashState]:
    """Up to `num_states` different states: first the extreme ones of every point, then random ones.

    Points around fsyncs and statements come first, since promises begin there.
    """
    chance = random.Random(seed)
    points = _points(trace, chance)
    seen: set[str] = set()
    idle_rounds = 0
    for number in range(10_000):
        before = len(seen)
        for point in points:
            for state in _states_at(trace, point, number, chance):
                if (digest := state.digest) not in seen:
                    seen.add(digest)
                    yield state
                    if len(seen) == num_states:
                        return
        idle_rounds = idle_rounds + 1 if len(seen) == before else 0
        if idle_rounds > 20:
            return  # a short trace has no more states


def _points(trace: Trace, chance: random.Random) -> list[int]:
    """Numbers of operations before the power failure."""
    near, far = set(), set(range(len(trace.operations) + 1))
    for index, operation in enumerate(trace.operations):
        if isinstance(operation, (Synced, Said)):
            near |= {index, index + 1}
    first, rest = sorted(near), sorted(far - near)
    chance.shuffle(first)
    chance.shuffle(rest)
    return first + rest


def _states_at(trace: Trace, point: int, number: int, chance: random.Random) -> Iterator[CrashState]:
    """In round 0 the least and the most that may be there, and files without their bytes; then mixtures."""
    if number == 0:
        for model in ("journal", "weak"):
            yield _state(trace, point, model, lambda: False, lambda: "none")
        everything: tuple[Fate, ...] = ("none", "zeros", "all")
        for fate in everything:
            yield _state(trace, point, "journal", lambda: True, lambda fate=fate: fate)
        return
    share = chance.choice((0.2, 0.5, 0.8))
    model: Model = "weak" if number % 3 else "journal"
    yield _state(trace, point, model, lambda: chance.random() < share, lambda: chance.choice(_FATES), chance)


def _state(
    trace: Trace, point: int, model: Model, is_kept: _IsKept, fate: _FateOf, chance: random.Random | None = None
) -> CrashState:
    chance = chance or random.Random(point)
    done = trace.operations[:point]
    last_sync: dict[int, int] = {}
    for index, operation in enumerate(done):
        if isinstance(operation, Synced):
            last_sync[operation.inode] = index
    entries = dict(trace.entries)
    kept = _kept_entries(done, model, is_kept, last_sync)
    for index, operation in enumerate(done):
        if isinstance(operation, Named) and (how := kept.get(index)):
            _rename(entries, operation, keeps_old=how == "both names")
    contents = _contents(trace, done, last_sync, fate, chance)
    tree, links = _reachable(trace, entries, contents)
    return CrashState(point=point, model=model, said=tuple(trace.said(point)), tree=tree, links=links)


def _kept_entries(
    done: Sequence[Operation], model: Model, is_kept: _IsKept, last_sync: Mapping[int, int]
) -> dict[int, str]:
    """Indices of entry changes that are on disk, and how much of each is."""
    changes = [index for index, operation in enumerate(done) if isinstance(operation, Named)]
    if model == "journal":
        # All share one journal: any fsync writes everything before it.
        forced = max(last_sync.values(), default=-1)
        kept: dict[int, str] = {}
        for index in changes:
            if index > forced and not is_kept():
                break
            kept[index] = "whole"
        return kept
    kept = {}
    for index in changes:
        change = done[index]
        assert isinstance(change, Named)
        if index < last_sync.get(change.directory, -1):
            is_gone_forced = change.moved_from is None or index < last_sync.get(change.moved_from[0], -1)
            kept[index] = "whole" if is_gone_forced or is_kept() else "both names"
        elif is_kept():
            kept[index] = "whole"
    return kept


def _rename(entries: dict[tuple[int, str], int], change: Named, *, keeps_old: bool) -> None:
    if change.moved_from and not keeps_old:
        entries.pop(change.moved_from, None)
    if change.inode is None:
        entries.pop((change.directory, change.name), None)
    else:
        entries[change.directory, change.name] = change.inode


def _contents(
    trace: Trace, done: Sequence[Operation], last_sync: Mapping[int, int], fate: _FateOf, chance: random.Random
) -> dict[int, bytes]:
    synced: dict[int, bytearray] = defaultdict(bytearray)
    for inode, body in trace.contents.items():
        synced[inode] = bytearray(body)
    pending: dict[int, list[Written | Sized]] = defaultdict(list)
    for index, operation in enumerate(done):
        if isinstance(operation, (Written, Sized)):
            if index < last_sync.get(operation.inode, -1):
                _apply(synced[operation.inode], operation)
            else:
                pending[operation.inode].append(operation)
    for inode in sorted(pending):
        synced[inode] = _torn(synced[inode], pending[inode], fate(), chance)
    return {inode: bytes(body) for inode, body in synced.items()}


def _apply(body: bytearray, change: Written | Sized) -> None:
    if isinstance(change, Sized):
        del body[change.num_bytes :]
        body.extend(bytes(change.num_bytes - len(body)))
        return
    body.extend(bytes(max(0, change.offset - len(body))))
    body[change.offset : change.offset + len(change.body)] = change.body


def _torn(body: bytearray, changes: Sequence[Written | Sized], fate: Fate, chance: random.Random) -> bytearray:
    """A file whose `changes` were never fsynced."""
    if fate == "none":
        return body
    if fate == "prefix":
        changes = changes[: chance.randint(1, len(changes))]
        *whole, last = changes
        if isinstance(last, Written):
            last = Written(last.inode, last.offset, last.body[: chance.randint(0, len(last.body))])
        changes = [*whole, last]
    for change in changes:
        lost = fate == "zeros" or (fate == "last alone" and change is not changes[-1])
        if isinstance(change, Written) and (lost or fate == "holes"):
            # The new size reached the disk, but these blocks did not.
            blocks = bytearray(change.body)
            for start in range(0, len(blocks), _BLOCK_BYTES):
                if lost or chance.random() < 0.5:
                    num_bytes = len(blocks[start : start + _BLOCK_BYTES])
                    blocks[start : start + num_bytes] = bytes(num_bytes)
            change = Written(change.inode, change.offset, bytes(blocks))
        _apply(body, change)
    return body


def _reachable(
    trace: Trace, entries: Mapping[tuple[int, str], int], contents: Mapping[int, bytes]
) -> tuple[dict[str, bytes | None], tuple[tuple[str, ...], ...]]:
    below: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for (directory, name), inode in sorted(entries.items()):
        below[directory].append((name, inode))
    tree: dict[str, bytes | None] = {}
    names: dict[int, list[str]] = defaultdict(list)

    def visit(directory: int, prefix: str) -> None:
        for name, inode in below[directory]:
            path = f"{prefix}{name}"
            if inode in trace.directories:
                tree[path] = None
                visit(inode, f"{path}/")
            else:
                tree[path] = contents.get(inode, b"")
                names[inode].append(path)

    visit(ROOT, "")
    return tree, tuple(sorted(tuple(paths) for paths in names.values()))
