"""What `headrace dropped` tells: the documents that cleaning leaves out, with figures that plain Python finds too."""

import dataclasses
import random
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.chat.tokenizer import ChatTokenizer
from headrace.errors import HandoffMissing
from headrace.handoff.versions import HandoffStore
from headrace.prep.clean_shards import clean_shard
from headrace.prep.corpus import Corpus
from headrace.prep.dropped_documents import DroppedOfShard, dropped_of_shard
from headrace.prep.drops import DroppedDocument
from headrace.prep.example_forms import ExampleForm
from headrace.prep.examples import build_examples
from headrace.prep.label_settings import LabelFile, Labels
from headrace.prep.rule_sets import QualityRules
from headrace.store.local import LocalStore
from tests.prep.builders import make_corpus, make_raw
from tests.prep.measure_reference import reference_measures

GOOD = "a channel that carries water to a mill wheel"
LONG = " ".join(f"word{number}" for number in range(80))
SHARD = "shard-00"


class Site:
    def __init__(self, directory: Path) -> None:
        self.handoffs = HandoffStore(LocalStore(directory))

    def seal(self, asset: str, table: Any) -> None:
        self.handoffs.publish(asset, SHARD, table, code_version="1", run_id="r")

    def dropped(
        self, corpus: Corpus, tokenizer: ChatTokenizer | None = None, rule: str | None = None
    ) -> DroppedOfShard:
        return dropped_of_shard(corpus, self.handoffs, SHARD, rule=rule, tokenizer=tokenizer)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def shown(one: DroppedDocument) -> tuple[Any, ...]:
    measured = round(one.measured, 4) if isinstance(one.measured, float) else one.measured
    return one.document_id, one.rule, measured, one.limit, one.copy_of


def test_each_document_comes_with_its_rule_what_it_measured_and_the_limit(site: Site) -> None:
    near = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    documents: list[Any] = [
        GOOD,
        " \u200b ",
        {"term": None, "category": None, "text": GOOD + " again"},
        "a mÃ¼hle is a mill",
        "periwinkles",
        "word and other " * 200,
        "12 34 56 78 90 ab 11",
        "a" * 60 + " " + "b" * 60,
        "spam eggs " + "spam " * 12,
        "# water # mill # wheel",
        "see https://example.org/x for it",
        GOOD.upper(),
        near,
        near + " fifteen",
    ]
    site.seal("raw_documents", make_raw(*documents))
    rules = QualityRules.of("short", drop_matching={"urls": r"https?://(\w+)"})
    found = site.dropped(make_corpus(rules=rules))
    assert [shown(one) for one in found.documents] == [
        ("d2", "text_empty", 0, None, None),
        ("d3", "template_incomplete", "term, category", "term, category, text", None),
        ("d4", "broken_characters", "Ã¼", None, None),
        ("d5", "too_few_words", 1, 2, None),
        ("d6", "too_many_words", 600, 400, None),
        ("d7", "too_few_letters", round(2 / 14, 4), 0.5, None),
        ("d8", "words_too_long", 60.0, 14.0, None),
        ("d9", "repeated_words", round(1 - 2 / 14, 4), 0.6, None),
        ("d10", "too_many_symbols", 1.0, 0.1, None),
        ("d11", "matches_urls", "https://example", r"https?://(\w+)", None),
        ("d12", "exact_duplicate", None, None, "d1"),
        ("d13", "near_duplicate", round(12 / 13, 4), 0.8, "d14"),
    ]
    assert (found.documents[0].file, found.documents[0].line) == ("files/a.jsonl", 2)
    assert found.documents[4].excerpt == ("word and other " * 200)[:80]
    assert (found.num_documents, sum(found.counts.values())) == (14, 12)


def test_an_unwanted_label_is_told_with_the_document_that_has_it(site: Site) -> None:
    labels = Labels(file=LabelFile(path="labels.csv"), drop=("bad", "spam"))
    table = {"document_id": ["d2"], "label": ["spam"], "source": [labels.file.source if labels.file else ""]}
    site.seal("raw_documents", make_raw(GOOD, "a weir is a low dam over a river"))
    assert site.dropped(make_corpus(labels=labels)).documents == (), "labels are not made yet"
    site.seal("labels", pa.table(table | {"judged_at_version": ["v1"]}))
    [one] = site.dropped(make_corpus(labels=labels)).documents
    assert shown(one) == ("d2", "label_unwanted", "spam", "bad, spam", None)


