"""Directories of large files (weights, tokenizer, config) in the store, under the digest of what they hold.

The digest is the address, and it is computed anew from the manifest's list of files whenever a manifest is read: one
that was changed, or that is another directory's, is never believed, neither about what a file must hold nor about which
file is damaged. Sealing the same files again repairs both a manifest and files; a repair has written and checked what
it brings before it takes away what is damaged.

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

from headrace.errors import FormatTooNew, HandoffCorrupt, HandoffMissing, InvalidInput, ObjectMissing, StoreUnavailable
from headrace.keys import digest_text
from headrace.store.objects import ObjectStore, check_key, new_nonce
from headrace.store.small_objects import Kind, create_object, read_object
from headrace.store.verified import verified_once

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
    """Files under one digest. `key` is the object store's prefix of the files, `uri` the same for other programs.

    `attributes` are what the first sealing of this digest stated; a later sealing of the same files changes nothing.
    """

    kind: str
    digest: str
    key: str
    uri: str
    num_bytes: int
    files: tuple[SealedFile, ...]
    attributes: dict[str, str]


def seal_directory(
    store: ObjectStore, directory: Path, *, kind: str = "weights", attributes: Mapping[str, str] | None = None
) -> SealedDirectory:
    """Makes the files below `directory` (its sub-directories too, names that begin with a dot not) immutable.

    The digest is over names and contents alone. Sealed before: returns that, and repairs files that were damaged since.

    Raises:
        InvalidInput: there is no file, or a file changes while it is being read.
    """
    files = _scan(directory)
    digest = _address(kind, files)
    try:
        if sealed := find_directory(store, digest, kind=kind):
            _repair(store, directory, sealed)
            return sealed
        is_damaged = False
    except FormatTooNew:
        raise
    except HandoffCorrupt:
        # What it lists nobody knows any more: the files are written anew beside it.
        is_damaged = True
    nonce = new_nonce()
    key = f"{kind}/parts/{nonce}"
    _copy_all(store, directory, files, key)
    if is_damaged:
        store.delete(_manifest_key(kind, digest))
    manifest = _Manifest(kind=kind, digest=digest, key=key, files=tuple(files), attributes=dict(attributes or {}))
    created = create_object(store, _manifest_key(kind, digest), MANIFEST, manifest, nonce=nonce)
    if not created.won:
        store.delete_prefix(key)
    return _checked(store, created.value, digest, kind)


def find_directory(store: ObjectStore, digest: str, *, kind: str = "weights") -> SealedDirectory | None:
    """What was sealed under this digest; None: nothing.

    Raises:
        HandoffCorrupt: its manifest is damaged, or is not this directory's.
    """
    try:
        return _checked(store, read_object(store, _manifest_key(kind, digest), MANIFEST), digest, kind)
    except ObjectMissing:
        return None


def open_directory(store: ObjectStore, digest: str, *, kind: str = "weights") -> Path:
    """The directory with the plain file names, every byte checked once per machine. Never write there.

    Raises:
        HandoffMissing: nothing was sealed under this digest.
        HandoffCorrupt: a file is missing or differs from its digest, or the manifest is not this directory's.
    """
    sealed = find_directory(store, digest, kind=kind)
    if sealed is None:
        raise HandoffMissing(
            f"No {kind} with digest {digest} are sealed in {store.uri(kind)}. Materialize the asset that makes them."
        )

    def verify() -> None:
        for file in _damaged(store, sealed):
            raise HandoffCorrupt(
                f"Sealed {kind} {digest[:12]} do not match their manifest: {store.uri(sealed.key)}/{file.name} is "
                f"missing or is not sha256 {file.sha256[:12]}…. Seal the same files again: that repairs them.",
                key=f"{sealed.key}/{file.name}",
            )

    directory = store.local_directory(sealed.key)
    verified_once(store, f"{kind}-{digest}", [directory / file.name for file in sealed.files], verify)
    return directory


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


def _repair(store: ObjectStore, directory: Path, sealed: SealedDirectory) -> None:
    try:
        open_directory(store, sealed.digest, kind=sealed.kind)
    except HandoffCorrupt:
        staged = f"{sealed.kind}/parts/{new_nonce()}"
        damaged = _damaged(store, sealed)
        # Copied and checked before anything goes: a source that breaks off takes nothing away.
        _copy_all(store, directory, damaged, staged)
        for file in damaged:
            store.delete(f"{sealed.key}/{file.name}")
            _copy(store, store.local_directory(staged), file, sealed.key)
        store.delete_prefix(staged)


def _damaged(store: ObjectStore, sealed: SealedDirectory) -> list[SealedFile]:
    directory = store.local_directory(sealed.key)
    return [file for file in sealed.files if not _is_whole(directory / file.name, file)]


def _is_whole(path: Path, file: SealedFile) -> bool:
    # By the digest alone: the address vouches for it, and not for the size.
    return path.is_file() and _sha256(path) == file.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _checked(store: ObjectStore, manifest: _Manifest, digest: str, kind: str) -> SealedDirectory:
    found = _address(kind, manifest.files)
    if (manifest.kind, manifest.digest, found) != (kind, digest, digest):
        key = _manifest_key(kind, digest)
        raise HandoffCorrupt(
            f"Manifest {store.uri(key)} is not the one of {kind} {digest[:12]}: it lists files of {found[:12]}. "
            f"{_REMEDY}",
            key=key,
        )
    return SealedDirectory(
        kind=kind,
        digest=digest,
        key=manifest.key,
        uri=store.uri(manifest.key),
        num_bytes=sum(file.num_bytes for file in manifest.files),
        files=manifest.files,
        attributes=dict(manifest.attributes),
    )


def _address(kind: str, files: Sequence[SealedFile]) -> str:
    return digest_text(kind, *(text for file in files for text in (file.name, file.sha256)))


def _manifest_key(kind: str, digest: str) -> str:
    return f"{kind}/{digest}/manifest.json"
