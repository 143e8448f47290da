"""Files of a directory on their way into the store: listed with their digests, copied, and compared.

A large file that a live sealing has already gets a second name there (`ObjectStore.link`) instead of a second copy:
processes that map either hold it in memory once. Only files of the store are linked to each other, and never a user's:
a training library that opens its output directory again truncates files in place, and a link would carry that into the
store. The price: a disk that damages the file damages all that share it, which each finds by its digests and repairs by
a copy of its own; and a new name changes the file's times, so that its bytes are checked once more at the next opening.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from headrace.errors import InvalidInput, ObjectMissing, StoreUnavailable
from headrace.store.objects import ObjectStore

# A smaller one costs no more than the look for an equal one.
_LINKED_BYTES_MIN = 2**20
_CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class SealedFile:
    name: str
    num_bytes: Annotated[int, Ge(0)]
    sha256: str

    @property
    def is_large(self) -> bool:
        """It is worth a look for an equal one."""
        return self.num_bytes >= _LINKED_BYTES_MIN


# The keys of files that are said to be equal to one, any of which may be damaged or gone.
EqualKeys = Callable[[SealedFile], Sequence[str]]


def scan(directory: Path) -> list[SealedFile]:
    """All files below, without names that begin with a dot. Reads them whole. Raises: InvalidInput: there is none."""
    paths = sorted(
        path
        for path in directory.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(directory).parts)
    )
    if not paths:
        raise InvalidInput(f"Nothing to seal: {directory} is not a directory with files.")
    return [
        SealedFile(name=path.relative_to(directory).as_posix(), num_bytes=path.stat().st_size, sha256=sha256_of(path))
        for path in paths
    ]


def copy_all(
    store: ObjectStore, directory: Path, files: Sequence[SealedFile], key: str, *, equal: EqualKeys = lambda file: ()
) -> None:
    """Copies files to below `key`, or links them to those that are equal. All of them, or none stays.

    Raises:
        InvalidInput: a file has changed since it was listed.
    """
    try:
        for file in files:
            if not _is_linked(store, file, f"{key}/{file.name}", equal(file)):
                copy(store, directory, file, key)
    except BaseException:
        with suppress(StoreUnavailable):
            store.delete_prefix(key)
        raise


def copy(store: ObjectStore, directory: Path, file: SealedFile, key: str) -> None:
    """Raises: InvalidInput: the file has changed since it was listed."""
    digest = hashlib.sha256()
    with store.write_part(f"{key}/{file.name}") as part, (directory / file.name).open("rb") as source:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            part.write(chunk)
        if digest.hexdigest() != file.sha256:
            raise InvalidInput(
                f"{directory / file.name} changed while it was being sealed. Seal it again when its writer is done."
            )


def _is_linked(store: ObjectStore, file: SealedFile, key: str, candidates: Sequence[str]) -> bool:
    """What a collector takes meanwhile, or is not what it should be, is copied."""
    for existing in candidates:
        # The bytes themselves: a manifest says only what they were.
        with suppress(OSError, ObjectMissing):
            if is_whole(store.local_path(existing), file) and store.link(key, existing):
                return True
    return False


def is_whole(path: Path, file: SealedFile) -> bool:
    # By digest only: the address confirms the digest, but not the size.
    return path.is_file() and sha256_of(path) == file.sha256


def sha256_of(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
