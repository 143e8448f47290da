from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.handoff.schemas import check_schema
from headrace.prep.clean_shards import clean_shard
from headrace.prep.drops import TooMuchDropped
from headrace.prep.label_settings import LabelFile, Labels
from headrace.prep.rule_sets import QualityRules
from tests.prep.builders import make_corpus, make_raw

GOOD = "a channel that carries water to a mill wheel"


def dropped(*documents: dict[str, Any] | str, labels: dict[str, str] | None = None, **changes: Any) -> dict[str, int]:
    cleaned = clean_shard(make_corpus(**changes), make_raw(*documents), labels or {})
    return {rule: number for rule, number in cleaned.drops.items() if number}


RULES: dict[str, tuple[dict[str, Any] | str, str]] = {
    "whitespace alone": (" \u200b\t\n", "text_empty"),
    "no term for the prompt": ({"term": None, "text": GOOD}, "template_incomplete"),
    "a term of blanks": ({"term": " \u00ad", "text": GOOD}, "template_incomplete"),
    "a decoder's replacement character": ("a m\ufffdhle is a mill", "broken_characters"),
    "UTF-8 read as Latin-1": ("a mÃ¼hle is a mill", "broken_characters"),
    "one word": ("periwinkles", "too_few_words"),
    "a novel": ("word and other " * 200, "too_many_words"),
    "mostly digits": ("12 34 56 78 90 ab 11", "too_few_letters"),
    "no spaces": ("a" * 60 + " " + "b" * 60, "words_too_long"),
    "one word ten times": ("spam eggs " + "spam " * 12, "repeated_words"),
    "hash tags": ("# water # mill # wheel", "too_many_symbols"),
}


@pytest.mark.parametrize("phrase", RULES)
def test_each_rule_drops_its_own_kind_and_nothing_else(phrase: str) -> None:
    document, rule = RULES[phrase]

    assert dropped(GOOD, document) == {rule: 1}


def test_all_rules_are_counted_also_those_that_dropped_nothing() -> None:
    cleaned = clean_shard(make_corpus(), make_raw(GOOD), {})

    assert set(cleaned.drops.values()) == {0}
    assert list(cleaned.drops)[-2:] == ["exact_duplicate", "near_duplicate"]


def test_a_document_that_breaks_two_rules_counts_against_the_first() -> None:
    assert dropped("###") == {"too_few_words": 1}


def test_a_limit_of_null_turns_its_rule_off() -> None:
    assert dropped("periwinkles", rules=QualityRules.of("short", words_min=None)) == {}


def test_a_corpus_may_bring_patterns_of_its_own_each_with_its_count() -> None:
    rules = QualityRules.of("short", drop_matching={"urls": r"https?://", "offers": "(?i)buy now"})

    assert dropped("see https://a.b for more", "BUY NOW at the mill", GOOD, rules=rules) == {
        "matches_urls": 1,
        "matches_offers": 1,
    }


def test_an_unwanted_label_drops_its_document_and_the_others_carry_theirs() -> None:
    corpus = make_corpus(labels=Labels(file=LabelFile(path="labels.csv"), drop=("bad",)))
    raw = make_raw(GOOD, "a wheel that is turned by water", "stones that grind the grain")

    cleaned = clean_shard(corpus, raw, {"d1": "good", "d2": "bad"})

    assert cleaned.drops["label_unwanted"] == 1
    assert cleaned.documents.column("label").to_pylist() == ["good", None]


def test_copies_that_differ_in_case_and_spacing_alone_are_one_document() -> None:
    assert dropped("A  mill\u00a0wheel", "a mill wheel ", "another mill wheel") == {"exact_duplicate": 1}


def test_one_text_may_answer_many_prompts_if_the_corpus_says_so() -> None:
    twice = ({"term": "weir", "text": GOOD}, {"term": "headrace", "text": GOOD})

    assert dropped(*twice) == {"exact_duplicate": 1}
    assert dropped(*twice, duplicate_columns=("term", "text"), near_duplicates=None) == {}


texts = st.text(alphabet=st.sampled_from(list("ab #1\n\u200b\ufffdé")), max_size=40)


@given(st.lists(st.tuples(st.none() | texts, texts), max_size=30))
def test_every_document_is_kept_or_dropped_by_a_named_rule(rows: list[tuple[str | None, str]]) -> None:
    raw = make_raw(*({"term": term, "text": text} for term, text in rows))

    cleaned = clean_shard(make_corpus(), raw, {})

    check_schema("clean_documents", cleaned.documents)
    assert cleaned.documents.num_rows + sum(cleaned.drops.values()) == cleaned.num_rows_in == len(rows)
    kept_ids = cleaned.documents.column("document_id").to_pylist()
    assert kept_ids == [document_id for document_id in raw.column("document_id").to_pylist() if document_id in kept_ids]


def test_a_stage_that_drops_more_than_its_share_fails_and_names_the_worst_rule() -> None:
    """An empty shard would be sealed, and training would be green on nothing."""
    documents = ["too", "few", "words", "a text that is kept as it is"]
    with pytest.raises(TooMuchDropped) as refused:
        clean_shard(make_corpus(dropped_share_max=0.5), make_raw(*documents), {})
    assert str(refused.value).startswith(
        "Corpus glosses: 3 of 4 documents are dropped, most of them (3) by too_few_words, where dropped_share_max "
        "allows 50%. Correct the rules in the corpus file"
    )
    assert clean_shard(make_corpus(dropped_share_max=0.75), make_raw(*documents), {}).documents.num_rows == 1
    assert clean_shard(make_corpus(dropped_share_max=0.0), make_raw(), {}).documents.num_rows == 0
