"""Makes the tensor index of sealed weights: `headrace model index`, and registration in a remote store.

The whole files stay until a garbage collection, which takes them once the index is there; it is there only after every
file was put together from the store's segments and compared with its sha256. An index that a kill interrupts leaves
segments that nobody names, for a collection to take.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from headrace.clock import Clock, SystemClock
from headrace.errors import HandoffCollected, HandoffCorrupt, HandoffMissing, ObjectMissing
from headrace.store.objects import ObjectStore
from headrace.store.sealed_directory import (
    WEIGHTS,
    SealedDirectory,
    find_directory,
    find_index,
    open_directory,
    read_index,
    seal_index,
)
from headrace.store.small_objects import Damaged, PassedOver
from headrace.store.tensors.index import IndexedFile, TensorIndex
from headrace.store.tensors.packing import Wanted, cut_files, damaged_segments, pack, places_of

# A damaged segment of a sibling is packed anew, and no second one comes from there.
_TRIES = 3


def index_directory(
    store: ObjectStore, digest: str, *, kind: str = WEIGHTS, clock: Clock | None = None
) -> SealedDirectory:
    """Indexes sealed files, unless they are; reads them twice, and writes what no other version has.

    Raises:
        HandoffMissing, HandoffCollected: nothing is sealed under this digest, or not any more.
        HandoffCorrupt: the files are damaged, or cannot be put together.
    """
    clock = clock or SystemClock()
    without: set[str] = set()
    for _ in range(_TRIES):
        if found := find_index(store, digest, kind=kind):
            return found
        directory = open_directory(store, digest, kind=kind, clock=clock)
        whole = find_directory(store, digest, kind=kind)
        if whole is None or whole.is_indexed:
            continue
        files = [IndexedFile(name=file.name, num_bytes=file.num_bytes) for file in whole.files]
        wanted = Wanted(weights_digest=digest, files=files, cuts=cut_files(directory, files))
        others = [index for _, index in indexes(store, kind=kind, damaged=PassedOver())]
        places = {key: place for key, place in places_of(others).items() if place.segment.nonce not in without}
        index = pack(store, kind, clock, directory, wanted, places)
        if damaged := damaged_segments(store, kind, index, {file.name: file.sha256 for file in whole.files}):
            without |= damaged
        elif made := seal_index(store, whole, index, clock):
            return made
    raise HandoffCorrupt(
        f"{kind} {digest[:12]} could not be indexed in {_TRIES} tries: segments were damaged or collected meanwhile. "
        "Index them again; their whole files are as before.",
        object=digest,
    )


def indexes(
    store: ObjectStore, *, kind: str = WEIGHTS, damaged: Damaged
) -> Iterator[tuple[SealedDirectory, TensorIndex]]:
    """Every index that is there. `damaged` is called for each that cannot be read."""
    for digest in store.children(kind):
        if digest in ("parts", "segments"):
            continue
        try:
            sealed = find_index(store, digest, kind=kind)
            if sealed:
                yield sealed, read_index(store, sealed)
        except HandoffCorrupt as error:
            damaged(error)
        except (ObjectMissing, HandoffMissing, HandoffCollected):
            continue


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What segments save: bytes of the files handed out, of them in segments that no earlier index names, and whether
    the whole files are there too."""

    num_bytes: int
    own_bytes: int
    has_whole_files: bool


def saved(store: ObjectStore, *, kind: str = WEIGHTS, damaged: Damaged) -> dict[str, Saved]:
    """By digest of each indexed directory, in the order of their digests."""
    found: dict[str, Saved] = {}
    seen: set[str] = set()
    for sealed, index in indexes(store, kind=kind, damaged=damaged):
        runs = {run.digest: run.num_bytes for run in index.runs}
        whole = find_directory(store, sealed.digest, kind=kind)
        found[sealed.digest] = Saved(
            num_bytes=index.num_bytes,
            own_bytes=sum(num_bytes for digest, num_bytes in runs.items() if digest not in seen),
            has_whole_files=bool(whole and not whole.is_indexed),
        )
        seen |= runs.keys()
    return found
