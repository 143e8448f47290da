from hypothesis import given
from hypothesis import strategies as st

from headrace.prep.packing import pack


@given(st.lists(st.integers(1, 40), max_size=120))
def test_every_example_is_packed_once_whole_and_within_the_capacity(lengths: list[int]) -> None:
    sequences = pack(lengths, 40)

    assert sorted(index for members in sequences for index in members) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in members) <= 40 for members in sequences)


@given(st.lists(st.integers(1, 40), max_size=120))
def test_no_sequence_is_begun_while_an_example_still_fits_into_an_earlier_one(lengths: list[int]) -> None:
    """Hence no two sequences could be one, and all but one are more than half full."""
    sequences = pack(lengths, 40)

    for number, members in enumerate(sequences):
        for earlier in sequences[:number]:
            before = sum(lengths[index] for index in earlier if index < members[0])
            assert before + lengths[members[0]] > 40
    assert sum(sum(lengths[index] for index in members) <= 20 for members in sequences) <= 1


def test_an_example_goes_where_it_leaves_the_least_free() -> None:
    assert pack([6, 5, 4], 10) == [[0, 2], [1]]
    assert pack([5, 6, 4], 10) == [[0], [1, 2]]


def test_no_examples_make_no_sequence() -> None:
    assert pack([], 8) == []
