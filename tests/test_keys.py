"""Whatever Dagster takes as a partition key has a path of its own, and leads back from a listing."""

from hypothesis import given
from hypothesis import strategies as st

from headrace.keys import partition_from_path, partition_path

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
