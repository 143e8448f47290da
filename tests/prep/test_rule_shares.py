"""What each rule took of a corpus, and the sentence where it is too much."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import InvalidInput
from headrace.handoff.versions import HandoffStore
from headrace.prep.cleaning import rule_sources
from headrace.prep.images.corpus import ImageCorpus
from headrace.prep.label_settings import LabelFile, Labels
from headrace.prep.language import LanguageRules
from headrace.prep.personal_settings import PersonalData
from headrace.prep.rule_sets import QualityRules
from headrace.prep.rule_shares import markdown, refusal, rule_shares, summary
from headrace.store.local import LocalStore
from tests.prep.builders import make_corpus, make_raw


def test_every_rule_has_a_share_a_source_and_a_limit() -> None:
    corpus = make_corpus(rules=QualityRules.of("fineweb", drop_matching={"ads": "buy now"}))

    shares = rule_shares(corpus, [{"too_few_words": 3, "matches_ads": 1}, {"too_few_words": 1}], 10)

    assert [one.rule for one in shares] == list(rule_sources(corpus))
    found = {one.rule: (one.source, one.limit, one.num_dropped, one.share_max) for one in shares}
    assert found["too_few_words"] == ("Gopher", 50, 4, 0.5)
    assert found["too_few_ended_lines"] == ("FineWeb", 0.12, 0, 0.5)
    assert found["filler"] == ("C4", 0, 0, 0.5)
    assert found["matches_ads"] == ("the corpus file", "buy now", 1, 0.5)
    assert found["near_duplicate"] == ("ours", 0.8, 0, None)
    assert markdown(shares).splitlines()[2] == "|too_few_words|Gopher|50|4|40.00%|50%|"


def test_the_sentence_names_the_rules_that_dropped_most() -> None:
    corpus = make_corpus(rules=QualityRules.of("fineweb"))
    drops = {rule: number for number, rule in enumerate(list(rule_sources(corpus))[:9])}

    assert summary(rule_shares(corpus, [drops], 1000), ["shard-00"]).startswith(
        "shard-00: 36 of 1,000 documents (3.6%)"
    )
    assert summary(rule_shares(corpus, [drops], 1000), ["shard-00"]).endswith(", other rules 3.")
    assert summary(rule_shares(corpus, [{"text_empty": 2}], 10), ["a", "b"]) == (
        "2 shards: 2 of 10 documents (20.0%) were dropped: text_empty 2."
    )
    assert summary(rule_shares(corpus, [{}], 10), ["a"]) == "a: none of 10 documents was dropped."


def test_a_rule_that_takes_too_much_is_told_with_its_share_and_a_document(tmp_path: Path) -> None:
    corpus = make_corpus(rules=QualityRules.of("short", share_max=0.4))
    handoffs = HandoffStore(LocalStore(tmp_path))
    raw = make_raw("one", "a wheel in a race", "two")
    handoffs.publish("raw_documents", "shard-00", raw, code_version="1", run_id="r")
    drops = {"too_few_words": 2}
    of_shard = {"shard-00": rule_shares(corpus, [drops], 3), "shard-01": rule_shares(corpus, [drops], 100)}

    text = refusal(corpus, handoffs, of_shard)

    assert text == (
        "too_few_words (Gopher, limit 2) dropped 66.7% of 3 documents of shard-00, such as 'one' in files/a.jsonl line "
        "1, where rules.share_max allows 40.0%. Choose the rule set for this kind of text, correct the rule's limit, "
        "or allow more in rules.shares_max.too_few_words."
    )
    allowing = make_corpus(rules=QualityRules.of("short", share_max=0.4, shares_max={"too_few_words": 0.7}))
    assert refusal(allowing, handoffs, {"shard-00": rule_shares(allowing, [drops], 3)}) is None
    both = refusal(corpus, handoffs, of_shard | {"shard-01": rule_shares(corpus, [drops], 4)})
    assert both
    assert "66.7% of 3 documents of shard-00, the worst of 2 shards, such as 'one'" in both


def test_shares_change_no_document_so_they_change_no_digest() -> None:
    plain = make_corpus(rules=QualityRules.of("web"))

    assert (
        make_corpus(rules=QualityRules.of("web", share_max=0.1, shares_max={"too_few_words": 1})).digest == plain.digest
    )
    assert make_corpus(rules=QualityRules.of("web", sentences_min=1)).digest != plain.digest


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({"too_few_word": 0.1}, "shares_max must name rules, got 'too_few_word'; did you mean 'too_few_words'?"),
        ({"too_few_words": 2}, "shares_max.too_few_words must be between 0 and 1, got 2."),
    ],
)
def test_a_share_of_no_rule_or_beyond_one_is_refused(shares: dict[str, float], said: str) -> None:
    with pytest.raises(InvalidInput, match=said.replace("?", "[?]")):
        make_corpus(rules=QualityRules(shares_max=shares))


def test_every_rule_that_a_check_names_can_be_allowed_more() -> None:
    """Also the rules of a language, which languages have, and of personal data."""
    language = LanguageRules(
        keep=("en", "zh-Hant"), rules={"zh-Hant": QualityRules.of("web", drop_matching={"x": "x"})}
    )
    corpus = make_corpus(
        language=language,
        personal_data=PersonalData(email="drop"),
        labels=Labels(file=LabelFile(path="labels.csv"), drop=("bad",)),
    )
    names = list(rule_sources(corpus))
    assert {"language", "personal_data_email", "too_few_words_zh_Hant", "matches_x_zh_Hant"} < set(names)

    allowing = dataclasses.replace(corpus, rules=QualityRules.of("short", shares_max=dict.fromkeys(names, 0.9)))

    assert {one.share_max for one in rule_shares(allowing, [], 1)} == {0.9}


@pytest.mark.parametrize(("key", "value"), [("share_max", 0.9), ("shares_max", {"too_few_words": 0.9})])
def test_a_share_is_refused_where_nothing_looks_at_it(key: str, value: Any) -> None:
    rules = QualityRules(**{key: value})

    with pytest.raises(InvalidInput, match=f"^rules: zh: {key} must be left out here, got .*_zh: 0.6}}"):
        LanguageRules(rules={"zh": rules})
    with pytest.raises(InvalidInput, match=f"^captions: {key} must be left out here, got .* dropped_share_max says"):
        ImageCorpus(name="pictures", files=("*.jpg",), captions=rules)


def test_a_rule_of_a_language_has_no_other_rules_name() -> None:
    with pytest.raises(InvalidInput, match="got 'matches_x_zh' in both: rename it"):
        make_corpus(
            rules=QualityRules(drop_matching={"x_zh": "a"}),
            language=LanguageRules(rules={"zh": QualityRules(drop_matching={"x": "b"})}),
        )
