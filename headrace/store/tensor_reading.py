"""Reads single tensors of sealed weights, or one rank's slices of them, while the rest is still on its way.

`headrace.store.sealed_directory.open_directory` waits for whole files. A reader here gets each tensor as soon as its
bytes are there and compared with their digests, first those that a model needs first; and only what it asks for comes
at all. The bytes are a mapping of this node's file: no copy for each process, and none in memory beside the page cache.

Slices are cut along the first dimension, as data-parallel and column-parallel ranks hold them: bytes that lie side by
side. A slice along another dimension needs the whole tensor.
"""

import mmap
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future

from headrace.clock import Clock, SystemClock
from headrace.errors import HandoffCollected, InvalidInput
from headrace.store.objects import ObjectStore
from headrace.store.sealed_directory import WEIGHTS, find_directory, find_index, is_held, read_index
from headrace.store.tensors.assembling import Assembly
from headrace.store.tensors.index import Leaf, Run, TensorIndex
from headrace.store.tensors.safetensors_header import SUFFIX, tensors_in


class TensorReader:
    """Use it as a context: fetching begins with it. Views stay valid after it.

    Args:
        names: the tensors that are wanted; None: all.
        rank, num_ranks: which of how many slices of each, as torch's `chunk` cuts the first dimension.

    Raises:
        InvalidInput: the weights have no tensor index, or no such tensor; no such rank.
        HandoffCollected: garbage collection took them.
        HandoffCorrupt: a manifest or the index is damaged.
    """

    def __init__(
        self,
        store: ObjectStore,
        digest: str,
        *,
        names: Sequence[str] | None = None,
        rank: int = 0,
        num_ranks: int = 1,
        kind: str = WEIGHTS,
        clock: Clock | None = None,
    ) -> None:
        if not 0 <= rank < num_ranks:
            raise InvalidInput(f"rank must be 0 to {num_ranks - 1} of {num_ranks} ranks, got {rank}.")
        sealed = find_index(store, digest, kind=kind)
        if sealed is None:
            raise InvalidInput(
                f"{kind} {digest[:12]} have no tensor index in {store.uri(kind)}: run headrace model index."
            )
        if not is_held(store, sealed, clock or SystemClock()):
            raise HandoffCollected(f"The {kind} {digest[:12]} were garbage-collected meanwhile.", digest=digest)
        self.index: TensorIndex = read_index(store, sealed)
        chosen = {run.tensor for run in self.index.runs_of(names)} if names is not None else self.index.tensors.keys()
        wanted = {name: run for name, run in self.index.tensors.items() if name in chosen}
        self._parts = {name: (run, *run.part_of(rank, num_ranks)) for name, run in wanted.items()}
        self._leaves = {name: [*run.pieces(start, end)] for name, (run, start, end) in self._parts.items()}
        self._assembly = Assembly(store, kind, self.index)
        self._there: set[Leaf] = set()
        self._news = threading.Condition()
        self._fetched: Future[None] = Future()
        self._maps: dict[int, memoryview] = {}

    @property
    def names(self) -> list[str]:
        """Of the tensors that are wanted, in the order in which they come."""
        return [*self._parts]

    @property
    def num_bytes(self) -> int:
        """Of what is wanted, in whole leaves."""
        return sum(leaf.num_bytes for leaf in self._wanted())

    def __enter__(self) -> "TensorReader":
        self._assembly.__enter__()
        threading.Thread(target=self._fetch, name="headrace-tensors", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        # What runs is not broken off: other processes of this node may wait for it.
        if kind is None:
            self._fetched.result()
        else:
            self._fetched.exception()
        self._assembly.__exit__(kind, *rest)

    def __iter__(self) -> Iterator[tuple[str, memoryview]]:
        """Each tensor with its bytes, once they are there."""
        for name in self._parts:
            yield name, self.bytes_of(name)

    def bytes_of(self, name: str) -> memoryview:
        """The bytes of this reader's slice, read-only; waits for them.

        Raises:
            HandoffCorrupt, StoreUnavailable: they cannot be fetched.
        """
        run, start, end = self._parts[name]
        leaves = self._leaves[name]
        with self._news:
            self._news.wait_for(lambda: self._fetched.done() or self._there.issuperset(leaves))
        if not self._there.issuperset(leaves):
            self._fetched.result()
        return self._mapped(run.file)[run.offset + start : run.offset + end]

    def run_of(self, name: str) -> Run:
        """The whole tensor's type, shape and place."""
        return self._parts[name][0]

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Of this reader's slice."""
        run, start, end = self._parts[name]
        if not run.shape:
            return ()
        row_bytes = run.num_bytes // run.shape[0]
        return ((end - start) // row_bytes, *run.shape[1:])

    def _wanted(self) -> list[Leaf]:
        return [*dict.fromkeys(leaf for leaves in self._leaves.values() for leaf in leaves)]

    def _fetch(self) -> None:
        try:
            self._assembly.fetch(self._wanted(), placed=self._placed)
        except BaseException as error:  # noqa: BLE001 (who waits gets it)
            self._fetched.set_exception(error)
        else:
            self._fetched.set_result(None)
        with self._news:
            self._news.notify_all()

    def _placed(self, leaves: Collection[Leaf]) -> None:
        with self._news:
            self._there.update(leaves)
            self._news.notify_all()

    def _mapped(self, number: int) -> memoryview:
        with self._news:
            if number not in self._maps:
                path = self._assembly.directory / self.index.files[number].name
                with path.open("rb") as file:
                    self._maps[number] = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
            return self._maps[number]


def sealed_dtypes(store: ObjectStore, weights_digest: str, *, kind: str = WEIGHTS) -> frozenset[str]:
    """What precisions sealed weights have, as safetensors spells them, by their index or by their files' headers; none
    if nothing is sealed, or no safetensors.

    Raises:
        HandoffCorrupt: what is sealed is damaged.
    """
    sealed = find_directory(store, weights_digest, kind=kind)
    if sealed is None:
        return frozenset()
    if sealed.is_indexed:
        return frozenset(run.dtype for run in read_index(store, sealed).tensors.values())
    found: set[str] = set()
    for file in (file for file in sealed.files if file.name.endswith(SUFFIX)):

        def read(offset: int, length: int, key: str = f"{sealed.key}/{file.name}") -> bytes:
            return bytes(store.read_ranges(key, [(offset, length)])[0])

        found |= {one.dtype for one in tensors_in(read, file.num_bytes)}
    return frozenset(found)
