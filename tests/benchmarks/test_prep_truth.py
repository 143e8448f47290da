import random

import pytest

from benchmarks.prep.truth import TOKENS, Truth, pairs_left, removals_with_a_twin, shingles, similar_pairs

WORDS = ["river", "wheel", "stone", "grain", "mill", "weir", "gate", "boat", "rope", "bank", "lock", "race"]


def made_texts(seed: int) -> list[str]:
    """Copies of a few texts, with some words changed."""
    draw = random.Random(seed)
    originals = [draw.choices(WORDS, k=draw.randint(1, 30)) for _ in range(8)]
    return [
        " ".join(draw.choice(WORDS) if draw.random() < 0.05 else word for word in draw.choice(originals))
        for _ in range(60)
    ]


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("least", [0.5, 0.8, 1.0])
def test_the_truth_has_every_pair_and_no_other(tokens: str, least: float) -> None:
    texts = ["", *made_texts(seed=5)]

    sets = [shingles(text, tokens, 3) for text in texts]
    every = {
        (at, later): len(one & sets[later]) / len(one | sets[later])
        for at, one in enumerate(sets)
        for later in range(at + 1, len(sets))
        if one or sets[later]
    }
    similar = {pair: similarity for pair, similarity in every.items() if similarity >= least}
    assert similar
    assert similar_pairs(texts, tokens, 3, least) == similar


def test_a_removal_needs_a_kept_twin_and_a_pair_needs_one_removed() -> None:
    truth = Truth(pairs={(0, 1): 0.9, (0, 2): 0.72, (3, 4): 0.85}, num_documents=6)

    verdict = truth.judge(kept=[0, 3, 4], twin_least=0.8, pair_least=0.8)

    # Of 1, 2 and 5 only 1 is similar enough to a kept one; of the pairs from 0.8 on, (3, 4) is kept.
    assert (verdict.with_a_twin, verdict.pairs_left) == (1 / 3, 1 / 2)
    assert removals_with_a_twin(truth.pairs, [True] * 6, 0.8) == 1.0
    assert pairs_left(truth.pairs, [False] * 6, 0.8) == 0.0
