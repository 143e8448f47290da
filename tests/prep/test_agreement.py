import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.prep.agreement import agreement_of, cohens_kappa, krippendorffs_alpha

# Krippendorff 2011, examples A and C: a row is an observer, a dot a missing value.
BINARY = ("0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0")
FOUR_OBSERVERS = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)


def by_document(*observers: str) -> list[dict[str, str]]:
    return [
        {str(number): label for number, label in enumerate(labels) if label != "."}
        for labels in zip(*map(str.split, observers), strict=True)
    ]


def test_alpha_is_the_one_of_the_textbook_for_two_observers() -> None:
    assert krippendorffs_alpha(by_document(*BINARY)) == pytest.approx(0.095, abs=0.0005)


def test_alpha_is_the_one_of_the_textbook_for_four_observers_who_left_units_out() -> None:
    assert krippendorffs_alpha(by_document(*FOUR_OBSERVERS)) == pytest.approx(0.743, abs=0.0005)


def test_alpha_of_one_label_is_perfect_and_without_a_pair_there_is_none() -> None:
    assert krippendorffs_alpha([{"a": "x", "b": "x"}, {"a": "x", "b": "x"}]) == 1
    assert krippendorffs_alpha([{"a": "x"}, {"b": "y"}, {}]) is None


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("xyz")), min_size=30, max_size=60))
def test_alpha_of_two_complete_sources_is_near_kappa_and_keeps_its_sign_by_which_source_is_first(
    pairs: list[tuple[str, str]],
) -> None:
    alpha = krippendorffs_alpha([{"a": left, "b": right} for left, right in pairs])
    turned = krippendorffs_alpha([{"a": right, "b": left} for left, right in pairs])

    assert alpha is not None
    assert alpha == pytest.approx(turned)
    # Scott's pi, to which alpha tends, is at most kappa; both are 1 together.
    assert alpha <= cohens_kappa(pairs) + 1 / len(pairs) + 1e-9


def test_each_label_has_its_precision_and_recall_against_the_first_source() -> None:
    pairs = (
        [("good", "good")] * 6 + [("good", "bad")] * 2 + [("bad", "bad")] + [("bad", "good")] * 3 + [("ugly", "bad")]
    )
    found = {one.label: one for one in agreement_of(pairs).labels}

    assert list(found) == ["bad", "good", "ugly"]
    assert (found["good"].num_first, found["good"].num_second, found["good"].num_both) == (8, 9, 6)
    assert (found["good"].precision, found["good"].recall) == (6 / 9, 6 / 8)
    assert (found["ugly"].precision, found["ugly"].recall) == (None, 0)
    assert agreement_of([]).labels == ()
