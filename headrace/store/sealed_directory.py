"""Directories of large files (weights, tokenizer, config) in the store, under the digest of what they hold.

Files are copied, never hard-linked: a training library that opens its output directory again truncates files in place,
and a hard link would carry that into the store. The price is the disk space of one copy.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from headrace.errors import HandoffCorrupt, HandoffMissing, InvalidInput, ObjectMissing, StoreUnavailable
from headrace.keys import digest_text
from headrace.store.objects import ObjectStore, create_json, new_nonce
from headrace.store.verified import verified_once

_CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class SealedFile:
    name: str
    num_bytes: int
    sha256: str


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
    digest = digest_text(kind, *(text for file in files for text in (file.name, file.sha256)))
    sealed = find_directory(store, digest, kind=kind)
    if sealed is None:
        nonce = new_nonce()
        key = f"{kind}/parts/{nonce}"
        _copy_all(store, directory, files, key)
        body = {
            "format_version": 1,
            "kind": kind,
            "digest": digest,
            "key": key,
            "files": [asdict(file) for file in files],
            "attributes": dict(attributes or {}),
        }
        created = create_json(store, f"{kind}/{digest}/manifest.json", body, nonce=nonce)
        if not created.won:
            store.delete_prefix(key)
        sealed = _from_body(store, created.body)
    else:
        _repair(store, directory, sealed)
    return sealed


def find_directory(store: ObjectStore, digest: str, *, kind: str = "weights") -> SealedDirectory | None:
    try:
        return _from_body(store, json.loads(store.read(f"{kind}/{digest}/manifest.json")))
    except ObjectMissing:
        return None


def open_directory(store: ObjectStore, digest: str, *, kind: str = "weights") -> Path:
    """The directory with the plain file names, every byte checked once per machine. Never write there.

    Raises:
        HandoffMissing: nothing was sealed under this digest.
        HandoffCorrupt: a file is missing or differs from its digest.
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
                f"missing or is not sha256 {file.sha256[:12]}…. Seal the same files again: that repairs them."
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
        for file in _damaged(store, sealed):
            store.delete(f"{sealed.key}/{file.name}")
            _copy(store, directory, file, sealed.key)


def _damaged(store: ObjectStore, sealed: SealedDirectory) -> list[SealedFile]:
    directory = store.local_directory(sealed.key)
    return [file for file in sealed.files if not _is_whole(directory / file.name, file)]


def _is_whole(path: Path, file: SealedFile) -> bool:
    return path.is_file() and path.stat().st_size == file.num_bytes and _sha256(path) == file.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _from_body(store: ObjectStore, body: dict) -> SealedDirectory:
    files = tuple(SealedFile(**file) for file in body["files"])
    return SealedDirectory(
        kind=body["kind"],
        digest=body["digest"],
        key=body["key"],
        uri=store.uri(body["key"]),
        num_bytes=sum(file.num_bytes for file in files),
        files=files,
        attributes=body["attributes"],
    )
