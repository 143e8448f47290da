"""Directories of large files (weights, tokenizer, config) in the store, addressed by the digest of their content.

Each read computes the digest again from the manifest's list of files. A changed manifest, or another directory's, is
therefore never believed, neither about a file's content nor about which file is damaged. Sealing the same files again
repairs the manifest and the files: the new copies are written and checked before damaged ones are removed.

Garbage collection (`headrace.store.sealed_collecting`) deletes only the files. The manifest stays as their record, with
a note beside it. Files that are sealed again get a manifest with the next number, so no key that a collector decided on
ever returns. Sealing or opening a directory keeps it for a day, so there is time to name it.

A sealing holds whole files, or their tensors in segments that versions share: then an index lies where the files would
(`headrace.store.tensors`), and each node puts the files together (decision 37). Indexing makes the sealing with the
next number, beside the one with whole files; what is handed out, and its digest, is the same.

A user's files are copied, never hard-linked, at the price of their disk space (`headrace.store.sealed_files`). A large
file that a live sealing of this kind holds already is linked to that one: a text encoder that several pipelines have is
on the disk once, and in memory once for all who map it.
"""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from headrace.clock import Clock, SystemClock, iso
from headrace.errors import (
    FormatTooNew,
    HandoffCollected,
    HandoffCorrupt,
    HandoffMissing,
    ObjectMissing,
)
from headrace.keys import digest_text
from headrace.store.leases import hold_for
from headrace.store.objects import ObjectStore, check_key, new_nonce
from headrace.store.sealed_files import EqualKeys, SealedFile, copy, copy_all, is_whole, scan
from headrace.store.small_objects import Kind, create_object, read_object
from headrace.store.tensors.assembling import assembled
from headrace.store.tensors.index import INDEX, INDEX_NAME, TensorIndex
from headrace.store.tensors.packing import hold_segments
from headrace.store.tombstones import NOTE
from headrace.store.verified import verified_once

WEIGHTS = "weights"
# The attribute of a directory that is of use beside another one alone: that one's digest.
NEEDS = "needs_weights"
_MANIFEST_NAME = re.compile(r"manifest(?:-(\d{6,}))?\.json")


@dataclass(frozen=True, kw_only=True)
class _Manifest:
    kind: str
    digest: str
    key: str
    files: tuple[SealedFile, ...]
    attributes: Mapping[str, str] = field(default_factory=dict)
    format_version: int = 1
    holds: Literal["files", "tensors"] = "files"

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
    number: int
    # Below `key` is the index of their tensors, and the files are put together on each node.
    is_indexed: bool = False

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
    files, clock = scan(directory), clock or SystemClock()
    digest = _address(kind, files)
    while True:
        number, is_damaged, unusable = newest_number(store, kind, digest), False, None
        try:
            sealed = _find(store, kind, digest, number)
        except FormatTooNew:
            raise
        except HandoffCorrupt:
            # Nobody knows what it lists: the files are written anew beside it.
            sealed, is_damaged = None, True
        if sealed and is_held(store, sealed, clock):
            if _repair(store, directory, sealed):
                return sealed
            # Given up when the files are sealed beside it.
            unusable, number = sealed, next_number(store, kind, digest, number)
        elif sealed:
            continue  # a collector has it: use the next number
        nonce = new_nonce()
        prefix = parts_prefix(kind, nonce)
        hold_for(store, nonce, clock)
        copy_all(store, directory, files, prefix, equal=_equal_keys(store, kind))
        key = manifest_key(kind, digest, number)
        if is_damaged:
            store.delete(key)
        fields = _Manifest(kind=kind, digest=digest, key=prefix, files=tuple(files), attributes=dict(attributes or {}))
        created = create_object(store, key, MANIFEST, _body(fields), nonce=nonce)
        made = _checked(store, created.value, kind, digest, number)
        if not created.won:
            store.delete_prefix(prefix)
        if unusable:
            give_up_sealing(store, unusable, clock)
            continue
        # False if this process was stopped for a day: then a collector may have deleted what it wrote.
        if is_held(store, made, clock):
            return made


def digest_of_directory(directory: Path, *, kind: str = WEIGHTS) -> str:
    """The digest under which `seal_directory` would seal these files. Reads them whole.

    Raises:
        InvalidInput: there is no file.
    """
    return _address(kind, scan(directory))


def find_directory(store: ObjectStore, digest: str, *, kind: str = WEIGHTS) -> SealedDirectory | None:
    """The sealing under this digest; None: it was never sealed, or garbage collection deleted it.

    Raises:
        HandoffCorrupt: its manifest is damaged, or is not this directory's.
    """
    return _find(store, kind, digest, newest_number(store, kind, digest))


def was_collected(store: ObjectStore, digest: str, *, kind: str = WEIGHTS) -> bool:
    """Whether garbage collection deleted it, and nobody sealed it again."""
    number = newest_number(store, kind, digest)
    return number > 1 and not store.exists(manifest_key(kind, digest, number))


