"""Media versions are sealed like every handoff: whole or not at all, once, and by what they hold."""

import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.clock import SystemClock
from headrace.errors import InvalidInput
from headrace.handoff.collecting import collect, plan_collection
from headrace.handoff.layout import parts_prefix
from headrace.handoff.media.index import MEDIA_INDEX, MediaItem
from headrace.handoff.media.layout import ALIGNMENT, media_prefixes
from headrace.handoff.media.publishing import LOOKAHEAD_BYTES, _SeenIds
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.schemas import schema_differences
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from tests.handoff.media.builders import chunked, flip, make_bodies, make_item, make_items, publish, store_files
from tests.killing import run_and_kill

MIB = 1024 * 1024


def files_of(store: LocalStore) -> list[str]:
    return [key for key in store.list("handoff") if not key.endswith("manifest.json")]


def test_what_was_published_is_read_back(handoffs: HandoffStore) -> None:
    bodies = make_bodies(50)
    handoff = publish(handoffs, make_items(bodies))
    media = MediaSet.open(handoff)
    assert list(media.ids()) == list(bodies)
    assert {item_id: media.read(item_id) for item_id in bodies} == bodies
    assert not list(schema_differences(handoff.schema, MEDIA_INDEX))


def test_what_is_stated_of_an_item_is_in_the_index(handoffs: HandoffStore) -> None:
    stated = {"width": 4, "height": 3, "duration_seconds": 1.5, "caption": "a bird", "row_id": "r1", "version_set": "v"}
    publish(handoffs, [make_item("one", **stated, attributes={"seed": 7, "tags": ["é"]})])
    item = MediaSet.open(handoffs.open("pictures", "all")).item("one")
    assert {name: getattr(item, name) for name in stated} == stated
    assert (item.attributes, item.media_type, item.num_bytes) == ({"seed": 7, "tags": ["é"]}, "image/png", 6)


@pytest.mark.parametrize("chunk_bytes", [1, 100, 5000])
def test_the_same_items_in_other_chunks_and_shards_are_the_same_version(
    handoffs: HandoffStore, store: LocalStore, chunk_bytes: int
) -> None:
    bodies = make_bodies(20)
    first = publish(handoffs, make_items(bodies), shard_bytes=2000)
    before = files_of(store)
    streams = (make_item(item_id, chunked(body, chunk_bytes)) for item_id, body in bodies.items())
    again = publish(handoffs, streams)
    assert (again.version, again.reused, again.content_digest) == (1, True, first.content_digest)
    assert files_of(store) == before


def test_another_byte_is_another_version(handoffs: HandoffStore) -> None:
    first = publish(handoffs, [make_item("one", b"abc")])
    second = publish(handoffs, [make_item("one", b"abd")])
    assert second.version == 2
    assert second.content_digest != first.content_digest


def test_items_begin_at_aligned_offsets_of_bounded_shards(handoffs: HandoffStore) -> None:
    bodies = make_bodies(40)
    media = MediaSet.open(publish(handoffs, make_items(bodies), shard_bytes=5000))
    assert all(offset % ALIGNMENT == 0 for offset in media.locations()["offset"].to_pylist())
    assert len(media.layout.shards) > 5
    assert max(shard.num_bytes for shard in media.layout.shards) <= 5000
    assert [path.stat().st_size for path in store_files(media.handoff, ".media")] == [
        shard.num_bytes for shard in media.layout.shards
    ]


@pytest.mark.parametrize("states_its_size", [True, False])
def test_an_item_larger_than_a_shard_has_one_for_itself(handoffs: HandoffStore, states_its_size: bool) -> None:
    def items() -> Iterator[MediaItem]:
        yield make_item("before", b"x" * 100)
        yield make_item("large", chunked(b"y" * 5000, 64), num_bytes=5000 if states_its_size else None)
        yield make_item("after", b"z" * 100)

    media = MediaSet.open(publish(handoffs, items(), shard_bytes=1000))
    assert [(shard.num_items, shard.num_bytes) for shard in media.layout.shards] == [(1, 100), (1, 5000), (1, 100)]


