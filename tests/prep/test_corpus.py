from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.errors import InvalidInput
from headrace.prep.corpus import DECISIVE_KEYS, Corpus, load_corpus
from headrace.prep.rule_sets import FIGURES, LIMITS, QualityRules
from tests.prep.builders import make_corpus

MINIMAL: dict[str, Any] = {
    "name": "notes",
    "files": ["notes/*.jsonl"],
    "columns": {"term": "title", "text": "body"},
    "prompt": {"user": "Explain {term}."},
}


def load(tmp_path: Path, body: object) -> Corpus:
    path = tmp_path / "corpus.yaml"
    path.write_text(body if isinstance(body, str) else yaml.safe_dump(body))
    return load_corpus(path)


def test_a_corpus_needs_files_columns_and_a_prompt_and_has_defaults_for_the_rest(tmp_path: Path) -> None:
    corpus = load(tmp_path, MINIMAL)

    assert corpus.shard_keys == ("shard-00",)
    assert corpus.required_columns == ("term", "text")
    assert corpus.rules.set == "instructions"
    assert corpus.near_duplicates is not None
    assert corpus.labels is None


def test_the_demo_corpus_is_dealt_to_eight_shards() -> None:
    corpus = load_corpus(Path(__file__).parents[2] / "resources/corpus.yaml")

    assert len(corpus.shard_keys) == 8
    assert corpus.globs("shard-03") == (("corpus/wordnet/shard-03.jsonl", True),)


def test_null_turns_a_rule_or_near_duplicates_off(tmp_path: Path) -> None:
    corpus = load(tmp_path, MINIMAL | {"rules": {"set": "web", "words_min": None}, "near_duplicates": None})

    assert corpus.rules.words_min is None
    assert corpus.rules.words_max == 100_000
    assert corpus.near_duplicates is None


def test_a_limit_that_is_not_named_is_the_sets(tmp_path: Path) -> None:
    for rule_set, limits in LIMITS.items():
        rules = load(tmp_path, MINIMAL | {"rules": {"set": rule_set, "words_max": 77}}).rules
        expected = {limit: limits.get(limit) for limit in FIGURES} | {"words_max": 77}

        assert {limit: getattr(rules, limit) for limit in FIGURES} == expected

    assert load(tmp_path, MINIMAL).rules == QualityRules() == QualityRules.of("instructions")


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt key": ({"heldout_shar": 0.1}, "unknown key 'heldout_shar'; did you mean 'heldout_share'?"),
    "a misspelt key of a section": ({"rules": {"word_min": 1}}, "rules has an unknown key 'word_min'; did you mean"),
    "an unknown rule set": (
        {"rules": {"set": "webb"}},
        "rules: set must be one of web, fineweb, instructions, code, short, none, got 'webb'",
    ),
    "a word for a number": ({"num_shards": "eight"}, "num_shards must be a whole number, got 'eight'"),
    "true for a number": ({"num_shards": True}, "num_shards must be a whole number, got True"),
    "no shard": ({"num_shards": 0}, "num_shards must be from 1 to 100,000, got 0"),
    "shards without end": ({"num_shards": 10**9}, "num_shards must be from 1 to 100,000, got 1,000,000,000"),
    "a name without end": ({"name": "x" * 151}, "name must have at most 150 characters, got 151: 'xxx"),
    "a string for a list": ({"files": "notes/*"}, "files must be a list, got 'notes/*'"),
    "no files": ({"files": []}, "files must list at least one glob"),
    "an unknown format": ({"format": "xml"}, "format must be one of auto, jsonl, csv, parquet, text, html, got 'xml'"),
    "an unknown encoding": ({"encoding": "utf-9"}, "encoding must be a text encoding that Python knows, got 'utf-9'"),
    "a share above one": ({"quarantine_share_max": 1.5}, "quarantine_share_max must be between 0 and 1, got 1.5"),
    "nothing held out": ({"heldout_share": 0}, "heldout_share must be above 0 and at most 0.5, got 0."),
    "a column that documents do not have": ({"columns": {"body": "text"}}, "columns must map document_id, term,"),
    "no column for the text": ({"columns": {"term": "title"}}, "columns must map 'text' to the column"),
    "a prompt that needs an unmapped column": (
        {"prompt": {"user": "Define the {category} {term}."}},
        "prompt or completion uses {category}, which columns does not map",
    ),
    "a prompt that gives the answer away": (
        {"prompt": {"user": "{text}"}},
        "user may use {term}, {category}, got {text}",
    ),
    "a prompt that reaches into objects": ({"prompt": {"user": "{term.__class__}"}}, "user may use {term}, {category}"),
    "a torn template": ({"prompt": {"user": "Define {term"}}, "user is not a template"),
    "no prompt": ({"prompt": {}}, "prompt lacks the key 'user'"),
    "a broken pattern": ({"rules": {"drop_matching": {"urls": "("}}}, "drop_matching.urls is not a regular expression"),
    "word limits that cross": ({"rules": {"words_min": 9, "words_max": 3}}, "words_min must not exceed words_max"),
    "a loose near-duplicate": ({"near_duplicates": {"jaccard": 0.2}}, "jaccard must be between 0.5 and 1, got 0.2"),
    "duplicates by term alone": ({"duplicate_columns": ["term"]}, "duplicate_columns must hold 'text'"),
    "plain text with columns": ({"format": "text"}, "columns must map 'text' alone for plain text"),
    "labels from nowhere": ({"labels": {"drop": ["bad"]}}, "labels must name a file or a judge"),
    "a judge with one answer": (
        {
            "labels": {
                "judge": {"model": "m", "base_url": "http://x/v1", "question": "{text}?", "answers": ["yes", "Yes"]}
            }
        },
        "answers must hold at least two different labels",
    ),
    "a judge without a server": (
        {"labels": {"judge": {"model": "m", "question": "{text}?", "answers": ["yes", "no"]}}},
        "needs base_url and model",
    ),
}


