"""Faults in a store, and the checker that afterwards examines everything in it.

The checker knows every content that was ever written, by version if it was acknowledged. It counts three forbidden
results: `torn` (a visible version that cannot be read whole), `silent` (a read returned other rows than were sealed)
and `lost` (an acknowledged or seen version is gone, or the store accepts no more).
"""

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path

import pyarrow as pa

from headrace.clock import Clock, SystemClock
from headrace.errors import HandoffCorrupt, HandoffMissing
from headrace.handoff.collecting import collect, plan_collection
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore

ASSET, PARTITION = "documents", "shard-00"
NUM_ROWS = 600
PART_BYTES = 12_000


@dataclass
class Tally:
    """Counts for one kind of fault. `told`: faults that readers or writers got as one of our own errors."""

    kind: str
    faults: int = 0
    told: int = 0
    torn: int = 0
    silent: int = 0
    lost: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        for each in fields(self):
            if each.name != "kind":
                setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def wrong(self, what: str, note: str) -> None:
        setattr(self, what, getattr(self, what) + 1)
        self.notes.append(f"{what}: {note}")


def content(number: int) -> pa.Table:
    """A few kinds of columns; the same number gives the same rows."""
    chance = random.Random(number)
    rows = range(NUM_ROWS)
    return pa.table(
        {
            "number": pa.array([number * NUM_ROWS + row for row in rows]),
            "text": [f"document {number}/{row} " + "x" * chance.randrange(20) for row in rows],
            "score": pa.array([chance.random() if row % 7 else None for row in rows]),
            "tokens": pa.array(
                [[chance.randrange(50_000) for _ in range(row % 5)] for row in rows], pa.list_(pa.int32())
            ),
            "label": pa.array([f"label-{row % 3}" for row in rows]).dictionary_encode(),
        }
    )


def publish(objects: ObjectStore, number: int, *, content_number: int | None = None, leased: bool = True) -> Handoff:
    """Seals content `number`, in several parts; an attribute has the number."""
    table = content(number if content_number is None else content_number)
    return HandoffStore(objects, leased=leased).publish(
        ASSET,
        PARTITION,
        iter(table.to_batches(max_chunksize=150)),
        schema=table.schema,
        code_version="1",
        run_id="faults",
        attributes={"content": str(number)},
        batch_bytes=PART_BYTES // 2,
        part_bytes=PART_BYTES,
    )


def is_content(handoff: Handoff, number: int) -> bool:
    return handoff.table(plain=True).to_pylist() == _rows(number)


_known: dict[int, list] = {}


def _rows(number: int) -> list:
    if number not in _known:
        _known[number] = content(number).to_pylist()
    return _known[number]


def check_everything(objects: ObjectStore, tally: Tally, acknowledged: dict[int, int], next_content: int) -> None:
    """Opens every version, then seals one more, then opens every version again.

    Args:
        acknowledged: version to content: sealed before, or acknowledged by a killed process.
        next_content: an unused number.
    """
    handoffs = HandoffStore(objects, verification="eager", leased=False)
    seen = check_versions(handoffs, tally, acknowledged)
    try:
        after = publish(objects, next_content, leased=False)
    except Exception as error:  # noqa: BLE001 (whatever it is, the store takes no more)
        tally.wrong("lost", f"a later publish failed: {error!r}")
        return
    if after.version in seen:
        tally.wrong("lost", f"v{after.version} was given out twice")
    check_versions(handoffs, tally, {**seen, after.version: next_content})


def check_versions(handoffs: HandoffStore, tally: Tally, expected: dict[int, int]) -> dict[int, int]:
    seen: dict[int, int] = {}
    for version in handoffs.versions(ASSET, PARTITION):
        try:
            handoff = handoffs.open(ASSET, PARTITION, version)
            number = int(handoff.attributes["content"])
            if is_content(handoff, number):
                seen[version] = number
            else:
                tally.wrong("silent", f"v{version} has other rows than were sealed")
        except Exception as error:  # noqa: BLE001 (any failure to read what is visible)
            tally.wrong("torn", f"v{version}: {error!r}")
    for version, number in expected.items():
        if seen.get(version) != number:
            tally.wrong("lost", f"v{version} (content {number}) is not there")
    return seen


