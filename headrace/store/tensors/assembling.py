"""Puts weights together on this node, from what it has, its neighbours have, and the store has, in this order.

The files lie in one entry of the node's cache, sparse until they are whole. One process fills an entry at a time,
under a lock that the kernel releases when it is killed; the others wait, or take over where it stopped: each leaf has
its mark (`headrace.store.sparse_file`). Bytes of siblings on this node are copied in the kernel, which shares them if
the file system can. Every leaf is compared with its digest when it comes in, wherever it comes from, and every whole
file with its sha256: so nobody is trusted, the index neither.

What goes first is in layer order, so that a model can start before its last layer is there.
"""

import fcntl
import functools
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from blake3 import blake3

from headrace.errors import HandoffCorrupt, ObjectMissing
from headrace.store.cached_segments import run_all
from headrace.store.node_cache import NodeCache, boot_identity
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import encode_object
from headrace.store.sparse_file import SparseFile
from headrace.store.tensors.file_digests import FileDigests, sha256_of
from headrace.store.tensors.index import INDEX, Leaf, TensorIndex, segment_key
from headrace.store.tensors.sources import Copied, Requested, copy_range, joined, read_verified, siblings_of
from headrace.store.verified import verified_once

ENTRY = "tensors"
# Requests under way at once, each of 8 MiB at most: what is fetched uses about 100 MiB of memory.
_NUM_REQUESTS = 12
_NUM_COPIES = 2
_WAIT_SECONDS = 0.05

# Asks neighbours for bytes of a file: (its number, first byte, length); None: nobody has them.
AskNeighbours = Callable[[int, int, int], "bytes | bytearray | memoryview | None"]


def assembled(store: ObjectStore, kind: str, index: TensorIndex, sha256: Mapping[str, str]) -> Path:
    """The directory with all files; each is compared with its sha256 once on this node.

    Args: sha256: of each file, by name.

    Raises:
        HandoffCorrupt: the store's bytes are not those of the index, or the index is not of these files.
    """
    mark, names = f"{kind}-{index.weights_digest}-assembled", [file.name for file in index.files]
    with Assembly(store, kind, index) as assembly:
        paths = [assembly.directory / name for name in names]
        results: dict[str, str] = {}

        def verify() -> None:
            for name, path in zip(names, paths, strict=True):
                if (results.get(name) or sha256_of(path)) != sha256[name]:
                    raise HandoffCorrupt(
                        f"{path} is put together as its tensor index says, and is not sha256 {sha256[name][:12]}…. "
                        "Seal the same files again: that repairs it.",
                        object=name,
                    )

        if assembly.is_complete():
            with suppress(HandoffCorrupt):  # changed since
                verified_once(store, mark, paths, verify)
                return assembly.directory
            assembly.doubt()
        for is_last in (False, True):
            with FileDigests(index, assembly.directory) as following:
                assembly.fetch(leaves_of(index), placed=following.placed)
                following.wait()
            results = following.results
            assembly.complete()
            try:
                verified_once(store, mark, paths, verify)
                break
            except HandoffCorrupt:
                # Bytes that were marked have changed since; or the index is wrong, as the second look tells.
                assembly.doubt()
                if is_last:
                    raise
        return assembly.directory


def leaves_of(index: TensorIndex) -> list[Leaf]:
    return [leaf for run in index.in_layer_order for leaf in run.pieces()]


