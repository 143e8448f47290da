"""Cuts files into runs, packs those that no sibling has into new segments, and reads everything back to compare it.

What a run shares with a sibling is found by its digest among the indexes that the caller gives. Before a segment of
another version is used, this process takes a lease on it: a collector that wants it is overruled, or it is packed anew.
A segment stays as long as any index names it, for one of its tensors too: the price is that a version which lives on
may keep more than its own bytes.
"""

import hashlib
import mmap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from blake3 import blake3

from headrace.clock import Clock
from headrace.errors import HandoffCollected, HandoffCorrupt, ObjectMissing
from headrace.store.leases import hold_for
from headrace.store.objects import ObjectStore, new_nonce
from headrace.store.tensors.index import (
    Cut,
    IndexedFile,
    Run,
    SharedSegment,
    TensorIndex,
    leaf_bytes,
    segment_key,
)
from headrace.store.tensors.safetensors_header import SUFFIX, tensors_of

SEGMENT_BYTES = 64 * 1024 * 1024
_READ_BYTES = 8 * 1024 * 1024
# Ranges that are asked for at once when everything is read back: 32 MiB of memory.
_NUM_READS = 4


@dataclass(frozen=True)
class Place:
    """Where a run lies already: in which segment, at which byte."""

    segment: SharedSegment
    at: int


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What an index is made of: the files under `weights_digest`, cut."""

    weights_digest: str
    files: Sequence[IndexedFile]
    cuts: Sequence[Cut]


def places_of(indexes: Iterable[TensorIndex]) -> dict[str, Place]:
    """Run's digest → where some index has it; an earlier index's place comes first."""
    found: dict[str, Place] = {}
    for index in indexes:
        for run in index.runs:
            found.setdefault(run.digest, Place(index.segments[run.segment], run.at))
    return found


def cut_files(directory: Path, files: Sequence[IndexedFile]) -> list[Cut]:
    """The files' bytes, each once, in order. Reads them whole."""
    return [cut for number, file in enumerate(files) for cut in _cut_file(directory / file.name, number, file)]


def pack(
    store: ObjectStore, kind: str, clock: Clock, directory: Path, wanted: Wanted, places: Mapping[str, Place]
) -> TensorIndex:
    """Writes what `places` lacks, and returns the index. All its segments are held for a day.

    Raises:
        HandoffCollected: this process was stopped for so long that a collector took what it wrote.
    """
    found: dict[str, Place] = {}
    is_held: dict[str, bool] = {}
    for cut in wanted.cuts:
        if place := places.get(cut.digest):
            nonce = place.segment.nonce
            if nonce not in is_held:
                is_held[nonce] = _is_held(store, kind, nonce, clock)
            if is_held[nonce]:
                found[cut.digest] = place
    new = {cut.digest: cut for cut in sorted(wanted.cuts, key=lambda cut: cut.place) if cut.digest not in found}
    for group in _groups(new.values()):
        found |= _write(store, kind, clock, directory, wanted.files, group)
    segments: dict[str, SharedSegment] = {}
    numbers: dict[str, int] = {}
    runs: list[Run] = []
    for cut in wanted.cuts:
        place = found[cut.digest]
        segments[place.segment.nonce] = place.segment
        number = numbers.setdefault(place.segment.nonce, len(numbers))
        runs.append(Run(**asdict(cut), segment=number, at=place.at))
    return TensorIndex(
        weights_digest=wanted.weights_digest,
        files=tuple(wanted.files),
        segments=tuple(segments[nonce] for nonce in numbers),
        runs=tuple(runs),
    )


def hold_segments(store: ObjectStore, kind: str, index: TensorIndex, clock: Clock) -> bool:
    """Keeps all of them for another day. False: a collector has one, or one is gone."""
    return all(_is_held(store, kind, one.nonce, clock) for one in index.segments)


