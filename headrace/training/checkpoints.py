"""Checkpoints that are whole or absent.

Files stream into the store under a nonce, digested on the way and fsynced; the checkpoint exists once its manifest is
created, with every file's digest. On resume every byte is checked, newest checkpoint first, and a damaged checkpoint or
manifest is skipped for the one before. DeepSpeed by itself trusts the files, and reports one rank's torn file as a
broken connection on another.

A checkpoint has the files of its own ranks; or, in the universal form, those that any number of ranks can read. Any of
them is resumed by any number of ranks, unless the caller says why not: the ranks convert it
(`headrace.training.universal`). Knows nothing of the files' content.
"""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal

import xxhash
from annotated_types import Ge

from headrace.clock import Clock, SystemClock
from headrace.errors import HandoffCollected, HandoffCorrupt, InvalidInput, ObjectMissing
from headrace.store.leases import hold_for
from headrace.store.objects import ObjectStore, PartWriter
from headrace.store.small_objects import Damaged, Kind, create_object, read_object
from headrace.training.attempts import check_fence, training_key

_CHUNK_BYTES = 4 * 1024 * 1024
# The disk limits reading, and digesting runs at over 10 GB/s a core; more threads only add seeks.
_VERIFY_THREADS = 4
MANIFESTS, PARTS = "checkpoints", "parts"
CURVE = "progress.jsonl"
"""A checkpoint's file with the loss curve up to its step."""
Form = Literal["ranks", "universal"]
OF_RANKS: Form = "ranks"
UNIVERSAL: Form = "universal"
_NAME = re.compile(r"\d{8,}-\d{6,}\.json")


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    name: str
    num_bytes: Annotated[int, Ge(0)]
    xxh3_128: str


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state after `step` optimizer steps. Its files lie below `prefix` in the store, under their names.

    `form`: `ranks`, the files that each of `world_size` ranks wrote; `universal`, what was made of them for any number.
    """

    training_id: str
    step: Annotated[int, Ge(1)]
    attempt: Annotated[int, Ge(0)]
    world_size: Annotated[int, Ge(1)]
    prefix: str
    files: tuple[CheckpointFile, ...]
    form: Form = OF_RANKS

    def __post_init__(self) -> None:
        # Dropping a checkpoint deletes its whole prefix, which must be its own.
        if re.fullmatch(rf"training/{re.escape(self.training_id)}/{PARTS}/[^/]+", self.prefix) is None:
            raise InvalidInput(f"the files of a checkpoint of {self.training_id} cannot lie below {self.prefix!r}")

    @property
    def key(self) -> str:
        return training_key(self.training_id, MANIFESTS, f"{self.step:08d}-{self.attempt:06d}.json")

    @property
    def nonce(self) -> str:
        return self.prefix.rpartition("/")[2]

    def is_made_by(self, world_size: int) -> bool:
        """Whether these are the files of so many ranks, random states included."""
        return self.form == OF_RANKS and self.world_size == world_size

    def is_read_by(self, world_size: int) -> bool:
        """Whether so many ranks read it as it is."""
        return self.form == UNIVERSAL or self.world_size == world_size

    def directory(self, store: ObjectStore) -> Path:
        """A local directory with all its files; the first call fetches those of a remote store."""
        return store.local_directory(self.prefix)


CHECKPOINT = Kind(
    noun="Checkpoint", shape=Checkpoint, remedy="Training passes it over for the one before; nothing needs to be done."
)


class DigestingFile:
    """Counts and digests what is written through it into a part of the store."""

    def __init__(self, part: PartWriter) -> None:
        self._part = part
        self._digest = xxhash.xxh3_128()
        self.num_bytes = 0
        self.failure: Exception | None = None

    def write(self, body: bytes | bytearray | memoryview, /) -> int:
        self._digest.update(body)
        self.num_bytes += len(body) if isinstance(body, bytes | bytearray) else body.nbytes
        try:
            self._part.write(body)
        except Exception as error:
            self.failure = error
            raise
        return len(body)

    def flush(self) -> None:
        self._part.flush()

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


@contextmanager
def write_file(
    store: ObjectStore, prefix: str, name: str, done: Callable[[CheckpointFile], None]
) -> Iterator[DigestingFile]:
    """Streams one file of a checkpoint; calls `done` when it is durable."""
    with store.write_part(f"{prefix}/{name}") as part:
        file = DigestingFile(part)
        try:
            yield file
        except Exception as error:
            if file.failure and file.failure is not error:
                # torch tells of a full disk that it could not write, and not why.
                raise file.failure from error
            raise
    done(CheckpointFile(name=name, num_bytes=file.num_bytes, xxh3_128=file.hexdigest()))


def publish(store: ObjectStore, checkpoint: Checkpoint) -> bool:
    """Creates the checkpoint; drops nothing.

    Returns:
        False if it existed already.

    Raises:
        AttemptSuperseded: a later attempt has begun; nothing is published.
    """
    check_fence(store, checkpoint.training_id, checkpoint.attempt)
    return create_object(store, checkpoint.key, CHECKPOINT, checkpoint).won


def drop_older(store: ObjectStore, written: Checkpoint, *, kept: int) -> None:
    """Drops what is no longer needed beside a checkpoint that this process wrote just now.

    For each number of ranks the newest `kept` whole ones that it reads as they are stay: damaged ones do not count, and
    other numbers of ranks keep theirs, which alone have their random states. The price: the kept ones beside `written`
    are read again, and a training that changes its number of ranks keeps twice as many until it ends.
    """
    whole: list[Checkpoint] = []
    others: list[Checkpoint] = []
    for other in _read_by(store, written.training_id, written.world_size):
        stays = len(whole) < kept and (other == written or is_whole(store, other))
        (whole if stays else others).append(other)
    if len(whole) == kept:
        for other in others:
            _drop(store, other)


def publish_beside(store: ObjectStore, checkpoint: Checkpoint) -> Checkpoint:
    """Creates another form of a checkpoint that stays; drops nothing.

    Raises:
        AttemptSuperseded: a later attempt has begun; nothing is published.
    """
    check_fence(store, checkpoint.training_id, checkpoint.attempt)
    return create_object(store, checkpoint.key, CHECKPOINT, checkpoint).value


def newest_whole(
    store: ObjectStore,
    training_id: str,
    *,
    world_size: int,
    fixed_because: str | None = None,
    passed_over: Callable[[int, str], None] = lambda step, reason: None,
    clock: Clock | None = None,
) -> Checkpoint | None:
    """The newest complete and undamaged checkpoint; `passed_over` is called for newer ones: their step, and why.

    Of one step's, first the one that so many ranks made, then one that they read, then others, which they must convert.
    It is kept for a day: resume from it by then.

    Args:
        fixed_because: why other numbers of ranks' checkpoints cannot be resumed; None: they can.
    """
    clock = clock or SystemClock()
    for checkpoint in _by_preference(store, training_id, world_size, passed_over):
        if fixed_because and not checkpoint.is_read_by(world_size):
            made = f"it was made by {checkpoint.world_size} ranks, this gang has {world_size}"
            passed_over(checkpoint.step, f"{made}, and {fixed_because}")
        elif not _is_held(store, checkpoint, clock):
            passed_over(checkpoint.step, "garbage collection took it")
        elif damaged := damaged_files(store, checkpoint):
            passed_over(checkpoint.step, f"{'; '.join(damaged)}")
        else:
            return checkpoint
    return None


def _by_preference(
    store: ObjectStore, training_id: str, world_size: int, passed_over: Callable[[int, str], None]
) -> Iterator[Checkpoint]:
    for step, names in groupby(_names(store, training_id), key=_step):
        found: list[Checkpoint] = []
        for name in names:
            try:
                found.append(_read(store, training_id, name))
            except ObjectMissing:  # dropped after it was listed
                continue
            except HandoffCorrupt as error:
                passed_over(step, str(error))
        # Stable: within each kind the newest attempt stays first.
        yield from sorted(found, key=lambda one: (not one.is_made_by(world_size), not one.is_read_by(world_size)))


def is_whole(store: ObjectStore, checkpoint: Checkpoint) -> bool:
    """Every file has its size, and its digest, unless the store guarantees that bytes stay as written."""
    sizes = {entry.key: entry.num_bytes for entry in store.entries(checkpoint.prefix)}
    if any(sizes.get(f"{checkpoint.prefix}/{file.name}") != file.num_bytes for file in checkpoint.files):
        return False
    return store.checks_what_it_fetches or not damaged_files(store, checkpoint)


def damaged_files(store: ObjectStore, checkpoint: Checkpoint) -> list[str]:
    """What is wrong with each damaged file, with its name, whose rank it is, and both digests."""
    directory = checkpoint.directory(store)

    def damage(file: CheckpointFile) -> str | None:
        path = directory / file.name
        try:
            num_bytes = path.stat().st_size
            if num_bytes != file.num_bytes:
                return f"has {num_bytes:,} bytes, the manifest says {file.num_bytes:,}"
            found = _xxh3_128(path)
        except OSError as error:
            return "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        return None if found == file.xxh3_128 else f"has digest {found[:12]}…, the manifest says {file.xxh3_128[:12]}…"

    with ThreadPoolExecutor(_VERIFY_THREADS) as threads:
        found = list(threads.map(damage, checkpoint.files))
    named = zip(checkpoint.files, found, strict=True)
    return [f"{_whose(file)}'s file {file.name} {what}" for file, what in named if what]


def drop_unnamed(store: ObjectStore, training_id: str) -> None:
    """Deletes the files that killed writers left. Only for the newest attempt, while it writes no checkpoint.

    Deletes nothing if a manifest is damaged: nobody knows which files it names.
    """
    damaged: list[HandoffCorrupt] = []
    named = {one.prefix for one in checkpoints_of(store, training_id, damaged=damaged.append)}
    parts = training_key(training_id, PARTS)
    for nonce in store.children(parts):
        if not damaged and f"{parts}/{nonce}" not in named:
            store.delete_prefix(f"{parts}/{nonce}")


def discard_all(store: ObjectStore, training_id: str) -> None:
    """Frees the space of a training that has its result, since nothing will resume it."""
    for key in store.list(training_key(training_id, MANIFESTS)):
        store.delete(key)
    # Includes what killed writers left without a manifest.
    store.delete_prefix(training_key(training_id, PARTS))


def checkpoints_of(store: ObjectStore, training_id: str, *, damaged: Damaged) -> Iterator[Checkpoint]:
    """All readable ones, newest first; `damaged` is called for the others."""
    for name in _names(store, training_id):
        try:
            yield _read(store, training_id, name)
        except ObjectMissing:
            continue
        except HandoffCorrupt as error:
            damaged(error)


def _is_held(store: ObjectStore, checkpoint: Checkpoint, clock: Clock) -> bool:
    try:
        hold_for(store, checkpoint.nonce, clock)
    except HandoffCollected:
        return False
    return True


def _drop(store: ObjectStore, checkpoint: Checkpoint) -> None:
    # The manifest first, so that nobody finds a checkpoint that is being deleted.
    store.delete(checkpoint.key)
    store.delete_prefix(checkpoint.prefix)


def _read_by(store: ObjectStore, training_id: str, world_size: int) -> Iterator[Checkpoint]:
    """Those that so many ranks read as they are, newest first. Damaged manifests are left alone: nobody knows whose."""
    for checkpoint in checkpoints_of(store, training_id, damaged=lambda _: None):
        if checkpoint.is_read_by(world_size):
            yield checkpoint


def _names(store: ObjectStore, training_id: str) -> list[str]:
    """The manifests' names: newest step first, and within a step the newest attempt. Ignores foreign names."""
    names = store.children(training_key(training_id, MANIFESTS))
    return sorted((name for name in names if _NAME.fullmatch(name)), reverse=True)


def _step(name: str) -> int:
    return int(name.partition("-")[0])


def _read(store: ObjectStore, training_id: str, name: str) -> Checkpoint:
    """Raises: ObjectMissing; HandoffCorrupt: the manifest is damaged, or another checkpoint's."""
    key = training_key(training_id, MANIFESTS, name)
    checkpoint = read_object(store, key, CHECKPOINT)
    if checkpoint.key != key:
        raise HandoffCorrupt(f"Checkpoint {store.uri(key)} is damaged: it says that it is {checkpoint.key}.", key=key)
    return checkpoint


def _whose(file: CheckpointFile) -> str:
    """The rank that wrote it, by DeepSpeed's names and ours."""
    rank = re.search(r"(?:zero_pp_rank_|(?:^|/)rank-)0*(\d+)", file.name)
    return f"rank {rank[1] if rank else 0}"


def _xxh3_128(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
