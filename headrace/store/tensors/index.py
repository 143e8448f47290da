"""The tensor index of sealed weights: which tensor lies where, in the files that are handed out and in the store.

The files' bytes are cut into *runs*: a tensor, or what lies between tensors (headers, whole files of other kinds). A
run lies in one *segment*, an object of the store of about 64 MiB that several versions share; a run that a sibling has
too is found by its digest, and stored once. A run is checked leaf by leaf (1 MiB, or an eighth of a shorter run), so
that a slice of it can be fetched from anybody and believed.

The index knows nothing of models but names: tensors of layer 7 are those with `.7.` in their name.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt

from headrace.errors import InvalidInput
from headrace.store.objects import check_key
from headrace.store.small_objects import Kind

# A rank's slice is fetched in whole leaves: so short that little comes too much, so long that digests stay few.
LEAF_BYTES = 1024 * 1024
_LEAVES = 8
_LEAF_UNIT_BYTES = 64 * 1024
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NONCE = re.compile(r"[0-9a-f]{32}")
_LAYER = re.compile(r"\.(\d+)(?:\.|$)")
_FIRST = re.compile(r"embed|wte|wpe")


@dataclass(frozen=True, kw_only=True)
class IndexedFile:
    name: str
    num_bytes: Annotated[int, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class SharedSegment:
    """An object with many runs, end to end; `nonce` is its writer's, and its key's."""

    nonce: str
    num_bytes: Annotated[int, Gt(0)]


class Leaf(NamedTuple):
    """Bytes of a file and where they lie in the store; a `headrace.store.sparse_file.Piece`."""

    offset: int
    num_bytes: int
    digest: str
    file: int
    segment: int
    at: int


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Consecutive bytes of a file.

    Attributes:
        digest: BLAKE3 of all its bytes, in hex.
        leaves: BLAKE3 of each leaf (`leaf_bytes`), joined; empty: there is one, and `digest` says it.
        tensor: the tensor's name, with `dtype` (as safetensors spells it) and `shape`; None: no tensor.
    """

    file: Annotated[int, Ge(0)]
    offset: Annotated[int, Ge(0)]
    num_bytes: Annotated[int, Gt(0)]
    digest: str
    leaves: str = ""
    tensor: str | None = None
    dtype: str = ""
    shape: tuple[int, ...] = ()

    @property
    def place(self) -> tuple[int, int, int, int]:
        """Sorts what is no tensor, embeddings, layer by layer, the rest: so a model can start before its last layer is
        there."""
        return (*_stage(self.tensor), self.file, self.offset)


@dataclass(frozen=True, kw_only=True)
class Run(Cut):
    """A cut with its place in the store: which `segment`, and `at` which of its bytes."""

    segment: Annotated[int, Ge(0)]
    at: Annotated[int, Ge(0)]

    def pieces(self, start: int = 0, end: int | None = None) -> Iterator[Leaf]:
        """The leaves that hold the run's bytes from `start` to `end`."""
        last = self.num_bytes if end is None else end
        each = leaf_bytes(self.num_bytes)
        for number in range(start // each, -(-last // each)):
            begin = number * each
            digest = self.leaves[64 * number : 64 * number + 64] if self.leaves else self.digest
            length = min(each, self.num_bytes - begin)
            yield Leaf(self.offset + begin, length, digest, self.file, self.segment, self.at + begin)

    def part_of(self, rank: int, num_ranks: int) -> tuple[int, int]:
        """The bytes of one of `num_ranks` parts along the first dimension, as torch's `chunk` cuts it; all of a run
        without dimensions."""
        if not self.shape:
            return 0, self.num_bytes
        row_bytes = self.num_bytes // self.shape[0]
        rows = -(-self.shape[0] // num_ranks)
        return min(rank * rows, self.shape[0]) * row_bytes, min((rank + 1) * rows, self.shape[0]) * row_bytes


@dataclass(frozen=True, kw_only=True)
class TensorIndex:
    """Every byte of the files once, in order. `weights_digest`: that of the files handed out."""

    weights_digest: str
    files: tuple[IndexedFile, ...]
    segments: tuple[SharedSegment, ...]
    runs: tuple[Run, ...]

    def __post_init__(self) -> None:
        """Raises: InvalidInput: it is not the index of any files."""
        for file in self.files:
            check_key(file.name)
        if not all(_NONCE.fullmatch(one.nonce) for one in self.segments):
            raise InvalidInput("A segment's nonce must be 32 hex characters")
        position = [0] * len(self.files)
        for run in self.runs:
            if run.file >= len(self.files) or run.segment >= len(self.segments) or position[run.file] != run.offset:
                raise InvalidInput(f"A run at byte {run.offset} of file {run.file} leaves a hole")
            num_leaves = -(-run.num_bytes // leaf_bytes(run.num_bytes))
            if not _DIGEST.fullmatch(run.digest) or len(run.leaves) != (64 * num_leaves if num_leaves > 1 else 0):
                raise InvalidInput(f"A run at byte {run.offset} of file {run.file} has wrong digests")
            if run.at + run.num_bytes > self.segments[run.segment].num_bytes:
                raise InvalidInput(f"A run at byte {run.offset} of file {run.file} ends beyond its segment")
            position[run.file] += run.num_bytes
        if position != [file.num_bytes for file in self.files]:
            raise InvalidInput("Runs and files have different lengths")

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    @cached_property
    def tensors(self) -> dict[str, Run]:
        """By name; those that a model needs first come first."""
        return {run.tensor: run for run in self.in_layer_order if run.tensor is not None}

    @cached_property
    def in_layer_order(self) -> Sequence[Run]:
        return sorted(self.runs, key=lambda run: run.place)

    def runs_of(self, names: Sequence[str]) -> list[Run]:
        """Raises: InvalidInput: no tensor has one of these names."""
        if unknown := [name for name in names if name not in self.tensors]:
            raise InvalidInput(
                f"Weights {self.weights_digest[:12]} have no tensor {unknown[0]!r}; they have {len(self.tensors)}, the "
                f"first is {next(iter(self.tensors), None)!r}."
            )
        return [self.tensors[name] for name in names]


def leaf_bytes(run_bytes: int) -> int:
    """How long each leaf of a run is, but for the last."""
    eighth = -(-run_bytes // _LEAVES)
    return min(LEAF_BYTES, -(-eighth // _LEAF_UNIT_BYTES) * _LEAF_UNIT_BYTES)


INDEX = Kind("Tensor index", TensorIndex, "Seal the same files again (materialize the asset that makes them).")
INDEX_NAME = "tensors.json"


def segment_prefix(kind: str, nonce: str) -> str:
    return f"{kind}/segments/{nonce}"


def segment_key(kind: str, nonce: str) -> str:
    return f"{segment_prefix(kind, nonce)}/data"


def _stage(tensor: str | None) -> tuple[int, int]:
    if tensor is None:
        return 0, 0
    if found := _LAYER.search(tensor):
        return 2, int(found[1])
    return (1, 0) if _FIRST.search(tensor) else (3, 0)