@pytest.mark.parametrize("phrase", REFUSALS)
def test_a_corpus_file_is_refused_with_the_key_what_it_got_and_what_it_wants(phrase: str, tmp_path: Path) -> None:
    changes, message = REFUSALS[phrase]

    with pytest.raises(InvalidInput) as refusal:
        load(tmp_path, MINIMAL | changes)

    assert message in str(refusal.value)
    assert "corpus.yaml" in str(refusal.value)


def test_a_missing_file_names_the_variable_that_points_to_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not exist; HEADRACE_CORPUS names the file"):
        load_corpus(tmp_path / "none.yaml")


@pytest.mark.parametrize("body", ["name: [", "- a list", ""])
def test_what_is_not_a_yaml_mapping_is_refused(body: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"not readable as YAML|must be a mapping"):
        load(tmp_path, body)


def test_a_list_of_one_encoding_is_its_name_and_another_delimiter_is_another_corpus() -> None:
    assert make_corpus(encoding=("utf-8",)).digest == make_corpus(encoding="utf-8").digest == make_corpus().digest
    others = [make_corpus(encoding=("utf-8", "latin-1")), make_corpus(delimiter=";")]
    assert len({make_corpus().digest, *(other.digest for other in others)}) == 3


def test_every_key_is_known_to_decide_verdicts_or_not_to() -> None:
    """A new key that nobody thought of here would leave verdicts of an earlier corpus file in force."""
    in_part = {"columns", "rules", "labels", "prompt", "completion", "example"}
    # What is read shows in the versions of raw documents; the rest comes after the verdicts.
    of_reading = {"files", "format", "encoding", "delimiter", "text_unit", "text_markup", "num_shards"}
    after = {"name", "quarantine_share_max", "dropped_share_max", "dedup", "sequence_length", "template_date"}
    assert {one.name for one in fields(Corpus)} == {*DECISIVE_KEYS} | in_part | of_reading | after


@pytest.mark.parametrize(
    ("key", "value", "decides"),
    [
        ("language", {"keep": ["en"]}, True),
        ("personal_data", {"email": "drop"}, True),
        ("rules", {"words_min": 3}, True),
        ("rules", {"share_max": 0.9}, False),
        ("labels", {"file": {"path": "labels.csv"}, "drop": ["no"]}, True),
        ("num_shards", 2, False),
        ("sequence_length", 17, False),
    ],
)
def test_what_decides_no_verdict_leaves_them_in_force(tmp_path: Path, key: str, value: object, decides: bool) -> None:
    before, after = load(tmp_path, MINIMAL), load(tmp_path, MINIMAL | {key: value})
    assert (before.verdict_digest != after.verdict_digest) == decides
