from dataclasses import replace

from headrace.prep.leaks import find_leaks
from tests.prep.builders import make_clean, make_corpus
from tests.prep.test_dedup import sentences

TRAIN = {"term": "weir", "text": "a low dam", "split": "train"}


def test_a_clean_split_has_no_leak_across_shards() -> None:
    heldout = {"term": "headrace", "text": "a channel", "split": "heldout"}

    leaks = find_leaks(make_corpus(), [make_clean(TRAIN), make_clean(heldout, {**heldout, "text": "a race"})])

    assert not leaks.found
    assert leaks.told(2) == (
        "2 held-out and 1 training documents of 2 shards were compared: no term, no text and no twin is on both sides. "
        "Twins overlap by 0.6 or more; the split's sketch finds at least 98.8% of them, this check all."
    )
    assert "no term and no text is on both sides." in find_leaks(
        make_corpus(twins_jaccard=None), [make_clean(TRAIN)]
    ).told(1)


def test_a_term_on_both_sides_is_found_across_shards_in_any_spelling() -> None:
    leaks = find_leaks(
        make_corpus(), [make_clean(TRAIN), make_clean({**TRAIN, "term": "Weir", "text": "x", "split": "heldout"})]
    )

    assert (leaks.num_terms, leaks.num_texts) == (1, 0)
    assert leaks.samples == ("weir",)
    assert "on both sides is 1 term. " in leaks.told(2)
    assert leaks.told(2).endswith(" On both sides, for example: weir")


def test_a_text_on_both_sides_is_found_whatever_its_term() -> None:
    heldout = {"term": None, "text": "A  low dam", "split": "heldout"}

    leaks = find_leaks(make_corpus(), [make_clean(TRAIN, heldout)])

    assert (leaks.num_terms, leaks.num_texts) == (0, 1)


def test_a_text_that_may_answer_many_prompts_leaks_unless_the_terms_alone_are_to_decide() -> None:
    documents = make_clean(TRAIN, {"term": "dam", "text": "A low dam", "split": "heldout"})
    corpus = make_corpus(duplicate_columns=("term", "text"))

    leaks = find_leaks(corpus, [documents])
    assert (leaks.found, leaks.is_certain, leaks.num_texts) == (True, True, 1)
    assert "A low dam" in leaks.samples or "a low dam" in leaks.samples

    leaks = find_leaks(replace(corpus, twins_jaccard=None), [documents])
    assert (leaks.found, leaks.num_texts, leaks.samples) == (False, 1, ())
    assert leaks.told(1).endswith("that another column tells apart: 1, no leak.")


def test_documents_without_terms_do_not_leak_by_having_none() -> None:
    documents = ({**TRAIN, "term": None}, {"term": None, "text": "another", "split": "heldout"})

    assert not find_leaks(make_corpus(), [make_clean(*documents)]).found


def test_more_twins_on_two_sides_than_chance_explains_are_an_error_and_a_few_of_the_least_similar_are_not() -> None:
    """Copies never get so far, so that a pair is a copy cannot be the bar."""
    texts = sentences(seed=9, number=200, words=60)

    def leaks_of(num_twins: int, num_changed: int) -> bool:
        heldout = [{"term": f"h{at}", "text": text, "split": "heldout"} for at, text in enumerate(texts)]
        twins = [
            {"term": f"t{at}", "text": " ".join([*text.split()[:-num_changed], *[f"other{at}"] * num_changed])}
            for at, text in enumerate(texts[:num_twins])
        ]
        leaks = find_leaks(make_corpus(), [make_clean(*heldout, *twins)])
        assert (leaks.num_twins, leaks.most_similar < 0.8) == (num_twins, True)
        return leaks.is_certain

    assert not leaks_of(1, 21)
    assert leaks_of(60, 21)
    assert leaks_of(1, 10)
