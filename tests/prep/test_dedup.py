import random

from hypothesis import given
from hypothesis import strategies as st

from headrace.prep.corpus import NearDuplicates
from headrace.prep.dedup import exact_duplicates, jaccard, near_duplicates, neighbourhood, shingles

WORDS = ["river", "wheel", "stone", "grain", "mill", "weir", "gate", "boat", "rope", "bank", "lock", "race"]


def sentences(seed: int, number: int, words: int = 14) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choice(WORDS) + str(draw.randrange(50)) for _ in range(words)) for _ in range(number)]


def with_one_word_changed(text: str) -> str:
    """At the end, where it changes one three-word sequence alone."""
    return " ".join([*text.split()[:-1], "otherwise"])


def test_of_exact_copies_the_first_is_kept() -> None:
    assert exact_duplicates(["a mill", "A  MILL ", "a wheel", "a mill"]) == [None, 0, None, 0]


def test_of_near_copies_the_first_is_kept_wherever_they_stand() -> None:
    originals = sentences(seed=1, number=200)
    texts = [*originals, *map(with_one_word_changed, originals)]

    originals_of = near_duplicates(texts, NearDuplicates())

    assert originals_of[:200] == [None] * 200
    found = [(place, original) for place, original in enumerate(originals_of) if original is not None]
    assert all(place - original == 200 for place, original in found)
    # 11 of 13 sequences are shared: a similarity of 0.85, which LSH proposes in 97 of 100 cases or more.
    assert len(found) >= 190


def test_nothing_is_dropped_on_an_estimate() -> None:
    """Against brute force: each dropped text has a kept one of at least the threshold's exact similarity."""
    draw = random.Random(3)
    base = sentences(seed=2, number=60)
    texts = [" ".join(word for word in draw.choice(base).split() if draw.random() > 0.06) for _ in range(400)]
    settings_ = NearDuplicates(jaccard=0.7)

    flags = [original is not None for original in near_duplicates(texts, settings_)]

    kept = [shingles(text, 3) for text, flag in zip(texts, flags, strict=True) if not flag]
    dropped = [shingles(text, 3) for text, flag in zip(texts, flags, strict=True) if flag]
    assert dropped
    assert all(any(jaccard(one, other) >= 0.7 for other in kept) for one in dropped)
    missed = sum(jaccard(one, other) >= 0.7 for index, one in enumerate(kept) for other in kept[:index])
    assert missed <= 0.1 * len(dropped)


def test_short_texts_are_near_copies_only_if_they_are_the_same_words() -> None:
    assert near_duplicates(["a mill", "a mill!", "a wheel", "…", "…"], NearDuplicates()) == [
        None,
        0,
        None,
        None,
        None,
    ]


def test_the_same_texts_give_the_same_flags_in_any_batching() -> None:
    texts = sentences(seed=4, number=300) * 2
    assert near_duplicates(texts, NearDuplicates()) == [*[None] * 300, *range(300)]


@given(st.lists(st.sampled_from(WORDS), max_size=12))
def test_a_neighbourhood_is_one_of_the_texts_own_sequences(words: list[str]) -> None:
    text = " ".join(words)

    assert neighbourhood(text) == neighbourhood(text.upper() + " !")
    assert neighbourhood(text) in (shingles(text, 3) or {""})


def test_near_copies_share_a_neighbourhood_about_as_often_as_they_are_similar() -> None:
    originals = sentences(seed=5, number=1_000)

    shared = sum(neighbourhood(text) == neighbourhood(with_one_word_changed(text)) for text in originals)

    # The similarity is 11/13 = 0.846; three standard deviations of 1,000 draws are 0.034.
    assert 0.81 < shared / 1_000 < 0.88