class Assembly:
    """One node's files of one index. Use it as a context; the entry is kept as long as the process lives."""

    def __init__(
        self, store: ObjectStore, kind: str, index: TensorIndex, *, neighbours: AskNeighbours | None = None
    ) -> None:
        self.index = index
        self._store = store
        self._kind = kind
        self._cache = cache_of(store)
        self._ask = neighbours
        self._open = ExitStack()
        self._files: list[SparseFile] = []

    def __enter__(self) -> "Assembly":
        name = f"{ENTRY}-{self._kind}-{self.index.weights_digest}"
        self._entry = self._open.enter_context(self._cache.entry(name, for_life=True))
        self.directory = self._entry / "files"
        try:
            if not self.is_complete():
                self._open_files()
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def is_complete(self) -> bool:
        with suppress(OSError, ValueError):
            return json.loads((self._entry / "complete").read_bytes()) == self._stamp
        return False

    def complete(self) -> None:
        """Every leaf was fetched."""
        for file in self.index.files:
            (self.directory / file.name).chmod(0o444)
        self._write("complete", json.dumps(self._stamp).encode())

    def doubt(self) -> None:
        """The files are not what they were: compares every leaf with its digest again."""
        (self._entry / "complete").unlink(missing_ok=True)
        if not self._files:
            self._open_files()
        with self._turn(waits=True):
            for file in self._files:
                file.settle_doubts(always=True)

    def fetch(
        self, leaves: Sequence[Leaf], *, placed: Callable[[Collection[Leaf]], object] = lambda leaves: None
    ) -> None:
        """Blocks until all of them are there; begins with the first.

        Args: placed: called with leaves that are there, by several threads.
        """
        while True:
            with self._turn() as is_ours:
                if is_ours:
                    for file in self._files:
                        file.settle_doubts()
                missing = self._missing(leaves)
                placed({*leaves} - missing)
                if is_ours:
                    self._cache.make_room(sum(leaf.num_bytes for leaf in missing))
                    self._fetch([leaf for leaf in leaves if leaf in missing], placed)
            if is_ours or not missing:
                return
            time.sleep(_WAIT_SECONDS)

    @property
    def _stamp(self) -> list[str]:
        return [boot_identity(), self.index.weights_digest]

    def _open_files(self) -> None:
        for number, file in enumerate(self.index.files):
            path, marks = self.directory / file.name, self._entry / "marks" / str(number)
            for parent in (path.parent, marks.parent):
                parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                path.chmod(0o644)
            opened = SparseFile(path, marks, file.num_bytes, hasher=blake3)
            self._open.callback(opened.close)
            self._files.append(opened)
        # For siblings, which look there for what they share with this one.
        if not (self._entry / "index.json").exists():
            self._write("index.json", encode_object("index.json", INDEX, self.index, nonce=""))

    def _missing(self, leaves: Collection[Leaf]) -> set[Leaf]:
        by_file: dict[int, list[Leaf]] = {}
        for leaf in leaves:
            by_file.setdefault(leaf.file, []).append(leaf)
        return {leaf for number, own in by_file.items() for leaf in self._files[number].missing(own)}

    def _fetch(self, leaves: Sequence[Leaf], placed: Callable[[Collection[Leaf]], object]) -> None:
        here = self._places_here(leaves)
        copies = [*joined([leaf for leaf in leaves if leaf in here], here)]
        with ThreadPoolExecutor(_NUM_COPIES, "headrace-copy") as copying:
            copied = [copying.submit(self._copy, one, placed) for one in copies]
            wanted = [leaf for leaf in leaves if leaf not in here]
            self._request(wanted, placed)
            self._request(self._not_copied(copied), placed)

    def _places_here(self, leaves: Sequence[Leaf]) -> dict[Leaf, tuple[Path, int]]:
        """Leaf → a file of this node with its bytes, and where: of a sibling, or of a store on this machine."""
        own = self._entry
        here = siblings_of(self._cache, own, leaves)
        if not self._store.checks_what_it_fetches:
            paths = [self._store.local_path(self._key(number)) for number in range(len(self.index.segments))]
            here |= {leaf: (paths[leaf.segment], leaf.at) for leaf in leaves if leaf not in here}
        return here

    def _copy(self, copied: Copied, placed: Callable[[Collection[Leaf]], object]) -> list[Leaf]:
        """Returns the leaves that are not what they should be."""
        file = self._files[copied.leaves[0].file]
        with suppress(OSError):  # evicted or collected meanwhile
            copy_range(copied, file)
        whole = [leaf for leaf in copied.leaves if file.digest(leaf) == leaf.digest]
        file.mark(whole)
        placed(whole)
        return [leaf for leaf in copied.leaves if leaf not in whole]

    @staticmethod
    def _not_copied(copied: Sequence[Future[list[Leaf]]]) -> list[Leaf]:
        return [leaf for one in copied for leaf in one.result()]

    def _request(self, leaves: Sequence[Leaf], placed: Callable[[Collection[Leaf]], object]) -> None:
        if not leaves:
            return
        with ThreadPoolExecutor(_NUM_REQUESTS, "headrace-tensors") as threads:
            run_all(threads, [functools.partial(self._serve, one, placed) for one in joined(leaves)])

    def _serve(self, request: Requested, placed: Callable[[Collection[Leaf]], object]) -> None:
        first, key = request.leaves[0], self._key(request.leaves[0].segment)
        file = self._files[first.file]
        body = self._ask(first.file, first.offset, request.num_bytes) if self._ask else None
        if body is None or (body := read_verified(lambda: body, request)) is None:
            try:
                body = read_verified(self._from_store(key, request), request, tries=2)
            except ObjectMissing as error:
                raise HandoffCorrupt(f"{error} It is a segment of {self._label}.", key=key) from None
        if body is None:
            raise HandoffCorrupt(
                f"{self._store.uri(key)} is damaged: its {request.num_bytes} bytes at {first.at} are not those of "
                f"{self._label}, though fetched twice. Seal the same files again: that repairs it.",
                key=key,
            )
        file.write(body, first.offset)
        file.mark(request.leaves)
        placed(request.leaves)

    def _from_store(self, key: str, request: Requested) -> Callable[[], memoryview]:
        return lambda: self._store.read_ranges(key, [(request.leaves[0].at, request.num_bytes)])[0]

    @property
    def _label(self) -> str:
        return f"{self._kind} {self.index.weights_digest[:12]}"

    def _key(self, number: int) -> str:
        return segment_key(self._kind, self.index.segments[number].nonce)

    def _write(self, name: str, body: bytes) -> None:
        temporary = self._entry / f"{name}.{os.getpid()}.partial"
        temporary.write_bytes(body)
        temporary.replace(self._entry / name)

    @contextmanager
    def _turn(self, *, waits: bool = False) -> Iterator[bool]:
        """Whether this process may fill the entry now: no other one does."""
        descriptor = os.open(self._entry / "filling", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(descriptor)


def cache_of(store: ObjectStore) -> NodeCache:
    """The node's cache: a remote store has one; beside a store in a directory lies one, where files can share bytes."""
    found = getattr(store, "cache", None)
    return found if isinstance(found, NodeCache) else _cache_at(store.node_directory() / "cache")


@functools.cache
def _cache_at(directory: Path) -> NodeCache:
    # One for each directory and process: it knows which entries this process has open.
    return NodeCache(directory)
