"""Whatever Dagster takes as a partition key has a path of its own, and leads back from a listing; forms of keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidInput
from headrace.keys import (
    ContentPartition,
    Window,
    event_prompt_id,
    partition_from_path,
    partition_path,
    window_key,
    window_of_key,
)

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=400)


@given(KEYS)
def test_a_key_is_one_file_name_that_leads_back_to_its_place(key: str) -> None:
    segment = partition_path(key)

    assert "/" not in segment
    assert segment not in (".", "..")
    assert len(segment.encode()) <= 255
    assert partition_path(partition_from_path(segment)) == segment


@given(KEYS, KEYS)
def test_two_keys_have_two_paths(one: str, other: str) -> None:
    assert (partition_path(one) == partition_path(other)) == (one == other)


def test_a_key_that_fits_is_kept_whole() -> None:
    assert partition_from_path(partition_path("生" * 28)) == "生" * 28


def test_of_a_longer_key_the_beginning_stays_readable() -> None:
    shown = partition_from_path(partition_path("生成" * 20 + "一"))

    assert shown.startswith("生成" * 10 + "~")
    assert shown != partition_from_path(partition_path("生成" * 20 + "二"))


PARTITIONS = {
    "2026-11-22|glossary-03": ContentPartition(day="2026-11-22", campaign="glossary", shard=3),
    "2026-11-22|glossary-100": ContentPartition(day="2026-11-22", campaign="glossary", shard=100),
    "2026-11-22|orders-w000123": ContentPartition(day="2026-11-22", campaign="orders", window=Window(number=123)),
    "2026-11-22|orders-w1000000": ContentPartition(
        day="2026-11-22", campaign="orders", window=Window(number=1_000_000)
    ),
    "2026-11-22|orders-w000123-late": ContentPartition(
        day="2026-11-22", campaign="orders", window=Window(number=123, late_part=1)
    ),
    "2026-11-22|orders-w000123-late12": ContentPartition(
        day="2026-11-22", campaign="orders", window=Window(number=123, late_part=12)
    ),
    # Campaigns whose names look like windows have shards and windows of their own.
    "2026-11-22|orders-w000123-00": ContentPartition(day="2026-11-22", campaign="orders-w000123", shard=0),
    "2026-11-22|orders-w000001-late-w000002": ContentPartition(
        day="2026-11-22", campaign="orders-w000001-late", window=Window(number=2)
    ),
}


@pytest.mark.parametrize("key", PARTITIONS)
def test_a_content_partition_has_one_key_that_leads_back_to_it(key: str) -> None:
    assert ContentPartition.parse(key) == PARTITIONS[key]
    assert PARTITIONS[key].key == key
    assert partition_from_path(partition_path(key)) == key


@given(
    st.from_regex(r"[a-z0-9]+(-[a-z0-9]+){0,3}", fullmatch=True),
    st.integers(1, 10**9),
    st.integers(0, 200),
    st.integers(0, 10**5),
)
def test_no_window_has_a_shards_key(campaign: str, number: int, late_part: int, shard: int) -> None:
    window = ContentPartition(day="2026-11-22", campaign=campaign, window=Window(number=number, late_part=late_part))
    numbered = ContentPartition(day="2026-11-22", campaign=campaign, shard=shard)

    assert ContentPartition.find(window.key) == window
    assert ContentPartition.find(numbered.key) == numbered


@pytest.mark.parametrize(
    "key",
    [
        "glossary-03",
        "2026-11-22",
        "2026-11-22|glossary",
        "2026-11-22|glossary-3",
        "2026-11-22|orders-w123",
        "2026-11-22|orders-w000123-late1",
        "2026-11-22|orders-w000123-late0",
        "2026-11-22|orders-w000123-early",
        "2026-11-22|-w000123",
        "yesterday|orders-w000123",
    ],
)
def test_what_is_no_content_partition_is_found_by_nobody(key: str) -> None:
    assert ContentPartition.find(key) is None
    with pytest.raises(InvalidInput, match=r"is not DAY\|CAMPAIGN-SHARD, such as .*, or DAY\|CAMPAIGN-wNUMBER"):
        ContentPartition.parse(key)


def test_windows_are_in_the_order_of_time_and_late_parts_follow_theirs() -> None:
    keys = ["orders-w000002", "orders-w000001-late2", "orders-w000001", "orders-w000001-late", "orders-w000001-late10"]
    found = [found for key in keys if (found := window_of_key(key))]

    assert [window_key(campaign, window) for campaign, window in sorted(found)] == [
        "orders-w000001",
        "orders-w000001-late",
        "orders-w000001-late2",
        "orders-w000001-late10",
        "orders-w000002",
    ]


def test_a_prompt_of_an_event_is_known_by_source_id_and_text() -> None:
    one = event_prompt_id("orders", "shop", "1", "Describe it.")

    assert one == event_prompt_id("orders", "shop", "1", "Describe it.")
    others = [("orders", "shop", "2", "Describe it."), ("orders", "till", "1", "Describe it."),
              ("orders", "shop", "1", "Name it."), ("offers", "shop", "1", "Describe it.")]  # fmt: skip
    assert one not in {event_prompt_id(*other) for other in others}
