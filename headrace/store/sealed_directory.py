"""Directories of large files (weights, tokenizer, config) in the store, addressed by the digest of their content.

Each read computes the digest again from the manifest's list of files. A changed manifest, or another directory's, is
therefore never believed, neither about a file's content nor about which file is damaged. Sealing the same files again
repairs the manifest and the files: the new copies are written and checked before damaged ones are removed.

Garbage collection (`headrace.store.sealed_collecting`) deletes only the files. The manifest stays as their record, with
a note beside it. Files that are sealed again get a manifest with the next number, so no key that a collector decided on
ever returns. Sealing or opening a directory keeps it for a day, so there is time to name it.

Files are copied, never hard-linked: a training library that opens its output directory again truncates files in place,
and a hard link would carry that into the store. The price is the disk space of one copy.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from headrace.clock import Clock, SystemClock, iso
from headrace.errors import (
    FormatTooNew,
    HandoffCollected,
    HandoffCorrupt,
    HandoffMissing,
    InvalidInput,
    ObjectMissing,
    StoreUnavailable,
)
from headrace.keys import digest_text
from headrace.store.leases import hold_for
from headrace.store.objects import ObjectStore, check_key, new_nonce
from headrace.store.small_objects import Kind, create_object, read_object
from headrace.store.tombstones import NOTE
from headrace.store.verified import verified_once

WEIGHTS = "weights"
# The attribute of a directory that is of use beside another one alone: that one's digest.
NEEDS = "needs_weights"
_CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class SealedFile:
    name: str
    num_bytes: Annotated[int, Ge(0)]
    sha256: str


@dataclass(frozen=True, kw_only=True)
class _Manifest:
    kind: str
    digest: str
    key: str
    files: tuple[SealedFile, ...]
    attributes: Mapping[str, str] = field(default_factory=dict)
    format_version: int = 1

    def __post_init__(self) -> None:
        for path in (self.key, *(file.name for file in self.files)):
            check_key(path)


_REMEDY = "Seal the same files again (materialize the asset that makes them): that repairs it."
MANIFEST = Kind("Manifest", _Manifest, _REMEDY)


@dataclass(frozen=True, kw_only=True)
class SealedDirectory:
    """Files under one digest. `key` is the files' prefix in the object store, `uri` the same for other programs.

    `attributes` come from the first sealing of this digest; later sealings of the same files do not change them.
    """

    kind: str
    digest: str
    manifest_key: str
    key: str
    uri: str
    num_bytes: int
    files: tuple[SealedFile, ...]
    attributes: dict[str, str]

    @property
    def nonce(self) -> str:
        return self.key.rpartition("/")[2]


def seal_directory(
    store: ObjectStore,
    directory: Path,
    *,
    kind: str = WEIGHTS,
    attributes: Mapping[str, str] | None = None,
    clock: Clock | None = None,
) -> SealedDirectory:
    """Makes the files below `directory` immutable, with sub-directories, without names that begin with a dot.

    The digest covers names and contents only. If the files were sealed before, returns that sealing and repairs damaged
    files. The result is kept for a day, so that somebody can name it by then.

    Raises:
        InvalidInput: there is no file, or a file changes while it is being read.
    """
    files, clock = _scan(directory), clock or SystemClock()
    digest = _address(kind, files)
    while True:
        number, is_damaged = _newest_number(store, kind, digest), False
        try:
            sealed = _find(store, kind, digest, number)
        except FormatTooNew:
            raise
        except HandoffCorrupt:
            # Nobody knows what it lists: the files are written anew beside it.
            sealed, is_damaged = None, True
        if sealed and _is_held(store, sealed, clock):
            _repair(store, directory, sealed)
            return sealed
        if sealed:
            continue  # a collector has it: use the next number
        nonce = new_nonce()
        prefix = parts_prefix(kind, nonce)
        hold_for(store, nonce, clock)
        _copy_all(store, directory, files, prefix)
        key = manifest_key(kind, digest, number)
        if is_damaged:
            store.delete(key)
        fields = _Manifest(kind=kind, digest=digest, key=prefix, files=tuple(files), attributes=dict(attributes or {}))
        created = create_object(store, key, MANIFEST, fields, nonce=nonce)
        made = _checked(store, created.value, kind, digest, number)
        if not created.won:
            store.delete_prefix(prefix)
        # False if this process was stopped for a day: then a collector may have deleted what it wrote.
        if _is_held(store, made, clock):
            return made


def digest_of_directory(directory: Path, *, kind: str = WEIGHTS) -> str:
    """The digest under which `seal_directory` would seal these files. Reads them whole.

    Raises:
        InvalidInput: there is no file.
    """
    return _address(kind, _scan(directory))


def find_directory(store: ObjectStore, digest: str, *, kind: str = WEIGHTS) -> SealedDirectory | None:
    """The sealing under this digest; None: it was never sealed, or garbage collection deleted it.

    Raises:
        HandoffCorrupt: its manifest is damaged, or is not this directory's.
    """
    return _find(store, kind, digest, _newest_number(store, kind, digest))


def was_collected(store: ObjectStore, digest: str, *, kind: str = WEIGHTS) -> bool:
    """Whether garbage collection deleted it, and nobody sealed it again."""
    number = _newest_number(store, kind, digest)
    return number > 1 and not store.exists(manifest_key(kind, digest, number))


def open_directory(store: ObjectStore, digest: str, *, kind: str = WEIGHTS, clock: Clock | None = None) -> Path:
    """The directory with the plain file names. Each machine checks every byte once. Never write there.

    It is kept for a day: load it by then.

    Raises:
        HandoffMissing: nothing was sealed under this digest.
        HandoffCollected: garbage collection deleted it.
        HandoffCorrupt: a file is missing or differs from its digest, or the manifest is not this directory's.
    """
    sealed = find_directory(store, digest, kind=kind)
    if sealed is None and not was_collected(store, digest, kind=kind):
        raise HandoffMissing(
            f"No {kind} with digest {digest} are sealed in {store.uri(kind)}. Materialize the asset that makes them.",
            kind=kind,
            digest=digest,
        )
    if sealed is None or not _is_held(store, sealed, clock or SystemClock()):
        raise HandoffCollected(
            f"The {kind} {digest[:12]} were garbage-collected: neither a rollout nor a kept version nor an alias named "
            "them any more. Materialize the asset that makes them, or go on with a version set of newer ones.",
            kind=kind,
            digest=digest,
        )

    return _verified(store, sealed)


def directory_key(digest: str, kind: str = WEIGHTS) -> str:
    """The prefix of its manifests: name this key to keep the files."""
    return f"{kind}/{digest}"


def parts_prefix(kind: str, nonce: str) -> str:
    return f"{kind}/parts/{nonce}"


def manifest_key(kind: str, digest: str, number: int) -> str:
    """The manifest's key: of the first sealing, or of a later one after a collection."""
    return f"{directory_key(digest, kind)}/manifest{'' if number == 1 else f'-{number:06d}'}.json"


