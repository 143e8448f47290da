"""Directories of weights as training libraries write them, and a store in memory that counts what it serves."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from headrace.clock import Clock, FixedClock
from simulation.disk import Disk
from simulation.stores import MemoryStore

Tensors = Mapping[str, np.ndarray]


def make_tensors(*, seed: int = 1, layers: int = 6, rows: int = 16, columns: int = 64) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    names = ["model.embed_tokens.weight", *(f"model.layers.{number}.mlp.weight" for number in range(layers)), "lm_head"]
    return {name: rng.random((rows, columns), np.float32) for name in names}


def sibling_of(tensors: Tensors, *changed: str) -> dict[str, np.ndarray]:
    """The same, but for the named ones."""
    return {name: tensor + 1 if name in changed else tensor for name, tensor in tensors.items()}


def write_weights(directory: Path, tensors: Tensors, *, num_shards: int = 2) -> Path:
    directory.mkdir(parents=True)
    names = list(tensors)
    for number in range(num_shards):
        shard = {name: tensors[name] for name in names[number::num_shards]}
        save_file(shard, directory / f"model-{number + 1:05d}-of-{num_shards:05d}.safetensors")
    (directory / "config.json").write_text('{"model_type": "llama"}')
    (directory / "empty.txt").touch()
    return directory


def sha256_of_files(directory: Path) -> dict[str, str]:
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


class CountingStore(MemoryStore):
    """`num_bytes`: how much ranged reads took, by the first two segments of the key. Each `node` has a cache of its
    own."""

    def __init__(self, root: Path, *, clock: Clock | None = None, disk: Disk | None = None, node: str = "node") -> None:
        super().__init__(clock or FixedClock(), disk or Disk(root / "files"))
        self.root = root
        self.node = node
        self.num_bytes: Counter[str] = Counter()

    def on(self, node: str) -> "CountingStore":
        """The same store, seen by another node."""
        return CountingStore(self.root, clock=self.clock, disk=self.disk, node=node)

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> "list[memoryview]":
        self.num_bytes["/".join(key.split("/")[:2])] += sum(length for _, length in ranges)
        return super().read_ranges(key, ranges)

    def node_directory(self) -> Path:
        return self.root / self.node

    @property
    def fetched(self) -> int:
        return self.num_bytes["weights/segments"]
