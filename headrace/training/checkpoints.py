"""Checkpoints that are whole or absent.

Files stream into the store under a nonce, digested as they pass and fsynced; the checkpoint exists from the moment its
manifest is created, with the digest of every file in it. On resume every byte is checked, newest checkpoint first, and
a damaged one is passed over for the one before: DeepSpeed by itself trusts what it finds and shows a torn file of one
rank as a broken connection on another.

Knows nothing of what the files hold. A checkpoint fits one world size: others are passed over too.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

from headrace.errors import ObjectMissing
from headrace.store.objects import ObjectStore, PartWriter, create_json
from headrace.training.attempts import check_fence, training_key

_CHUNK_BYTES = 4 * 1024 * 1024
# Reading is bound by the disk, digesting runs at over 10 GB/s a core; more threads only add seeks.
_VERIFY_THREADS = 4


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    name: str
    num_bytes: int
    xxh3_128: str


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """`step` optimizer steps are behind it. Its files lie below `prefix` in the store, under their names."""

    training_id: str
    step: int
    attempt: int
    world_size: int
    prefix: str
    files: tuple[CheckpointFile, ...]

    @property
    def key(self) -> str:
        return training_key(self.training_id, "checkpoints", f"{self.step:08d}-{self.attempt:06d}.json")

    def directory(self, store: ObjectStore) -> Path:
        """On this machine, with all of its files; a remote store's are fetched at the first call."""
        return store.local_directory(self.prefix)


class DigestingFile:
    """Counts and digests what is written through it to a part of the store."""

    def __init__(self, part: PartWriter) -> None:
        self._part = part
        self._digest = xxhash.xxh3_128()
        self.num_bytes = 0

    def write(self, body: bytes | bytearray | memoryview, /) -> int:
        self._digest.update(body)
        self.num_bytes += len(body) if isinstance(body, bytes | bytearray) else body.nbytes
        self._part.write(body)
        return len(body)

    def flush(self) -> None:
        self._part.flush()

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


@contextmanager
def write_file(
    store: ObjectStore, prefix: str, name: str, done: Callable[[CheckpointFile], None]
) -> Iterator[DigestingFile]:
    """Streams one file of a checkpoint; `done` hears of it when it is durable."""
    with store.write_part(f"{prefix}/{name}") as part:
        file = DigestingFile(part)
        yield file
    done(CheckpointFile(name=name, num_bytes=file.num_bytes, xxh3_128=file.hexdigest()))


def publish(store: ObjectStore, checkpoint: Checkpoint, *, kept: int) -> bool:
    """Makes the checkpoint exist, then drops all but the newest `kept` of this and earlier attempts.

    Returns:
        False if it was there already.

    Raises:
        AttemptSuperseded: a later attempt has begun; nothing is published.
    """
    check_fence(store, checkpoint.training_id, checkpoint.attempt)
    body = asdict(checkpoint) | {"files": [asdict(file) for file in checkpoint.files]}
    won = create_json(store, checkpoint.key, body).won
    own = [other for other in _published(store, checkpoint.training_id) if other.attempt <= checkpoint.attempt]
    for old in own[kept:]:
        _drop(store, old)
    return won


def newest_whole(
    store: ObjectStore,
    training_id: str,
    *,
    world_size: int,
    passed_over: Callable[[Checkpoint, str], None] = lambda checkpoint, reason: None,
) -> Checkpoint | None:
    """The newest checkpoint that every byte of is there; `passed_over` hears of newer ones and why."""
    for checkpoint in _published(store, training_id):
        if checkpoint.world_size != world_size:
            passed_over(checkpoint, f"it was made by {checkpoint.world_size} ranks, this gang has {world_size}")
        elif damaged := damaged_files(store, checkpoint):
            passed_over(checkpoint, f"{', '.join(damaged)} missing or damaged")
        else:
            return checkpoint
    return None


def damaged_files(store: ObjectStore, checkpoint: Checkpoint) -> list[str]:
    directory = checkpoint.directory(store)

    def is_whole(file: CheckpointFile) -> bool:
        path = directory / file.name
        try:
            return path.stat().st_size == file.num_bytes and _xxh3_128(path) == file.xxh3_128
        except OSError:
            return False

    with ThreadPoolExecutor(_VERIFY_THREADS) as threads:
        verdicts = list(threads.map(is_whole, checkpoint.files))
    return [file.name for file, whole in zip(checkpoint.files, verdicts, strict=True) if not whole]


def discard_all(store: ObjectStore, training_id: str) -> None:
    """Frees the space of a training that has its result: nothing will resume it."""
    for checkpoint in _published(store, training_id):
        store.delete(checkpoint.key)
    # Also what killed writers left behind without a manifest.
    store.delete_prefix(training_key(training_id, "parts"))


def _drop(store: ObjectStore, checkpoint: Checkpoint) -> None:
    # The manifest first: what is being taken apart must not be found.
    store.delete(checkpoint.key)
    store.delete_prefix(checkpoint.prefix)


def _published(store: ObjectStore, training_id: str) -> list[Checkpoint]:
    """Newest step first, and of one step the newest attempt."""
    found = []
    prefix = training_key(training_id, "checkpoints")
    for name in sorted(store.children(prefix), reverse=True):
        try:
            body = json.loads(store.read(f"{prefix}/{name}"))
        except ObjectMissing:  # dropped since it was listed
            continue
        del body["nonce"]
        body["files"] = tuple(CheckpointFile(**file) for file in body["files"])
        found.append(Checkpoint(**body))
    return found


def _xxh3_128(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