def test_a_large_item_streams_through_in_bounded_memory(handoffs: HandoffStore) -> None:
    chunk = bytes(MIB)
    publish(handoffs, [make_item("small")])  # imports and first uses
    tracemalloc.start()
    handoff = publish(handoffs, [make_item("film", (chunk for _ in range(256)), "video/mp4")], partition="film")
    num_read = sum(map(len, MediaSet.open(handoff).stream("film")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_read == 256 * MIB
    # The look-ahead holds one and the same chunk here; what is counted is anything that joins or copies chunks.
    assert peak < LOOKAHEAD_BYTES


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (lambda: [make_item("one"), make_item("two"), make_item("one")], "Item id 'one' occurs twice"),
        (lambda: [make_item("one", b"abc", num_bytes=4)], "Item 'one' states 4 bytes, its content has 3"),
        (lambda: [make_item("one", ["text"])], "Item 'one' must give chunks of bytes, got str"),
        (lambda: [make_item("")], "item_id must not be empty"),
        (lambda: [make_item("a\ud800")], "item_id must be Unicode text"),
        (lambda: [make_item("one", media_type="png")], "must be a MIME type such as image/png, got 'png'"),
        (lambda: [make_item("one", attributes={"seed": object()})], "Attributes of item 'one' must be JSON"),
        (lambda: [make_item("one", width=2**40)], "Item 'one'"),
    ],
    ids=["twice", "another size", "text", "no id", "no Unicode", "no MIME type", "no JSON", "too wide"],
)
def test_what_cannot_be_published_is_refused_and_leaves_nothing(
    handoffs: HandoffStore, store: LocalStore, items, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        publish(handoffs, items())
    assert files_of(store) == []
    assert handoffs.newest("pictures", "all") is None


def test_a_stream_that_fails_half_way_leaves_nothing(handoffs: HandoffStore, store: LocalStore) -> None:
    def items() -> Iterator[MediaItem]:
        yield from make_items(make_bodies(10))
        raise RuntimeError("the camera fell into the sea")

    with pytest.raises(RuntimeError, match="camera"):
        publish(handoffs, items(), shard_bytes=3000)
    assert files_of(store) == []


@pytest.mark.parametrize("damage", ["flipped", "torn", "missing", "no layout"])
def test_publishing_again_repairs_damaged_shards(handoffs: HandoffStore, damage: str) -> None:
    bodies = make_bodies(5)
    first = publish(handoffs, make_items(bodies))
    (shard,), (layout,) = store_files(first, ".media"), store_files(first, "shards.json")
    if damage == "flipped":
        flip(shard, 10)
    elif damage == "torn":
        shard.chmod(0o644)
        shard.write_bytes(shard.read_bytes()[:-1])
    else:
        (shard if damage == "missing" else layout).unlink()
    second = publish(handoffs, make_items(bodies))
    assert (second.version, second.reused) == (2, False)
    assert second.content_digest == first.content_digest
    MediaSet.open(second).verify()


def test_an_empty_set_is_a_version_too(handoffs: HandoffStore) -> None:
    media = MediaSet.open(publish(handoffs, []))
    assert (len(media), list(media), media.num_bytes, media.read_many([])) == (0, [], 0, [])
    assert "one" not in media
    media.verify()


def test_shards_lie_under_the_prefix_that_goes_with_the_version(handoffs: HandoffStore, store: LocalStore) -> None:
    handoff = publish(handoffs, make_items(make_bodies(5)))
    (prefix,) = media_prefixes(handoff.manifest)
    assert handoff.manifest.nonce in prefix
    assert all(key.startswith(f"{prefix}/") for key in files_of(store))


def test_garbage_collection_takes_the_shards_of_old_versions_and_of_killed_writers(store: LocalStore) -> None:
    handoffs, clock = HandoffStore(store), SystemClock()
    old, new = (publish(handoffs, [make_item("one", body)]) for body in (b"old", b"new"))
    with store.write_part(f"{parts_prefix('pictures', 'all', 'f' * 32)}/shard-00000.media") as orphan:
        orphan.write(b"of a killed writer")
    time.sleep(0.01)  # file times are coarse, and what is newer than the plan is young
    collect(store, clock, plan_collection(store, clock, keep_versions=1, grace_seconds=0))
    assert handoffs.versions("pictures", "all") == [2]
    assert {key.split("/")[4] for key in store.list("handoff") if "/parts/" in key} == {new.manifest.nonce}
    assert old.manifest.nonce != new.manifest.nonce
    MediaSet.open(new).verify()


WRITER = """
import sys
from pathlib import Path
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from tests.handoff.media.builders import make_item, publish
def items():
    for n in range(10**9):
        yield make_item(f"item-{n}", b"x" * 100_000)
        print("item", flush=True)
publish(HandoffStore(LocalStore(Path(sys.argv[1]))), items(), shard_bytes=1_000_000)
"""


@pytest.mark.process
def test_a_killed_writer_leaves_orphans_and_no_version(tmp_path: Path) -> None:
    run_and_kill(WRITER, tmp_path, word="item", times=35)
    handoffs = HandoffStore(LocalStore(tmp_path))
    assert handoffs.newest("pictures", "all") is None
    assert len(store_orphans := list(tmp_path.glob("handoff/pictures/all/parts/*/*.media"))) >= 3, store_orphans
    assert publish(handoffs, make_items(make_bodies(3))).version == 1


@given(st.lists(st.integers(0, 40), max_size=80))
def test_an_id_is_new_exactly_once(numbers: list[int]) -> None:
    ids = _SeenIds(run_length=4)
    assert [ids.add(number << 58) for number in numbers] == [n not in numbers[:i] for i, n in enumerate(numbers)]
