"""What an index says, what siblings share, and that what is handed out is what was sealed."""

import json
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from safetensors import safe_open
from safetensors.numpy import save_file

from headrace.clock import FixedClock
from headrace.errors import HandoffCollected, HandoffCorrupt
from headrace.handoff.collecting import CollectionPlan, collect, plan_collection
from headrace.store import indexing
from headrace.store.indexing import index_directory, saved
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore
from headrace.store.protection import Answer, Named
from headrace.store.sealed_directory import (
    SealedDirectory,
    directory_key,
    find_directory,
    find_index,
    open_directory,
    read_index,
    seal_directory,
)
from headrace.store.small_objects import PassedOver
from headrace.store.tensor_reading import sealed_dtypes
from headrace.store.tensors import packing
from headrace.store.tensors.index import leaf_bytes, segment_key
from headrace.store.tensors.safetensors_header import tensors_of
from tests.store.tensors.weights_builder import (
    CountingStore,
    make_tensors,
    sha256_of_files,
    sibling_of,
    write_weights,
)

DAYS = 24 * 3600.0
CHANGED = "model.layers.3.mlp.weight"


class Site:
    """Two versions of one base, sealed and indexed."""

    def __init__(self, root: Path, store: ObjectStore, clock: FixedClock) -> None:
        self.store, self.clock = store, clock
        tensors = make_tensors()
        self.sources = [
            write_weights(root / "one", tensors),
            write_weights(root / "two", sibling_of(tensors, CHANGED)),
        ]
        self.digests = [seal_directory(store, source, clock=clock).digest for source in self.sources]

    def index(self) -> None:
        for digest in self.digests:
            index_directory(self.store, digest, clock=self.clock)

    def plan(self, *named: str) -> CollectionPlan:
        answer = Answer(named=[Named(key=directory_key(digest), reason="somebody names them") for digest in named])
        # A directory's times are the disk's, which no test moves on.
        grace = -1.0 if isinstance(self.store, LocalStore) else 3600.0
        return plan_collection(self.store, self.clock, grace_seconds=grace, protectors={"some": lambda asked: answer})

    def collect(self, *named: str) -> dict[str, int]:
        """Kinds of what went."""
        self.clock.advance(2 * DAYS)
        gone = collect(self.store, self.clock, self.plan(*named)).leavings
        return {kind: sum(one.kind == kind for one in gone) for kind in {one.kind for one in gone}}

    def without_whole_files(self) -> SealedDirectory:
        """The first's index, once there is nothing of both but segments."""
        self.index()
        self.collect(*self.digests)
        sealed = find_index(self.store, self.digests[0])
        assert sealed
        return sealed

    def opened(self, number: int) -> Path:
        return open_directory(self.store, self.digests[number], clock=self.clock)

    def check_opened(self, number: int) -> None:
        assert sha256_of_files(self.opened(number)) == sha256_of_files(self.sources[number])


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture(params=["directory", "remote"])
def site(request: pytest.FixtureRequest, tmp_path: Path, clock: FixedClock) -> Site:
    import time

    if request.param == "remote":
        return Site(tmp_path, CountingStore(tmp_path / "remote", clock=clock), clock)
    clock.seconds = time.time()
    return Site(tmp_path, LocalStore(tmp_path / "store"), clock)