def collected_key(manifest: str) -> str:
    """The key of the note beside a manifest that says that its files were collected."""
    return f"{manifest.removesuffix('.json')}.collected.json"


def read_sealing(store: ObjectStore, kind: str, digest: str, number: int) -> SealedDirectory:
    """Raises:
    ObjectMissing: no sealing has this number.
    HandoffCorrupt: its manifest is damaged, or is not this directory's.
    """
    return _checked(store, read_object(store, manifest_key(kind, digest, number), MANIFEST), kind, digest, number)


def _newest_number(store: ObjectStore, kind: str, digest: str) -> int:
    """The number of the valid sealing, or of the next one."""
    number = 1
    while store.exists(collected_key(manifest_key(kind, digest, number))):
        number += 1
    return number


def _find(store: ObjectStore, kind: str, digest: str, number: int) -> SealedDirectory | None:
    try:
        return read_sealing(store, kind, digest, number)
    except ObjectMissing:
        return None


def _is_held(store: ObjectStore, sealed: SealedDirectory, clock: Clock) -> bool:
    """Whether the files stay for another day; if not, a collector has them, and its note exists."""
    note = collected_key(sealed.manifest_key)
    try:
        hold_for(store, sealed.nonce, clock)
    except HandoffCollected:
        # The collector may have been killed right after its decision: its note spares others the wait for the next one.
        create_object(store, note, NOTE, {"collected_at": iso(clock.now())})
        return False
    return not store.exists(note)


