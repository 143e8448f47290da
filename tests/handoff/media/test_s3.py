"""Media in an object store: written, read by ranges, repaired and deleted as on a disk."""

import pytest

from headrace.errors import HandoffCollected, PartFlipped, PartMissing
from headrace.handoff.layout import manifest_key
from headrace.handoff.media.layout import media_prefixes
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.versions import HandoffStore
from tests.handoff.media.builders import chunked, make_bodies, make_item, make_items, publish

pytestmark = pytest.mark.process


def test_items_go_to_an_object_store_and_come_back(s3_handoffs: HandoffStore) -> None:
    bodies = make_bodies(40) | {"nothing": b"", "日本語": b"text"}
    media = MediaSet.open(publish(s3_handoffs, make_items(bodies), shard_bytes=9000))
    ids = list(reversed(bodies))
    assert media.read_many(ids) == [bodies[item_id] for item_id in ids]
    assert media.read("日本語") == b"text"
    assert {item.item_id: b"".join(chunks) for item, chunks in media.contents()} == bodies
    assert publish(s3_handoffs, make_items(bodies)).reused


def test_a_large_item_streams_through_an_object_store(s3_handoffs: HandoffStore) -> None:
    body = bytes(range(256)) * (80_000)
    item = make_item("film", chunked(body, 1 << 20), "video/mp4")
    media = MediaSet.open(publish(s3_handoffs, [make_item("before"), item], shard_bytes=8 << 20))
    assert b"".join(media.stream("film", 3_000_000)) == body


def test_damage_in_an_object_store_is_found_and_repaired(s3_handoffs: HandoffStore) -> None:
    bodies = make_bodies(5)
    handoff = publish(s3_handoffs, make_items(bodies))
    objects, key = s3_handoffs.objects, MediaSet.open(handoff).layout.key(0)
    damaged = bytearray(objects.read(key))
    damaged[0] ^= 1
    objects.delete(key)
    with pytest.raises(PartMissing, match=r"shard-00000.media is missing"):
        MediaSet.open(handoff).read("item-00000")
    with objects.write_part(key) as part:
        part.write(damaged)
    with pytest.raises(PartFlipped, match=r"item 'item-00000' in .*shard-00000.media"):
        MediaSet.open(handoff).read("item-00000")
    assert publish(s3_handoffs, make_items(bodies)).version == 2


def test_a_version_that_is_collected_while_it_is_read_says_so(s3_handoffs: HandoffStore) -> None:
    handoff = publish(s3_handoffs, make_items(make_bodies(5)))
    media = MediaSet.open(handoff)
    assert "item-00001" in media
    s3_handoffs.objects.delete(manifest_key(handoff.asset, handoff.partition, handoff.version))
    for prefix in media_prefixes(handoff.manifest):
        s3_handoffs.objects.delete_prefix(prefix)
    with pytest.raises(HandoffCollected, match="garbage-collected"):
        media.read("item-00001")
