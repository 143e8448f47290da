from hypothesis import given
from hypothesis import strategies as st

from headrace.prep.split import is_heldout, split_of
from headrace.prep.text_keys import bucket, text_key, unit_interval


def test_the_side_of_a_term_is_the_same_for_ever() -> None:
    """Pinned: a term that changes sides spoils every held-out loss that was measured before."""
    assert round(unit_interval("headrace"), 12) == 0.879221358732
    assert [term for term in map(str, range(100)) if is_heldout(term, 0.05)] == ["3", "54", "59", "71", "73"]
    assert [bucket(key, 8) for key in ("weir", "mill", "race")] == [7, 7, 4]


def test_spellings_of_one_term_are_on_one_side() -> None:
    for spelling in ("Mühle", "mühle ", "MÜHLE", "mu\u0308hle"):
        assert text_key(spelling) == "mühle"


def test_the_held_out_share_is_met_and_a_larger_one_holds_out_the_same_terms_and_more() -> None:
    terms = [f"term {number}" for number in range(20_000)]
    small = {term for term in terms if is_heldout(term, 0.02)}
    large = {term for term in terms if is_heldout(term, 0.1)}

    assert 0.017 < len(small) / len(terms) < 0.023
    assert 0.094 < len(large) / len(terms) < 0.106
    assert small < large


def test_each_shard_holds_out_the_same_share() -> None:
    terms = [f"term {number}" for number in range(40_000)]
    for shard in range(4):
        own = [term for term in terms if bucket(term, 4) == shard]
        assert 0.045 < sum(is_heldout(term, 0.05) for term in own) / len(own) < 0.055


@given(st.text(), st.text(), st.text())
def test_the_term_decides_and_without_one_the_text_does(term: str, text: str, other: str) -> None:
    assert split_of(term, text, 0.3) == split_of(term, other, 0.3)
    assert split_of(None, text, 0.3) == split_of(text, other, 0.3)