def open_directory(store: ObjectStore, digest: str, *, kind: str = WEIGHTS, clock: Clock | None = None) -> Path:
    """The directory with the plain file names. Each machine checks every byte once. Never write there.

    It is kept for a day: load it by then.

    Raises:
        HandoffMissing: nothing was sealed under this digest.
        HandoffCollected: garbage collection deleted it.
        HandoffCorrupt: a file is missing or differs from its digest, or the manifest is not this directory's.
    """
    clock = clock or SystemClock()
    # Whole files on this machine are opened where they lie; from elsewhere only what this node lacks is fetched.
    if store.checks_what_it_fetches and (directory := _open_indexed(store, digest, kind, clock)):
        return directory
    while (sealed := find_directory(store, digest, kind=kind)) is not None:
        # False: a collector has it, with a note, so the next look finds what follows it.
        if is_held(store, sealed, clock):
            return _opened(store, sealed)
    if not was_collected(store, digest, kind=kind):
        raise HandoffMissing(
            f"No {kind} with digest {digest} are sealed in {store.uri(kind)}. Materialize the asset that makes them.",
            kind=kind,
            digest=digest,
        )
    raise HandoffCollected(
        f"The {kind} {digest[:12]} were garbage-collected: neither a rollout nor a kept version nor an alias named "
        "them any more. Materialize the asset that makes them, or go on with a version set of newer ones.",
        kind=kind,
        digest=digest,
    )


def _open_indexed(store: ObjectStore, digest: str, kind: str, clock: Clock) -> Path | None:
    """By few requests, for each of which a remote store takes its time. None: not indexed, or damaged: the whole files
    may be there."""
    names = {*store.children(directory_key(digest, kind))}
    live = [
        int(match[1] or 1)
        for name in names
        if (match := _MANIFEST_NAME.fullmatch(name)) and collected_key(name) not in names
    ]
    try:
        sealed = _find(store, kind, digest, max(live)) if live else None
        if sealed is None or not sealed.is_indexed:
            return None
        with ThreadPoolExecutor(1, "headrace-index") as beside:
            index = beside.submit(read_index, store, sealed)
            return assembled(store, kind, index.result()) if is_held(store, sealed, clock) else None
    except HandoffCorrupt:
        # The whole files may still be there; if they are not, the same is found again, and told.
        return None


def find_index(store: ObjectStore, digest: str, *, kind: str = WEIGHTS) -> SealedDirectory | None:
    """The sealing under this digest that holds tensors in segments; None: it was not indexed, or is gone.

    Raises:
        HandoffCorrupt: a manifest is damaged, or is not this directory's.
    """
    sealed = find_directory(store, digest, kind=kind)
    return sealed if sealed is None or sealed.is_indexed else _index_beside(store, sealed)


def _index_beside(store: ObjectStore, sealed: SealedDirectory) -> SealedDirectory | None:
    """The sealing with the next number, if it holds the tensors of the same files."""
    if sealed.is_indexed:
        return None
    following = _find(store, sealed.kind, sealed.digest, next_number(store, sealed.kind, sealed.digest, sealed.number))
    return following if following and following.is_indexed else None


def read_index(store: ObjectStore, sealed: SealedDirectory) -> TensorIndex:
    """Raises: HandoffCorrupt: the index is missing, damaged, or not of these files."""
    key = index_key(sealed.key)
    try:
        index = read_object(store, key, INDEX)
    except ObjectMissing:
        raise HandoffCorrupt(f"Tensor index {store.uri(key)} is missing. {_REMEDY}", key=key) from None
    listed = [(file.name, file.num_bytes) for file in index.files]
    if index.weights_digest != sealed.digest or listed != [(file.name, file.num_bytes) for file in sealed.files]:
        raise HandoffCorrupt(
            f"Tensor index {store.uri(key)} is not the one of {sealed.digest[:12]}. {_REMEDY}", key=key
        )
    return index


def seal_index(store: ObjectStore, whole: SealedDirectory, index: TensorIndex, clock: Clock) -> SealedDirectory | None:
    """Makes the sealing that holds tensors, beside the one with whole files. Its segments must be held.

    Returns:
        None: another process made one, or a collector has what was written: look again.
    """
    nonce = new_nonce()
    prefix = parts_prefix(whole.kind, nonce)
    hold_for(store, nonce, clock)
    create_object(store, index_key(prefix), INDEX, index, nonce=nonce)
    number = next_number(store, whole.kind, whole.digest, newest_number(store, whole.kind, whole.digest))
    fields = _Manifest(
        kind=whole.kind,
        digest=whole.digest,
        key=prefix,
        files=whole.files,
        attributes=whole.attributes,
        holds="tensors",
    )
    key = manifest_key(whole.kind, whole.digest, number)
    created = create_object(store, key, MANIFEST, _body(fields), nonce=nonce)
    if not created.won:
        store.delete_prefix(prefix)
        return None
    made = _checked(store, created.value, whole.kind, whole.digest, number)
    # False if this process was stopped for a day: then a collector may have taken segments before the index named them.
    if is_held(store, made, clock) and hold_segments(store, whole.kind, index, clock):
        return made
    give_up_sealing(store, made, clock)
    return None


