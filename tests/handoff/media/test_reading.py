"""Any item by its id, in one read, checked; all items in a row in bounded memory."""

import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.clock import FixedClock
from headrace.errors import HandoffCollected, HandoffCorrupt, InvalidInput, PartFlipped, PartMissing, PartTorn
from headrace.handoff.media.lookup import COLUMNS, Lookup
from headrace.handoff.media.reading import WINDOW_BYTES, MediaSet
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.store.local import LocalStore
from tests.handoff.media.builders import chunked, flip, make_bodies, make_item, make_items, publish, store_files


class RecordedStore:
    """A store that is no LocalStore, as one over a network: it says what was read in which way."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self.ranges: list[list[tuple[int, int]]] = []

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        self.ranges.append(list(ranges))
        return self._store.read_ranges(key, ranges)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.fixture(params=["files", "ranges"])
def shared(request: pytest.FixtureRequest, store: LocalStore) -> HandoffStore:
    """Both ways to read: files of this machine, and ranges that a store is asked for."""
    objects: Any = store if request.param == "files" else RecordedStore(store)
    return HandoffStore(objects, FixedClock())


@pytest.fixture
def bodies() -> dict[str, bytes]:
    return make_bodies(60) | {"nothing": b"", "one byte": b"x", "日本語 ☂/..": b"umbrella", ".": b"dot"}


@pytest.fixture
def media(shared: HandoffStore, bodies: dict[str, bytes]) -> MediaSet:
    return MediaSet.open(publish(shared, make_items(bodies), shard_bytes=7000))


def test_an_item_is_found_by_its_id(media: MediaSet, bodies: dict[str, bytes]) -> None:
    assert all(media.read(item_id) == body for item_id, body in bodies.items())
    assert all(item_id in media for item_id in bodies)
    assert [media.item(item_id).num_bytes for item_id in bodies] == [len(body) for body in bodies.values()]


def test_many_items_come_in_the_order_asked_for(media: MediaSet, bodies: dict[str, bytes]) -> None:
    wanted = [*reversed(bodies), "nothing", "item-00003", "item-00003"]
    assert media.read_many(wanted) == [bodies[item_id] for item_id in wanted]


@pytest.mark.parametrize("chunk_bytes", [1, 7, 100_000])
def test_an_item_streams_in_chunks(media: MediaSet, bodies: dict[str, bytes], chunk_bytes: int) -> None:
    for item_id in ("item-00000", "nothing", "one byte"):
        assert list(media.stream(item_id, chunk_bytes)) == list(chunked(bodies[item_id], chunk_bytes))


def test_all_items_come_in_their_order(media: MediaSet, bodies: dict[str, bytes]) -> None:
    assert [(item.item_id, b"".join(chunks)) for item, chunks in media.contents()] == list(bodies.items())
    assert [item.item_id for item in media] == list(media.ids()) == list(bodies)


def test_an_id_that_is_not_there_is_named(media: MediaSet) -> None:
    assert "item-99999" not in media
    for read in (media.read, media.item, media.stream, lambda item_id: media.read_many(["item-00001", item_id])):
        with pytest.raises(
            InvalidInput, match=r"pictures\[all\] v1 have no item 'item-99999'. There are 64, the first"
        ):
            read("item-99999")


def test_an_item_is_one_ranged_read_and_many_are_one_a_shard(store: LocalStore) -> None:
    recorded: Any = RecordedStore(store)
    media = MediaSet.open(
        publish(HandoffStore(recorded, FixedClock()), make_items(make_bodies(40)), shard_bytes=20_000)
    )
    recorded.ranges.clear()
    media.read("item-00007")
    assert len(recorded.ranges) == 1
    recorded.ranges.clear()
    media.read_many(list(media.ids()))
    assert len(recorded.ranges) == len(media.layout.shards)
    assert all(ranges == sorted(ranges) for ranges in recorded.ranges)
    recorded.ranges.clear()
    media.verify()
    assert len(recorded.ranges) == len(media.layout.shards)


def test_a_flipped_byte_is_found_by_every_way_to_read_it(media: MediaSet) -> None:
    flip(store_files_of(media, ".media")[2], 0)
    damaged = next(row["item_id"] for row in media.locations().to_pylist() if "00002.media" in row["shard_uri"])

    def all_contents() -> None:
        for _, chunks in media.contents():
            list(chunks)

    for read in (
        lambda: media.read(damaged),
        lambda: media.read_many(["nothing", damaged]),
        lambda: list(media.stream(damaged, 16)),
        all_contents,
        media.verify,
    ):
        with pytest.raises(PartFlipped, match=rf"item '{damaged}' in .*/shard-00002.media at byte 0 has digest"):
            read()


def test_a_damaged_stream_never_comes_to_its_end(media: MediaSet, bodies: dict[str, bytes]) -> None:
    flip(store_files_of(media, ".media")[0], 0)
    received: list[bytes] = []
    with pytest.raises(PartFlipped):
        received.extend(media.stream("item-00000", 16))
    assert sum(map(len, received)) < len(bodies["item-00000"])


def test_a_missing_or_torn_shard_is_named(media: MediaSet) -> None:
    first, second, *_ = store_files_of(media, ".media")
    first.unlink()
    second.chmod(0o644)
    second.write_bytes(b"")
    with pytest.raises(PartMissing, match=r"shard-00000.media is missing. Materialize"):
        media.read("item-00000")
    torn = next(row["item_id"] for row in media.locations().to_pylist() if "00001.media" in row["shard_uri"])
    with pytest.raises((PartTorn, HandoffCorrupt), match=r"shard-00001.media"):
        media.read(torn)


def test_a_collected_version_is_not_called_damaged(media: MediaSet) -> None:
    assert "item-00000" in media
    media.handoff.objects.delete_prefix("handoff/pictures/all")
    with pytest.raises(HandoffCollected, match="garbage-collected"):
        media.read("item-00000")


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b'{"format_version":1,"alignment":64,"shards":[[1,10]]}', b'{"format_version":1}'],
    ids=["empty", "torn", "a list", "another number of items", "no shards"],
)
def test_a_damaged_layout_is_an_error_of_its_own(handoffs: HandoffStore, text: bytes) -> None:
    handoff = publish(handoffs, make_items(make_bodies(5)))
    (layout,) = store_files(handoff, "shards.json")
    layout.chmod(0o644)
    layout.write_bytes(text)
    with pytest.raises(HandoffCorrupt, match="shards.json is damaged"):
        MediaSet.open(handoff)


def test_a_layout_of_other_sizes_is_found_before_an_item_is_read(handoffs: HandoffStore) -> None:
    handoff = publish(handoffs, make_items(make_bodies(4)), shard_bytes=2000)
    (layout,) = store_files(handoff, "shards.json")
    layout.chmod(0o644)
    layout.write_bytes(b'{"format_version":1,"alignment":64,"shards":[[4,1]]}')
    with pytest.raises(HandoffCorrupt, match="contradict each other"):
        MediaSet.open(handoff).read("item-00000")


def test_a_handoff_without_media_is_refused(handoffs: HandoffStore) -> None:
    handoff = handoffs.publish("docs", "all", pa.table({"x": [1]}), code_version="1", run_id="r")
    with pytest.raises(InvalidInput, match=r"docs\[all\] v1 is no media index"):
        MediaSet.open(handoff)


def test_reading_all_in_a_row_holds_a_window_at_most(handoffs: HandoffStore) -> None:
    items = (make_item(f"item-{n}", (bytes(1 << 20) for _ in range(6 if n % 4 else 24))) for n in range(12))
    media = MediaSet.open(publish(handoffs, items))
    list(media)
    tracemalloc.start()
    num_read = sum(len(chunk) for _, chunks in media.contents() for chunk in chunks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_read == (3 * 24 + 9 * 6) << 20
    assert peak < 2 * WINDOW_BYTES + (4 << 20)


def test_a_look_up_over_several_parts_is_a_look_up_over_one(handoffs: HandoffStore) -> None:
    media = MediaSet.open(publish(handoffs, make_items(make_bodies(100)), shard_bytes=9000))
    index = media.handoff.table(COLUMNS)
    cut = pa.concat_tables([index.slice(0, 30), index.slice(30, 0), index.slice(30, 70)])
    one, other = Lookup(index, media.layout), Lookup(cut, media.layout)
    ids = list(media.ids())
    assert [one.place(row) for row in range(100)] == [other.place(row) for row in range(100)]
    assert [other.row(item_id) for item_id in ids] == list(range(100))
    assert other.rows(ids)[0].tolist() == list(range(100))


IDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bodies=st.dictionaries(IDS, st.binary(max_size=300), max_size=20), chunk_bytes=st.integers(1, 200), data=st.data()
)
def test_any_items_in_any_chunks_and_shards_come_back(
    tmp_path_factory: pytest.TempPathFactory, bodies: dict[str, bytes], chunk_bytes: int, data: st.DataObject
) -> None:
    handoffs = HandoffStore(LocalStore(tmp_path_factory.mktemp("store")), FixedClock())
    shard_bytes = data.draw(st.integers(1, 2000))
    items = [make_item(item_id, chunked(body, chunk_bytes)) for item_id, body in bodies.items()]
    media = MediaSet.open(publish(handoffs, items, shard_bytes=shard_bytes))
    assert {item.item_id: b"".join(chunks) for item, chunks in media.contents()} == bodies
    wanted = data.draw(st.lists(st.sampled_from(sorted(bodies)), max_size=10)) if bodies else []
    assert media.read_many(wanted) == [media.read(item_id) for item_id in wanted] == [bodies[one] for one in wanted]
    assert publish(handoffs, make_items(bodies)).reused


def store_files_of(media: MediaSet, suffix: str) -> list[Path]:
    handoff: Handoff = media.handoff
    return store_files(handoff, suffix)