def damaged_segments(store: ObjectStore, kind: str, index: TensorIndex, sha256: Mapping[str, str]) -> set[str]:
    """Puts every file together from the store, byte by byte, and compares it with its sha256.

    Returns:
        Nonces of segments with wrong or missing bytes; none: every file is whole.

    Raises:
        HandoffCorrupt: the runs are right and a file is not: the files changed while they were cut.
    """
    damaged: set[str] = set()
    for number, file in enumerate(index.files):
        digest = hashlib.sha256()
        for run in (run for run in index.runs if run.file == number):
            nonce = index.segments[run.segment].nonce
            own = blake3()
            with suppress(ObjectMissing, HandoffCorrupt):
                for body in _bodies(store, segment_key(kind, nonce), run):
                    digest.update(body)
                    own.update(body)
            if own.hexdigest() != run.digest:
                damaged.add(nonce)
        if not damaged and digest.hexdigest() != sha256[file.name]:
            raise HandoffCorrupt(
                f"{file.name} of {kind} {index.weights_digest[:12]} cannot be put together from tensors: its sha256 is "
                f"{digest.hexdigest()[:12]}…, it must be {sha256[file.name][:12]}…. Index it again.",
                object=file.name,
            )
    return damaged


def _is_held(store: ObjectStore, kind: str, nonce: str, clock: Clock) -> bool:
    try:
        hold_for(store, nonce, clock)
    except HandoffCollected:
        return False
    return store.exists(segment_key(kind, nonce))


def _bodies(store: ObjectStore, key: str, run: Run) -> Iterator[memoryview]:
    ranges = [
        (run.at + start, min(_READ_BYTES, run.num_bytes - start)) for start in range(0, run.num_bytes, _READ_BYTES)
    ]
    for start in range(0, len(ranges), _NUM_READS):
        yield from store.read_ranges(key, ranges[start : start + _NUM_READS])


def _cut_file(path: Path, number: int, file: IndexedFile) -> Iterator[Cut]:
    if not file.num_bytes:
        return
    tensors = tensors_of(path) if file.name.endswith(SUFFIX) else []
    # Of a pipeline, whose components each name their tensors.
    folder = file.name.rpartition("/")[0]
    body, position = _mapped(path), 0
    for one in tensors:
        if one.offset > position:
            yield _cut(body, number, position, one.offset - position)
        cut = _cut(body, number, one.offset, one.num_bytes)
        name = f"{folder}/{one.name}" if folder else one.name
        yield replace(cut, tensor=name, dtype=one.dtype, shape=one.shape)
        position = one.offset + one.num_bytes
    for start in range(position, file.num_bytes, SEGMENT_BYTES):
        yield _cut(body, number, start, min(SEGMENT_BYTES, file.num_bytes - start))


def _cut(body: memoryview, number: int, offset: int, num_bytes: int) -> Cut:
    view = body[offset : offset + num_bytes]
    digest = blake3(view).hexdigest()
    each = leaf_bytes(num_bytes)
    leaves = [blake3(view[start : start + each]).hexdigest() for start in range(0, num_bytes, each)]
    return Cut(
        file=number,
        offset=offset,
        num_bytes=num_bytes,
        digest=digest,
        leaves="".join(leaves) if len(leaves) > 1 else "",
    )


def _groups(cuts: Collection[Cut]) -> Iterator[list[Cut]]:
    """Of about a segment each; a longer tensor is a segment of its own."""
    group: list[Cut] = []
    num_bytes = 0
    for cut in cuts:
        if group and num_bytes + cut.num_bytes > SEGMENT_BYTES:
            yield group
            group, num_bytes = [], 0
        group.append(cut)
        num_bytes += cut.num_bytes
    if group:
        yield group


def _write(
    store: ObjectStore, kind: str, clock: Clock, directory: Path, files: Sequence[IndexedFile], group: Sequence[Cut]
) -> dict[str, Place]:
    segment = SharedSegment(nonce=new_nonce(), num_bytes=sum(cut.num_bytes for cut in group))
    hold_for(store, segment.nonce, clock)
    places: dict[str, Place] = {}
    with store.write_part(segment_key(kind, segment.nonce)) as part:
        for cut in group:
            places[cut.digest] = Place(segment, part.num_bytes)
            body, end = _mapped(directory / files[cut.file].name), cut.offset + cut.num_bytes
            for start in range(cut.offset, end, _READ_BYTES):
                part.write(body[start : min(start + _READ_BYTES, end)])
    return places


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