def give_up_sealing(store: ObjectStore, sealed: SealedDirectory, clock: Clock) -> None:
    """As if a collector had taken it: nobody finds it any more, and the next collection takes what it holds."""
    create_object(store, collected_key(sealed.manifest_key), NOTE, {"collected_at": iso(clock.now())})


def directory_key(digest: str, kind: str = WEIGHTS) -> str:
    """The prefix of its manifests: name this key to keep the files."""
    return f"{kind}/{digest}"


def parts_prefix(kind: str, nonce: str) -> str:
    return f"{kind}/parts/{nonce}"


def index_key(prefix: str) -> str:
    return f"{prefix}/{INDEX_NAME}"


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


def newest_number(store: ObjectStore, kind: str, digest: str) -> int:
    """The number of the valid sealing, or of the next one."""
    return next_number(store, kind, digest, 0)


def next_number(store: ObjectStore, kind: str, digest: str, after: int) -> int:
    """The lowest number above `after` that was not collected."""
    number = after + 1
    while store.exists(collected_key(manifest_key(kind, digest, number))):
        number += 1
    return number


def _find(store: ObjectStore, kind: str, digest: str, number: int) -> SealedDirectory | None:
    try:
        return read_sealing(store, kind, digest, number)
    except ObjectMissing:
        return None


def is_held(store: ObjectStore, sealed: SealedDirectory, clock: Clock) -> bool:
    """Whether the files stay for another day; if not, a collector has them, and its note exists."""
    note = collected_key(sealed.manifest_key)
    try:
        hold_for(store, sealed.nonce, clock)
    except HandoffCollected:
        # The collector may have been killed right after its decision: its note spares others the wait for the next one.
        create_object(store, note, NOTE, {"collected_at": iso(clock.now())})
        return False
    return not store.exists(note)


def _opened(store: ObjectStore, sealed: SealedDirectory) -> Path:
    """Raises: HandoffCorrupt: a file is missing, or differs from its digest."""
    if sealed.is_indexed:
        return assembled(store, sealed.kind, read_index(store, sealed))

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


def _repair(store: ObjectStore, directory: Path, sealed: SealedDirectory) -> bool:
    """False: the sealing cannot be repaired; seal the files under the next number."""
    try:
        _opened(store, sealed)
    except HandoffCorrupt:
        if sealed.is_indexed:
            # Segments are shared: what is wrong with one is for each version to find.
            return False
        staged = parts_prefix(sealed.kind, new_nonce())
        damaged = _damaged(store, sealed)
        # Copied and checked before anything is deleted: a source that fails costs nothing.
        copy_all(store, directory, damaged, staged)
        for file in damaged:
            store.delete(f"{sealed.key}/{file.name}")
            copy(store, store.local_directory(staged), file, sealed.key)
        store.delete_prefix(staged)
    return True


def _equal_keys(store: ObjectStore, kind: str) -> EqualKeys:
    """Looks at the manifests of all live sealings, once and only if there is a large file."""

    @cache
    def large() -> Mapping[str, Sequence[str]]:
        found: dict[str, list[str]] = {}
        for digest in store.children(kind):
            try:
                sealed = find_directory(store, digest, kind=kind)
            except HandoffCorrupt:
                continue  # nobody knows what it lists
            if sealed is None or sealed.is_indexed:
                continue
            for file in sealed.files:
                if file.is_large:
                    found.setdefault(file.sha256, []).append(f"{sealed.key}/{file.name}")
        return found

    def equal(file: SealedFile) -> Sequence[str]:
        # A store whose objects are no files of this machine would fetch them only to find that out.
        return large().get(file.sha256, ()) if file.is_large and not store.checks_what_it_fetches else ()

    return equal


def _damaged(store: ObjectStore, sealed: SealedDirectory) -> list[SealedFile]:
    directory = store.local_directory(sealed.key)
    return [file for file in sealed.files if not is_whole(directory / file.name, file)]


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
        number=number,
        is_indexed=manifest.holds == "tensors",
    )


def _body(manifest: _Manifest) -> dict[str, Any]:
    """Without `holds` where it is the rule: sealings of whole files are spelt as they always were."""
    body = asdict(manifest)
    if manifest.holds == "files":
        del body["holds"]
    return body


def _address(kind: str, files: Sequence[SealedFile]) -> str:
    return digest_text(kind, *(text for file in files for text in (file.name, file.sha256)))
