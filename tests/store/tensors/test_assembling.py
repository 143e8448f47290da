"""What a node fetches, and that what it hands out is never wrong."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import HandoffCorrupt, InvalidInput, StoreOutage
from headrace.store.indexing import index_directory
from headrace.store.local import LocalStore
from headrace.store.objects import new_nonce
from headrace.store.sealed_directory import find_index, open_directory, read_index, seal_directory
from headrace.store.tensor_reading import TensorReader
from headrace.store.tensors import sources
from headrace.store.tensors.index import LEAF_BYTES
from tests.store.tensors.weights_builder import (
    CountingStore,
    make_tensors,
    sha256_of_files,
    sibling_of,
    write_weights,
)

ROWS, COLUMNS = 2048, 512
TENSOR_BYTES = ROWS * COLUMNS * 4
CHANGED = "model.layers.1.mlp.weight"


class Weights:
    """Two siblings, sealed and indexed."""

    def __init__(self, root: Path) -> None:
        self.store = store = CountingStore(root / "remote")
        tensors = make_tensors(layers=2, rows=ROWS, columns=COLUMNS)
        self.tensors = tensors
        self.sources = [
            write_weights(root / "one", tensors),
            write_weights(root / "two", sibling_of(tensors, CHANGED)),
        ]
        self.digests = [seal_directory(store, source).digest for source in self.sources]
        for digest in self.digests:
            index_directory(store, digest)

    def check(self, directory: Path, number: int) -> None:
        assert sha256_of_files(directory) == sha256_of_files(self.sources[number])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return Weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def node(weights: Weights) -> CountingStore:
    """A node that has nothing yet."""
    return weights.store.on(new_nonce())


def test_a_sibling_of_what_the_node_has_is_fetched_in_part(node: CountingStore, weights: Weights) -> None:
    weights.check(open_directory(node, weights.digests[0]), 0)
    num_bytes = sum(path.stat().st_size for path in weights.sources[0].iterdir())
    assert node.fetched == num_bytes
    weights.check(open_directory(node, weights.digests[1]), 1)
    assert node.fetched == num_bytes + TENSOR_BYTES


def test_what_is_here_is_not_fetched_again(node: CountingStore, weights: Weights) -> None:
    first = open_directory(node, weights.digests[0])
    fetched = node.fetched
    inodes = {path.name: path.stat().st_ino for path in first.iterdir()}
    again = open_directory(node.on(node.node), weights.digests[0])
    assert {path.name: path.stat().st_ino for path in again.iterdir()} == inodes
    assert node.fetched == fetched


@pytest.mark.parametrize("puts_time_back", [False, True])
def test_a_bit_that_flips_in_the_cache_is_fetched_again(
    node: CountingStore, weights: Weights, puts_time_back: bool
) -> None:
    path = next(open_directory(node, weights.digests[0]).glob("*.safetensors"))
    fetched, state = node.fetched, path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(3 * LEAF_BYTES)
        file.write(b"\x7f")
    if puts_time_back:
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    weights.check(open_directory(node, weights.digests[0]), 0)
    assert 0 < node.fetched - fetched <= 2 * LEAF_BYTES


def test_a_damaged_sibling_in_the_cache_is_not_copied_from(node: CountingStore, weights: Weights) -> None:
    for path in open_directory(node, weights.digests[0]).glob("*.safetensors"):
        path.chmod(0o644)
        path.write_bytes(bytes(path.stat().st_size))
    weights.check(open_directory(node, weights.digests[1]), 1)


def test_a_bit_that_flips_on_the_way_is_fetched_again_and_twice_is_an_error(
    node: CountingStore, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_ranges, flips = node.read_ranges, [1]

    def flipped(key: str, ranges: list[tuple[int, int]]) -> list[memoryview]:
        (body,) = read_ranges(key, ranges)
        if flips[0]:
            flips[0] -= 1
            body = memoryview(bytes(body[:-1]) + bytes([body[-1] ^ 1]))
        return [body]

    monkeypatch.setattr(node, "read_ranges", flipped)
    weights.check(open_directory(node, weights.digests[0]), 0)
    flips[0] = 1_000_000
    monkeypatch.setattr(node, "local_directory", lambda prefix: weights.sources[1])
    weights.check(open_directory(node, weights.digests[1]), 1)  # the whole files are still there
    sealed = find_index(node, weights.digests[1])
    assert sealed
    other = node.on(new_nonce())
    monkeypatch.setattr(other, "read_ranges", flipped)
    with (
        pytest.raises(HandoffCorrupt, match=r"segments/.* is damaged: its \d+ bytes at \d+ are not those of weights"),
        TensorReader(other, weights.digests[1]) as reader,
    ):
        reader.bytes_of(CHANGED)


def test_an_outage_is_told_and_the_next_try_goes_on_where_it_was(
    node: CountingStore, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_ranges, left = node.read_ranges, [2]

    def failing(key: str, ranges: list[tuple[int, int]]) -> list[memoryview]:
        if left[0] <= 0:
            raise StoreOutage("the store is away.")
        left[0] -= 1
        return read_ranges(key, ranges)

    monkeypatch.setattr(sources, "REQUEST_BYTES", LEAF_BYTES)
    monkeypatch.setattr(node, "read_ranges", failing)
    with pytest.raises(StoreOutage):
        open_directory(node, weights.digests[0])
    fetched = node.fetched
    assert 0 < fetched <= 2 * LEAF_BYTES
    left[0] = 1_000_000
    weights.check(open_directory(node, weights.digests[0]), 0)
    assert node.fetched == sum(path.stat().st_size for path in weights.sources[0].iterdir())


def test_a_rank_fetches_its_slices_alone(node: CountingStore, weights: Weights) -> None:
    for rank in range(4):
        store = node.on(new_nonce())
        with TensorReader(store, weights.digests[0], rank=rank, num_ranks=4) as reader:
            for name, body in reader:
                expected = np.array_split(weights.tensors[name], 4)[rank]
                assert reader.shape_of(name) == expected.shape
                assert (np.frombuffer(body, np.float32).reshape(expected.shape) == expected).all()
        assert store.fetched == TENSOR_BYTES
    # All on one node are the whole.
    for rank in range(4):
        with TensorReader(node, weights.digests[0], rank=rank, num_ranks=4) as reader:
            assert reader.num_bytes == TENSOR_BYTES
    assert node.fetched == 4 * TENSOR_BYTES
    weights.check(open_directory(node, weights.digests[0]), 0)


def test_the_first_layer_is_there_before_the_last(
    node: CountingStore, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_ranges, go_on = node.read_ranges, threading.Event()
    sealed = find_index(node, weights.digests[0])
    assert sealed
    last = read_index(node, sealed).tensors["lm_head"]

    def held(key: str, ranges: list[tuple[int, int]]) -> list[memoryview]:
        if ranges[0][0] >= last.at:
            assert go_on.wait(20)
        return read_ranges(key, ranges)

    monkeypatch.setattr(node, "read_ranges", held)
    with TensorReader(node, weights.digests[0]) as reader:
        assert reader.names == [*weights.tensors]
        for name in reader.names[:-1]:
            assert (np.frombuffer(reader.bytes_of(name), np.float32) == weights.tensors[name].ravel()).all()
        go_on.set()
        assert (np.frombuffer(reader.bytes_of("lm_head"), np.float32) == weights.tensors["lm_head"].ravel()).all()


def test_what_cannot_be_read_is_refused_in_a_sentence(node: CountingStore, weights: Weights, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"have no tensor 'model\.head'; they have 4, the first is 'model\.embed"):
        TensorReader(node, weights.digests[0], names=["model.head"])
    with pytest.raises(InvalidInput, match="rank must be 0 to 1 of 2 ranks, got 2"):
        TensorReader(node, weights.digests[0], rank=2, num_ranks=2)
    source = write_weights(tmp_path / "plain", make_tensors(seed=3))
    with pytest.raises(InvalidInput, match=r"have no tensor index in .*: run headrace model index"):
        TensorReader(node, seal_directory(node, source).digest)


def test_processes_of_a_node_fetch_once_and_a_killed_one_is_taken_over(tmp_path: Path) -> None:
    """Real processes on a store whose segments are copied; the first is killed in the middle of its turn."""
    objects = LocalStore(tmp_path / "store")
    source = write_weights(tmp_path / "one", make_tensors(layers=2, rows=ROWS, columns=COLUMNS))
    digest = seal_directory(objects, source).digest
    sealed = index_directory(objects, digest)
    fork = multiprocessing.get_context("fork")
    reached, ends = fork.Event(), fork.SimpleQueue()

    def run(before_copy: Callable[[], object]) -> None:
        from headrace.store.tensors import assembling

        copy_range = assembling.copy_range

        def copied(one: sources.Copied, file: object) -> None:
            before_copy()
            ends.put(one.num_bytes)
            copy_range(one, file)  # pyright: ignore[reportArgumentType]

        assembling.copy_range = copied
        with assembling.Assembly(objects, "weights", read_index(objects, sealed)) as assembly:
            assembly.complete()

    def stop_at_the_second() -> None:
        if not ends.empty():
            reached.set()
            time.sleep(60)

    killed = fork.Process(target=run, args=(stop_at_the_second,))
    killed.start()
    assert reached.wait(20)
    others = [fork.Process(target=run, args=(lambda: None,)) for _ in range(2)]
    for other in others:
        other.start()
    assert killed.pid
    os.kill(killed.pid, signal.SIGKILL)
    for process in (killed, *others):
        process.join(20)
    assert [other.exitcode for other in others] == [0, 0]
    num_bytes = 0
    while not ends.empty():
        num_bytes += ends.get()
    whole = sum(path.stat().st_size for path in source.iterdir())
    # What the killed one had begun to copy may be copied twice, and nothing else.
    assert whole <= num_bytes <= whole + 2 * sources.REQUEST_BYTES
    (directory,) = objects.node_directory().glob("cache/entries/*/files")
    assert sha256_of_files(directory) == sha256_of_files(source)