@dataclass(frozen=True)
class Later:
    """A clock ahead of the others: leases have run out and grace times are over."""

    seconds: float
    clock: Clock = field(default_factory=SystemClock)

    def now(self) -> float:
        return self.clock.now() + self.seconds


def collect_all(objects: ObjectStore, clock: Clock, *, keep_versions: int = 1) -> None:
    collect(objects, clock, plan_collection(objects, clock, keep_versions=keep_versions, grace_seconds=-1.0))


def damages(directory: Path, chance: random.Random) -> Iterator[tuple[str, Callable[[], None]]]:
    """Endless: damages one file of the store in one way, and undoes that before the next. Yields the file's kind."""
    files = sorted(path for path in (directory / "handoff").rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in files]
    while True:
        # By size, and half the time equally: otherwise manifests and small parts would hardly ever be hit.
        weights = sizes if chance.random() < 0.5 else None
        path = chance.choices(files, weights)[0]
        path.chmod(0o644)
        body = path.read_bytes()
        at, bit = chance.randrange(len(body)), chance.randrange(8)

        def flip(path: Path = path, body: bytes = body, at: int = at, bit: int = bit) -> None:
            with path.open("r+b") as file:
                file.seek(at)
                file.write(bytes([body[at] ^ 1 << bit]))

        yield f"{path.relative_to(directory)} byte {at} bit {bit}", flip
        with path.open("r+b") as file:
            file.seek(at)
            file.write(body[at : at + 1])


def read_damaged(objects: ObjectStore, tally: Tally, version: int, what: str) -> None:
    """Reads a damaged version eagerly: it must give the right rows or one of our errors."""
    tally.faults += 1
    try:
        handoff = HandoffStore(objects, verification="eager", leased=False).open(ASSET, PARTITION, version)
        if not is_content(handoff, version):
            tally.wrong("silent", what)
    except (HandoffCorrupt, HandoffMissing):
        tally.told += 1
    except Exception as error:  # noqa: BLE001 (told, but not what to do)
        tally.wrong("torn", f"{what}: {error!r}")


def broken_files(directory: Path, chance: random.Random) -> Iterator[tuple[str, int]]:
    """Endless: cuts one file of a version short, extends, empties, deletes it, or replaces it by another one's."""
    files = sorted(path for path in (directory / "handoff").rglob("*") if path.is_file())
    owners = {path: _version_of(path, directory) for path in files}
    while True:
        path, other = chance.sample(files, 2)
        body = path.read_bytes()
        broken: dict[str, bytes | None] = {
            "truncated": body[: chance.randrange(len(body))],
            "longer": body + b"\0" * 64,
            "empty": b"",
            "missing": None,
            "foreign": other.read_bytes(),
            "no Arrow file": bytes(len(body)),
        }
        kind = chance.choice(sorted(broken))
        path.unlink()
        if (new := broken[kind]) is not None:
            path.write_bytes(new)
        yield f"{path.relative_to(directory)} {kind}", owners[path]
        path.unlink(missing_ok=True)
        path.write_bytes(body)


def _version_of(path: Path, directory: Path) -> int:
    if path.name == "manifest.json":
        return int(path.parent.name[1:])
    handoffs = HandoffStore(LocalStore(directory), leased=False)
    for version in handoffs.versions(ASSET, PARTITION):
        if handoffs.open(ASSET, PARTITION, version).manifest.nonce == path.parent.name:
            return version
    raise AssertionError(f"{path} belongs to no version")


def fresh_copy(template: Path, target: Path) -> Path:
    with suppress(FileNotFoundError):
        shutil.rmtree(target)
    shutil.copytree(template, target)
    return target
