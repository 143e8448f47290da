"""Puts weights together on this node, from what it has, its neighbours have, and the store has, in this order.

The files lie in one entry of the node's cache, sparse until they are whole. One process fills an entry at a time,
under a lock that the kernel releases when it is killed; the others wait, or take over where it stopped: each leaf has
its mark (`headrace.store.sparse_file`). Bytes of siblings on this node are copied in the kernel, which shares them if
the file system can. Every leaf is compared with its digest when it comes in, wherever it comes from. That the leaves of
an index make the files, to their sha256, was seen when it was sealed, and is not looked at again on every node: sha256
would cost as much CPU as all the rest of a fetch.

What goes first is in layer order, so that a model can start before its last layer is there.
"""

import fcntl
import functools
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from blake3 import blake3

from headrace.errors import HandoffCorrupt, ObjectMissing
from headrace.store.cached_segments import run_all
from headrace.store.node_cache import NodeCache, boot_identity
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import encode_object
from headrace.store.sparse_file import SparseFile, marked_pieces
from headrace.store.tensors.index import INDEX, Leaf, TensorIndex, segment_key
from headrace.store.tensors.neighbours import Neighbours, neighbours_of
from headrace.store.tensors.offering import entry_name, offered_at
from headrace.store.tensors.sources import NUM_SHORT, Copied, Requested, copy_range, joined, read_verified, siblings_of

# Requests under way at once, each of 4 MiB at most: what is fetched uses about 50 MiB of memory.
_NUM_REQUESTS = 12
_NUM_COPIES = 2
_WAIT_SECONDS = 0.05
_COMPLETE = "complete"

# Called with leaves that are there.
Placed = Callable[[Collection[Leaf]], object]


def assembled(store: ObjectStore, kind: str, index: TensorIndex) -> Path:
    """The directory with all files. Each leaf is compared with its digest once on this node, and again if a file was
    written to since.

    Raises:
        HandoffCorrupt: the store's bytes are not those of the index.
    """
    with Assembly(store, kind, index) as assembly:
        assembly.complete()
        return assembly.directory


def leaves_of(index: TensorIndex) -> list[Leaf]:
    return [leaf for run in index.in_layer_order for leaf in run.pieces()]