def test_the_index_says_what_safetensors_and_blake3_say(site: Site) -> None:
    sealed = index_directory(site.store, site.digests[0], clock=site.clock)
    index = read_index(site.store, sealed)
    bodies = {file.name: (site.sources[0] / file.name).read_bytes() for file in index.files}
    found: dict[str, Any] = {}
    for name in (name for name in bodies if name.endswith(".safetensors")):
        with safe_open(site.sources[0] / name, "numpy") as file:
            found |= {key: (name, file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118 (no mapping)
    assert index.tensors.keys() == found.keys()
    for name, (file, tensor) in found.items():
        run = index.tensors[name]
        body = bodies[index.files[run.file].name][run.offset : run.offset + run.num_bytes]
        assert (index.files[run.file].name, run.shape, run.dtype) == (file, tensor.shape, "F32")
        assert body == tensor.tobytes()
        assert run.digest == blake3(body).hexdigest()
        key = segment_key("weights", index.segments[run.segment].nonce)
        assert site.store.read_ranges(key, [(run.at, run.num_bytes)])[0] == body


def test_what_a_sibling_has_is_stored_once(site: Site) -> None:
    index_directory(site.store, site.digests[0], clock=site.clock)
    before = {entry.key for entry in site.store.entries("weights/segments")}
    index_directory(site.store, site.digests[1], clock=site.clock)
    new = [entry for entry in site.store.entries("weights/segments") if entry.key not in before]
    assert [entry.num_bytes for entry in new] == [16 * 64 * 4]
    told = saved(site.store, damaged=PassedOver())
    assert sorted(one.own_bytes == one.num_bytes for one in told.values()) == [False, True]
    assert min(one.own_bytes for one in told.values()) == 16 * 64 * 4
    assert all(one.has_whole_files for one in told.values())


def test_whole_files_go_and_what_is_handed_out_stays_the_same(site: Site) -> None:
    dtypes = [sealed_dtypes(site.store, digest) for digest in site.digests]
    assert all(dtypes)
    site.index()
    assert site.collect(*site.digests) == {"whole files": 2}
    assert [sealed_dtypes(site.store, digest) for digest in site.digests] == dtypes
    for number in range(2):
        sealed = find_directory(site.store, site.digests[number])
        assert sealed
        assert sealed.is_indexed
        site.check_opened(number)
    # Opening, sealing and indexing again find the same.
    assert seal_directory(site.store, site.sources[0], clock=site.clock) == find_index(site.store, site.digests[0])
    assert site.collect(*site.digests) == {}
    assert not any(one.has_whole_files for one in saved(site.store, damaged=PassedOver()).values())


def test_whole_files_stay_while_they_are_young_or_opened(site: Site) -> None:
    site.index()
    assert site.plan(*site.digests).leavings == []
    site.clock.advance(2 * DAYS)
    if isinstance(site.store, LocalStore):
        assert site.opened(0).parent.name == "parts"
        assert len(site.plan(*site.digests).leavings) == 1


def test_segments_go_when_no_index_names_them(site: Site) -> None:
    site.index()
    site.collect(*site.digests)
    assert site.collect(site.digests[1]) == {"weights": 1}
    site.check_opened(1)
    assert site.collect(site.digests[1]) == {}  # one segment, of which the other uses most
    assert site.collect() == {"weights": 1}
    assert site.collect() == {"orphan": 2}
    assert site.store.list("weights/segments") == []
    with pytest.raises(HandoffCollected):
        site.opened(1)
    # And back, from the files.
    assert seal_directory(site.store, site.sources[1], clock=site.clock).digest == site.digests[1]
    index_directory(site.store, site.digests[1], clock=site.clock)
    site.check_opened(1)


def test_while_an_index_cannot_be_read_all_segments_stay(site: Site) -> None:
    sealed = site.without_whole_files()
    site.store.delete(f"{sealed.key}/tensors.json")
    site.collect(site.digests[1])
    assert site.collect(site.digests[1]) == {}
    site.check_opened(1)


def test_a_damaged_segment_is_named_and_sealing_the_files_again_repairs_it(site: Site) -> None:
    sealed = site.without_whole_files()
    (nonce,) = {one.nonce for one in read_index(site.store, sealed).segments}
    key = segment_key("weights", nonce)
    body = bytearray(site.store.read(key))
    body[5000] ^= 1
    site.store.delete(key)
    site.store.create(key, bytes(body))
    with pytest.raises(HandoffCorrupt, match=rf"{nonce}.* is damaged: .*Seal the same files again"):
        site.opened(0)
    assert seal_directory(site.store, site.sources[0], clock=site.clock).digest == site.digests[0]
    site.check_opened(0)
    # The sibling shares the damage, and is repaired in the same way; nothing damaged is shared anew.
    seal_directory(site.store, site.sources[1], clock=site.clock)
    site.index()
    site.collect(*site.digests)
    for number in range(2):
        site.check_opened(number)


def test_files_that_change_while_they_are_indexed_are_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_files = packing.cut_files

    def cut_other_files(directory: Path, files: Any) -> Any:
        # As if the bytes that were cut were others.
        return cut_files(site.sources[1], files)

    monkeypatch.setattr(indexing, "cut_files", cut_other_files)
    with pytest.raises(HandoffCorrupt, match="could not be indexed in 3 tries|cannot be put together"):
        index_directory(site.store, site.digests[0], clock=site.clock)
    assert find_index(site.store, site.digests[0]) is None
    site.check_opened(0)


def test_a_tensor_longer_than_a_leaf_or_a_segment_is_cut(
    tmp_path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SEGMENT_BYTES", 512 * 1024)
    source = write_weights(tmp_path / "long", make_tensors(rows=700, columns=500, layers=2), num_shards=1)
    store = CountingStore(tmp_path / "remote", clock=clock)
    digest = seal_directory(store, source, clock=clock).digest
    index = read_index(store, index_directory(store, digest, clock=clock))
    long = index.tensors["lm_head"]
    lengths = [piece.num_bytes for piece in long.pieces()]
    assert (lengths[:-1], sum(lengths)) == ([192 * 1024] * 7, 700 * 500 * 4)
    assert [leaf_bytes(num_bytes) for num_bytes in (1, 2**21, 2**23, 2**40)] == [2**16, 2**18, 2**20, 2**20]
    assert len(index.segments) == 4 + 1
    monkeypatch.setattr(store, "local_directory", lambda prefix: pytest.fail("whole files are fetched"))
    assert sha256_of_files(open_directory(store, digest, clock=clock)) == sha256_of_files(source)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff" * 64,
        b"\x10\0\0\0\0\0\0\0not json........",
        b"\x02\0\0\0\0\0\0\0[]",
        json.dumps({}).encode(),
    ],
)
def test_a_file_that_is_no_safetensors_is_kept_as_it_is(tmp_path: Path, clock: FixedClock, body: bytes) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/model.safetensors").write_bytes(body)
    assert tensors_of(tmp_path / "odd/model.safetensors") == []
    store = CountingStore(tmp_path / "remote", clock=clock)
    digest = seal_directory(store, tmp_path / "odd", clock=clock).digest
    index_directory(store, digest, clock=clock)
    assert (open_directory(store, digest, clock=clock) / "model.safetensors").read_bytes() == body


def test_the_components_of_a_pipeline_have_tensors_of_the_same_name(tmp_path: Path, clock: FixedClock) -> None:
    for folder in ("unet", "vae"):
        (tmp_path / "pipeline" / folder).mkdir(parents=True)
        save_file(make_tensors(seed=len(folder), layers=1), tmp_path / "pipeline" / folder / "model.safetensors")
    store = LocalStore(tmp_path / "store")
    digest = seal_directory(store, tmp_path / "pipeline").digest
    names = read_index(store, index_directory(store, digest)).tensors
    assert {"unet/lm_head", "vae/lm_head"} <= names.keys()
