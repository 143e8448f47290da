"""What a file system may hold after the power failed, rebuilt from what a process had asked of it by then.

A trace is a list of operations on directories' entries and on files' bytes, with the fsyncs among them. For a point in
it, every fsync before it says what must be there; of the rest, anything that the model allows may be there or not:

| model | entries that no fsync covers | bytes that no fsync covers |
|---|---|---|
| journal (ext4, xfs) | a prefix, in order; an fsync of anything covers all before it | a part, all, none; zeros |
| weak (POSIX) | any; only their directory's own fsync covers them; a rename may leave both names | the same |

The approach is ALICE's (Pillai et al., OSDI 2014) and CrashMonkey's (Mohan et al., OSDI 2018). Not modelled: a sector
that is half written (checksums find it, as they find a flipped bit), and hardware that lies about its fsync.
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
# What becomes of a file's bytes since its last fsync.
Fate = Literal["none", "all", "prefix", "zeros", "holes", "last alone"]
# Whether one more change that nothing forces to the disk is there; what becomes of one more file.
_IsKept = Callable[[], bool]
_FateOf = Callable[[], Fate]
_FATES: tuple[Fate, ...] = ("none", "all", "prefix", "zeros", "holes", "last alone")


@dataclass(frozen=True, slots=True)
class Named:
    """Entry `name` of `directory` is `inode` from now on; None: it is gone.

    Attributes:
        moved_from: directory and name that the inode had before: a rename.
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
    """fsync or fdatasync of a file or a directory has returned."""

    inode: int


@dataclass(frozen=True, slots=True)
class Said:
    """What the process told somebody outside: from now on that must be true."""

    text: str


Operation = Named | Written | Sized | Synced | Said


@dataclass(kw_only=True)
class Trace:
    """`entries` and `contents`: what was there, on disk, before the first operation."""

    directories: set[int] = field(default_factory=lambda: {ROOT})
    entries: dict[tuple[int, str], int] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)

    def said(self, point: int) -> list[str]:
        """Everything that was said before the power failed at `point`."""
        return [one.text for one in self.operations[:point] if isinstance(one, Said)]


@dataclass(frozen=True, kw_only=True)
class CrashState:
    """One tree: path to bytes (None: a directory). Paths of one inode stand in one tuple of `links`."""

    point: int
    model: Model
    said: tuple[str, ...]
    tree: Mapping[str, bytes | None]
    links: tuple[tuple[str, ...], ...]

    @property
    def digest(self) -> str:
        """Names what a reader of the disk could see, and what it was told before."""
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
    """Up to `num_states` different states: the extreme ones of every point first, then random ones.

    Points around fsyncs and around what was said come first: that is where promises begin.
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
            return  # a short trace has no more


def _points(trace: Trace, chance: random.Random) -> list[int]:
    """Numbers of operations that had happened when the power failed."""
    near, far = set(), set(range(len(trace.operations) + 1))
    for index, operation in enumerate(trace.operations):
        if isinstance(operation, (Synced, Said)):
            near |= {index, index + 1}
    first, rest = sorted(near), sorted(far - near)
    chance.shuffle(first)
    chance.shuffle(rest)
    return first + rest


def _states_at(trace: Trace, point: int, number: int, chance: random.Random) -> Iterator[CrashState]:
    """In round 0 the least and the most that may be there, and files without their bytes; then anything between."""
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
    """Indices of the changes of entries that are on disk, and how much of each is."""
    changes = [index for index, operation in enumerate(done) if isinstance(operation, Named)]
    if model == "journal":
        # One journal for all: an fsync of anything writes what was asked before it.
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
    """A file of which `changes` were never fsynced."""
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
            # The size came to the disk, these blocks did not.
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