class Assembly:
    """One node's files of one index. Use it as a context; the entry is kept as long as the process lives."""

    def __init__(self, store: ObjectStore, kind: str, index: TensorIndex) -> None:
        self.index = index
        self._store = store
        self._kind = kind
        self._cache = cache_of(store)
        self._neighbours: Neighbours | None = None
        self._open = ExitStack()
        self._files: list[SparseFile] = []

    def __enter__(self) -> "Assembly":
        name = entry_name(self._kind, self.index.weights_digest)
        self._entry = self._open.enter_context(self._cache.entry(name, for_life=True))
        self.directory = self._entry / "files"
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def complete(self) -> None:
        """Blocks until every file is there.

        Raises:
            HandoffCorrupt: as `assembled`.
        """
        while not self._is_complete():
            with self._turn() as is_ours:
                if is_ours and not self._is_complete():
                    with self._opened():
                        self._fill(leaves_of(self.index), lambda leaves: None, num_short=0)
                        for file in self.index.files:
                            (self.directory / file.name).chmod(0o444)
                        self._write(_COMPLETE, json.dumps(self._stamps()).encode())
                    return
            if not is_ours:
                time.sleep(_WAIT_SECONDS)
        self.offer()

    def fetch(self, leaves: Sequence[Leaf], *, placed: Placed = lambda leaves: None) -> None:
        """Blocks until all of these are there; begins with the first.

        Args: placed: called with leaves that are there, by several threads.

        Raises:
            HandoffCorrupt: the store's bytes are not those of the index.
        """
        while not self._is_complete():
            with self._turn() as is_ours:
                if is_ours and not self._is_complete():
                    with self._opened():
                        self._fill(leaves, placed, num_short=NUM_SHORT)
                    return
            there = self._there(leaves)
            placed(there)
            if len(there) == len(leaves):
                return
            time.sleep(_WAIT_SECONDS)
        placed(leaves)

    def offer(self) -> None:
        """Says that this process offers these tensors to neighbours, if this node does, and finds out who else does."""
        address = self._cache.offered_at
        if address and (url := offered_at(self._cache.directory, address)):
            self._neighbours = neighbours_of(self._store, self._kind, self.index.weights_digest, url)

    @property
    def num_bytes_of_neighbours(self) -> int:
        return self._neighbours.num_bytes if self._neighbours else 0

    def _is_complete(self) -> bool:
        """Whether every leaf was compared with its digest, in this boot, and nothing was written to a file since."""
        with suppress(OSError, ValueError):
            return json.loads((self._entry / _COMPLETE).read_bytes()) == self._stamps()
        return False

    def _stamps(self) -> list[object]:
        states = [(self.directory / file.name).stat() for file in self.index.files]
        stamps = [[one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns] for one in states]
        return [boot_identity(), self.index.weights_digest, stamps]

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """In this process's turn: the files to be written, with marks that can be trusted."""
        # They were complete, and are not what they were: perhaps by a hand that put the old times back.
        is_doubtful = (self._entry / _COMPLETE).exists()
        (self._entry / _COMPLETE).unlink(missing_ok=True)
        with ExitStack() as opened:
            for number, file in enumerate(self.index.files):
                path, marks = self.directory / file.name, self._marks(number)
                for parent in (path.parent, marks.parent):
                    parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):
                    path.chmod(0o644)
                self._files.append(SparseFile(path, marks, file.num_bytes, hasher=blake3))
                opened.callback(self._files[-1].close)
                self._files[-1].settle_doubts(always=is_doubtful)
            # For siblings, which look there for what they share with this one.
            if not (self._entry / "index.json").exists():
                self._write("index.json", encode_object("index.json", INDEX, self.index, nonce=""))
            try:
                yield
            finally:
                self._files.clear()

    def _fill(self, leaves: Sequence[Leaf], placed: Placed, *, num_short: int) -> None:
        missing = self._missing(leaves)
        placed({*leaves} - missing)
        self._cache.make_room(sum(leaf.num_bytes for leaf in missing))
        self.offer()
        self._fetch([leaf for leaf in leaves if leaf in missing], placed, num_short)

    def _there(self, leaves: Collection[Leaf]) -> set[Leaf]:
        """What the process whose turn it is has marked so far."""
        marked = [
            {*marked_pieces(self._marks(number), boot=boot_identity())} for number in range(len(self.index.files))
        ]
        return {leaf for leaf in leaves if leaf[:3] in marked[leaf.file]}

    def _marks(self, number: int) -> Path:
        return self._entry / "marks" / str(number)

    def _missing(self, leaves: Collection[Leaf]) -> set[Leaf]:
        by_file: dict[int, list[Leaf]] = {}
        for leaf in leaves:
            by_file.setdefault(leaf.file, []).append(leaf)
        return {leaf for number, own in by_file.items() for leaf in self._files[number].missing(own)}

    def _fetch(self, leaves: Sequence[Leaf], placed: Placed, num_short: int) -> None:
        here = self._places_here(leaves)
        copies = [*joined([leaf for leaf in leaves if leaf in here], here)]
        with ThreadPoolExecutor(_NUM_COPIES, "headrace-copy") as copying:
            copied = [copying.submit(self._copy, one, placed) for one in copies]
            wanted = [leaf for leaf in leaves if leaf not in here]
            self._request(wanted, placed, num_short)
            self._request(self._not_copied(copied), placed)

    def _places_here(self, leaves: Sequence[Leaf]) -> dict[Leaf, tuple[Path, int]]:
        """Leaf → a file of this node with its bytes, and where: of a sibling, or of a store on this machine."""
        own = self._entry
        here = siblings_of(self._cache, own, leaves)
        if not self._store.checks_what_it_fetches:
            paths = [self._store.local_path(self._key(number)) for number in range(len(self.index.segments))]
            here |= {leaf: (paths[leaf.segment], leaf.at) for leaf in leaves if leaf not in here}
        return here

    def _copy(self, copied: Copied, placed: Placed) -> list[Leaf]:
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

    def _request(self, leaves: Sequence[Leaf], placed: Placed, num_short: int = 0) -> None:
        if not leaves:
            return
        with ThreadPoolExecutor(_NUM_REQUESTS, "headrace-tensors") as threads:
            run_all(
                threads, [functools.partial(self._serve, one, placed) for one in joined(leaves, num_short=num_short)]
            )

    def _serve(self, request: Requested, placed: Placed) -> None:
        first, key = request.leaves[0], self._key(request.leaves[0].segment)
        file = self._files[first.file]
        body = self._neighbours(request) if self._neighbours else None
        if body is None:
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
    def _turn(self) -> Iterator[bool]:
        """Whether this process may fill the entry now: no other one does."""
        descriptor = os.open(self._entry / "filling", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