def _scan(directory: Path) -> list[SealedFile]:
    paths = sorted(
        path
        for path in directory.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(directory).parts)
    )
    if not paths:
        raise InvalidInput(f"Nothing to seal: {directory} is not a directory with files.")
    return [
        SealedFile(name=path.relative_to(directory).as_posix(), num_bytes=path.stat().st_size, sha256=_sha256(path))
        for path in paths
    ]


def _copy_all(store: ObjectStore, directory: Path, files: list[SealedFile], key: str) -> None:
    try:
        for file in files:
            _copy(store, directory, file, key)
    except BaseException:
        with suppress(StoreUnavailable):
            store.delete_prefix(key)
        raise


def _copy(store: ObjectStore, directory: Path, file: SealedFile, key: str) -> None:
    digest = hashlib.sha256()
    with store.write_part(f"{key}/{file.name}") as part, (directory / file.name).open("rb") as source:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            part.write(chunk)
        if digest.hexdigest() != file.sha256:
            raise InvalidInput(
                f"{directory / file.name} changed while it was being sealed. Seal it again when its writer is done."
            )


def _verified(store: ObjectStore, sealed: SealedDirectory) -> Path:
    """Raises: HandoffCorrupt: a file is missing, or differs from its digest."""

    def verify() -> None:
        for file in _damaged(store, sealed):
            raise HandoffCorrupt(
                f"Sealed {sealed.kind} {sealed.digest[:12]} do not match their manifest: "
                f"{store.uri(sealed.key)}/{file.name} is missing or is not sha256 {file.sha256[:12]}…. Seal the same "
                "files again: that repairs them.",
                key=f"{sealed.key}/{file.name}",
            )

    directory = store.local_directory(sealed.key)
    verified_once(store, f"{sealed.kind}-{sealed.digest}", [directory / file.name for file in sealed.files], verify)
    return directory


def _repair(store: ObjectStore, directory: Path, sealed: SealedDirectory) -> None:
    try:
        _verified(store, sealed)
    except HandoffCorrupt:
        staged = parts_prefix(sealed.kind, new_nonce())
        damaged = _damaged(store, sealed)
        # Copied and checked before anything is deleted: a source that fails costs nothing.
        _copy_all(store, directory, damaged, staged)
        for file in damaged:
            store.delete(f"{sealed.key}/{file.name}")
            _copy(store, store.local_directory(staged), file, sealed.key)
        store.delete_prefix(staged)


def _damaged(store: ObjectStore, sealed: SealedDirectory) -> list[SealedFile]:
    directory = store.local_directory(sealed.key)
    return [file for file in sealed.files if not _is_whole(directory / file.name, file)]


def _is_whole(path: Path, file: SealedFile) -> bool:
    # By digest only: the address confirms the digest, but not the size.
    return path.is_file() and _sha256(path) == file.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _checked(store: ObjectStore, manifest: _Manifest, kind: str, digest: str, number: int) -> SealedDirectory:
    found = _address(kind, manifest.files)
    key = manifest_key(kind, digest, number)
    if (manifest.kind, manifest.digest, found) != (kind, digest, digest):
        raise HandoffCorrupt(
            f"Manifest {store.uri(key)} is not the one of {kind} {digest[:12]}: it lists files of {found[:12]}. "
            f"{_REMEDY}",
            key=key,
        )
    return SealedDirectory(
        kind=kind,
        digest=digest,
        manifest_key=key,
        key=manifest.key,
        uri=store.uri(manifest.key),
        num_bytes=sum(file.num_bytes for file in manifest.files),
        files=manifest.files,
        attributes=dict(manifest.attributes),
    )


def _address(kind: str, files: Sequence[SealedFile]) -> str:
    return digest_text(kind, *(text for file in files for text in (file.name, file.sha256)))