def test_what_is_too_long_for_a_sequence_is_told_in_tokens(site: Site, tiny_model: Path) -> None:
    corpus, tokenizer = make_corpus(sequence_length=64), ChatTokenizer(tiny_model)
    raw = make_raw("a short text", LONG, "periwinkles")
    site.seal("raw_documents", raw)
    found = site.dropped(corpus, tokenizer)
    examples = build_examples(corpus, clean_shard(corpus, raw, {}).documents, tokenizer)
    assert found.counts["overlong"] == examples.drops["overlong"] == 1
    [one] = [one for one in found.documents if one.rule == "overlong"]
    assert (one.document_id, one.limit) == ("d2", 64)
    assert isinstance(one.measured, int)
    assert one.measured > 64
    assert "overlong" not in site.dropped(corpus).counts
    cut = dataclasses.replace(corpus, example=ExampleForm(overlong="truncate_end"))
    assert site.dropped(cut, tokenizer).counts["overlong"] == 0


def test_only_the_wanted_rule_is_listed_and_all_are_counted(site: Site) -> None:
    site.seal("raw_documents", make_raw(GOOD, "one", "two", "# water # mill # wheel"))
    found = site.dropped(make_corpus(), rule="too_many_symbols")
    assert [one.document_id for one in found.documents] == ["d4"]
    assert found.counts["too_few_words"] == 2


def test_it_is_compared_with_what_was_sealed(site: Site) -> None:
    raw = make_raw(GOOD, "one", "a weir is a low dam")
    site.seal("raw_documents", raw)
    assert site.dropped(make_corpus()).sealed == "none yet"
    site.seal("clean_documents", clean_shard(make_corpus(), raw, {}).documents)
    assert site.dropped(make_corpus()).sealed == "these"
    assert site.dropped(make_corpus(rules=QualityRules.of("short", words_min=7))).sealed == "others"


def test_a_shard_that_drops_too_much_to_be_sealed_is_told_all_the_same(site: Site) -> None:
    site.seal("raw_documents", make_raw("one", "two"))
    assert len(site.dropped(make_corpus(dropped_share_max=0.1)).documents) == 2


def test_a_shard_without_documents_is_refused(site: Site) -> None:
    with pytest.raises(HandoffMissing, match="raw_documents"):
        site.dropped(make_corpus())


_WORDS = [
    "river",
    "wheel",
    "…",
    "#",
    "grain-mill",
    "x",
    "47",
    "the",
    "Ã©",
    "pneumonoultramicroscopic",
    "\ufffd",
    "水車",
]


def measured_plainly(rule: str, text: str) -> float | str:
    """The same figures in plain Python, from the rules' meaning in `QualityRules`."""
    counts = reference_measures(text)
    characters = "".join(text.split())
    letters = sum(unicodedata.category(one)[0] in "LM" for one in characters)
    return {
        "text_empty": lambda: len(characters),
        "broken_characters": lambda: "\ufffd" if "\ufffd" in text else "Ã©",
        "too_few_words": lambda: counts["words"],
        "too_many_words": lambda: counts["words"],
        "too_few_letters": lambda: letters / len(characters),
        "words_too_long": lambda: counts["spaced_word_characters"] / counts["spaced_words"],
        "repeated_words": lambda: counts["repeated_words"] / counts["words"],
        "too_many_symbols": lambda: max(counts["hashes"], counts["ellipses"]) / counts["words"],
    }[rule]()


def test_random_documents_are_kept_or_told_once_with_figures_that_plain_python_finds_too(site: Site) -> None:
    draw = random.Random(7)
    texts = [" ".join(draw.choices(_WORDS, k=draw.randrange(18))) for _ in range(2000)]
    texts += [" ".join(draw.choices(_WORDS[-3:], k=draw.randrange(450))) for _ in range(100)]
    corpus, raw = make_corpus(rules=QualityRules.of("short", words_max=300)), make_raw(*texts)
    site.seal("raw_documents", raw)
    cleaned = clean_shard(corpus, raw, {})
    found = site.dropped(corpus)
    assert found.counts == cleaned.drops
    told = [one.document_id for one in found.documents]
    assert sorted([*told, *cleaned.documents["document_id"].to_pylist()]) == sorted(raw["document_id"].to_pylist())
    by_id = dict(zip(raw["document_id"].to_pylist(), texts, strict=True))
    seen = set()
    for one in found.documents:
        if one.copy_of is None:
            seen.add(one.rule)
            assert one.measured == pytest.approx(measured_plainly(one.rule, by_id[one.document_id])), one
    assert seen >= {"text_empty", "broken_characters", "too_few_words", "too_many_symbols", "too_few_letters"}
