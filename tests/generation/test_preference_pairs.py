"""Which reviewed rows become pairs, and what their tokens are."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import HandoffMissing, InvalidInput
from headrace.generation.pair_checks import check_nothing_heldout_trains, check_rows_of_pairs
from headrace.generation.preference_pairs import Pairs, Tokenizers, build_pairs, open_sources
from headrace.handoff.schemas import check_schema
from headrace.handoff.versions import Handoff
from headrace.prep.pairs import tokenized_pairs
from headrace.prep.split import is_heldout
from headrace.rollout.journal import Journal
from headrace.rollout.states import ABORTED, INITIALIZED, STARTED
from headrace.training.preference_settings import RowPairs
from headrace.version_sets.sets import VersionSet
from tests.generation.builders import make_version_set
from tests.pair_builders import Answer, ReviewedSite, answers_of

# Words by their own side at a held-out share of 0.1.
WORDS = [f"word{number}" for number in range(400)]
HELD_OUT = [word for word in WORDS if is_heldout(word, 0.1)][:20]
TAUGHT = [word for word in WORDS if not is_heldout(word, 0.1)][:20]


def question(word: str) -> str:
    return f"Define the noun {word}."


def one_each(word: str, **told: Any) -> list[Answer]:
    return answers_of(question(word), [f"a {word}"], [f"{word} {word}"], term=word, **told)


@pytest.fixture
def site(tmp_path: Path) -> ReviewedSite:
    return ReviewedSite(tmp_path / "store")


@pytest.fixture
def tokenizers(tiny_model: Path) -> Tokenizers:
    return Tokenizers(tiny_model)


def pairs_of(site: ReviewedSite, tokenizers: Tokenizers, **settings: Any) -> Pairs:
    rows = RowPairs(**{"campaigns": ("glossary",), **settings})
    return build_pairs(open_sources(site.handoffs, rows, corpus_heldout_share=0.02), tokenizers)


def told(pairs: Pairs) -> set[tuple[str, str, str]]:
    return {(row["split"], row["chosen"], row["rejected"]) for row in pairs.table.to_pylist()}


def held_out_too(site: ReviewedSite) -> None:
    """So that a pair is there to measure."""
    site.put(one_each(HELD_OUT[0]), day="2026-11-01")


def test_what_was_kept_meets_what_was_rejected_over_days_and_campaigns_and_sets(
    site: ReviewedSite, tokenizers: Tokenizers
) -> None:
    held_out_too(site)
    kept, rejected = one_each(TAUGHT[0])
    site.put([kept], day="2026-11-20")
    site.put([rejected], day="2026-11-21", campaign="other", version_set=make_version_set(2))

    pairs = pairs_of(site, tokenizers, campaigns=("glossary", "other"))

    check_schema("preference_pairs", pairs.table)
    [row] = [row for row in pairs.table.to_pylist() if row["split"] == "train"]
    assert (row["chosen"], row["rejected"], row["term"]) == (kept.output, rejected.output, TAUGHT[0])
    assert (row["chosen_partition"], row["rejected_partition"]) == ("2026-11-20|glossary-00", "2026-11-21|other-00")
    assert row["rejected_by"] == ["length"]
    assert pairs.figures["num_prompts_paired"] == 2


def test_another_question_or_another_way_to_ask_is_no_pair(site: ReviewedSite, tokenizers: Tokenizers) -> None:
    held_out_too(site)
    site.put(one_each(TAUGHT[0]))
    kept, rejected = one_each(TAUGHT[1])
    asked_otherwise = make_version_set(1, prompt_template=_template("Be brief."))
    site.put([kept], shard=1)
    site.put([rejected], shard=2, version_set=asked_otherwise)
    assert [row[1] for row in told(pairs_of(site, tokenizers)) if row[0] == "train"] == [f"a {TAUGHT[0]}"]


def _template(system: str) -> Any:
    from headrace.engines.roles import PromptTemplate

    return PromptTemplate(system=system)


def test_the_same_rows_give_the_same_pairs_in_any_order_of_runs(tmp_path: Path, tokenizers: Tokenizers) -> None:
    partitions = [
        (one_each(TAUGHT[0]), {"day": "2026-11-20"}),
        (answers_of(question(TAUGHT[0]), ["kept again"], ["bad again"], term=TAUGHT[0]), {"day": "2026-11-21"}),
        (one_each(HELD_OUT[0]), {"shard": 1}),
    ]
    tables = []
    for number, order in enumerate((partitions, partitions[::-1])):
        site = ReviewedSite(tmp_path / str(number))
        for answers, where in order:
            site.put(answers, **where)
        tables.append(pairs_of(site, tokenizers, pairs_per_prompt=5).table)
    assert tables[0].equals(tables[1])
    assert tables[0].num_rows == 3


@pytest.mark.parametrize(("most", "expected"), [(1, 1), (2, 2), (9, 3)])
def test_each_row_is_in_one_pair_and_a_prompt_has_no_more_than_it_may(
    site: ReviewedSite, tokenizers: Tokenizers, most: int, expected: int
) -> None:
    held_out_too(site)
    site.put(answers_of(question(TAUGHT[0]), ["a", "b", "c"], ["w", "x", "y", "z"], term=TAUGHT[0]))
    rows = [
        row for row in pairs_of(site, tokenizers, pairs_per_prompt=most).table.to_pylist() if row["split"] == "train"
    ]
    assert len(rows) == expected
    ids = [row[name] for row in rows for name in ("chosen_row_id", "rejected_row_id")]
    assert len(set(ids)) == len(ids)


def test_equal_texts_count_once_and_a_text_of_both_verdicts_is_neither(
    site: ReviewedSite, tokenizers: Tokenizers
) -> None:
    held_out_too(site)
    site.put(answers_of(question(TAUGHT[0]), ["good", "good", "odd"], ["bad", "bad"], term=TAUGHT[0]))
    site.put(answers_of(question(TAUGHT[0]), [], ["odd"], term=TAUGHT[0]), day="2026-11-23")
    taught = {row for row in told(pairs_of(site, tokenizers, pairs_per_prompt=9)) if row[0] == "train"}
    assert taught == {("train", "good", "bad")}


def test_rows_without_an_answer_or_rejected_for_a_picture_are_on_neither_side(
    site: ReviewedSite, tokenizers: Tokenizers
) -> None:
    held_out_too(site)
    asked: dict[str, Any] = {"prompt": question(TAUGHT[0]), "term": TAUGHT[0]}
    site.put(
        [
            Answer(**asked, output="good", variation=0),
            Answer(**asked, output="", rejected_by=("empty",), variation=1),
            Answer(**asked, output="", rejected_by=("failed",), variation=2),
            Answer(**asked, output="fine text", rejected_by=("painter.blank",), variation=3),
            Answer(**asked, output="bad", rejected_by=("length", "painter.blank"), variation=4),
        ]
    )
    pairs = pairs_of(site, tokenizers, pairs_per_prompt=9)
    assert {row for row in told(pairs) if row[0] == "train"} == {("train", "good", "bad")}
    assert (pairs.figures["num_without_answer"], pairs.figures["num_neither"]) == (2, 1)


def test_what_a_chain_of_writers_answered_is_left_out(site: ReviewedSite, tokenizers: Tokenizers) -> None:
    held_out_too(site)
    site.put(one_each(TAUGHT[0]))
    site.put(one_each(TAUGHT[1]), shard=1, version_set=_chain(make_version_set()))
    pairs = pairs_of(site, tokenizers)
    assert pairs.figures["num_of_chains"] == 2
    assert pairs.figures["num_pairs_train"] == 1


def _chain(one: VersionSet) -> VersionSet:
    writer = replace(one.member("writer"), engine=one.engine)
    return replace(one, members=(writer, replace(writer, role="editor")), chain=("writer", "editor"))


def test_a_rolled_back_sets_kept_rows_are_no_example_and_its_rejected_ones_are(
    site: ReviewedSite, tokenizers: Tokenizers
) -> None:
    held_out_too(site)
    bad = make_version_set(2)
    kept, rejected = one_each(TAUGHT[0])
    site.put([replace(kept, output="tempting"), rejected], version_set=bad)
    site.put([kept], day="2026-11-23")
    journal = Journal(site.handoffs.objects, "glossary", site.handoffs.clock)
    for event, one in ((INITIALIZED, site.version_set), (STARTED, bad), (ABORTED, bad)):
        body = {"version_set": one.id, "weights_digest": one.id, "num_rows": 0, "reason": "", "step": 0, "weight": 1.0}
        journal.append(event, body | {"cap": None}, expected=journal.head())
    taught = {row for row in told(pairs_of(site, tokenizers, pairs_per_prompt=9)) if row[0] == "train"}
    assert taught == {("train", kept.output, rejected.output)}


def test_pairs_of_held_out_questions_measure_and_never_train(site: ReviewedSite, tokenizers: Tokenizers) -> None:
    moved = TAUGHT[2]  # a twin of it is held out, and so is it
    site.put_documents([(moved, "the gloss"), (None, question(TAUGHT[3]))])
    for shard, word in enumerate([*TAUGHT[:4], *HELD_OUT[:3]]):
        site.put(one_each(word), shard=shard)
    pairs = pairs_of(site, tokenizers)
    sides = {row["term"]: row["split"] for row in pairs.table.to_pylist()}
    assert [sides[word] for word in TAUGHT[:4]] == ["train", "train", "heldout", "heldout"]
    assert [sides[word] for word in HELD_OUT[:3]] == ["heldout"] * 3


def test_an_answer_that_was_cut_off_has_no_end_and_others_have_the_chats_own_ids(
    site: ReviewedSite, tokenizers: Tokenizers
) -> None:
    held_out_too(site)
    asked: dict[str, Any] = {"prompt": question(TAUGHT[0]), "term": TAUGHT[0]}
    cut = Answer(**asked, output="it goes on and", rejected_by=("truncated",), variation=1, finish_reason="length")
    site.put([Answer(**asked, output="good"), cut])
    [row] = [row for row in pairs_of(site, tokenizers).table.to_pylist() if row["split"] == "train"]
    tokenizer = tokenizers.dated(None)
    messages = {
        "prompt": json.loads(row["messages"]),
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": cut.output}],
    }
    [whole] = tokenized_pairs([{"document_id": "d", "messages": json.dumps(messages)}], tokenizer)
    (start, middle), (_, end) = whole.spans
    assert row["prompt_ids"] == whole.ids[:start].tolist()
    assert row["chosen_ids"] == whole.ids[start:middle].tolist()
    assert row["rejected_ids"] == whole.ids[middle : end - 1].tolist()
    assert tokenizer.backend.id_to_token(int(whole.ids[end - 1])) == "<|im_end|>"


def test_checks_find_each_row_again_and_tell_what_is_not_as_it_should_be(
    site: ReviewedSite, tokenizers: Tokenizers
) -> None:
    documents = site.put_documents([("unrelated", "a gloss")])
    for shard, word in enumerate([*TAUGHT[:3], HELD_OUT[0]]):
        site.put(one_each(word), shard=shard)
    sources = open_sources(site.handoffs, RowPairs(campaigns=("glossary",)), corpus_heldout_share=0.02)
    table = build_pairs(sources, tokenizers).table
    made_of = {name: f"v{one.version} {one.content_digest}" for name, one in sources.made_of.items()}

    def seal(rows: Any, inputs: dict[str, str] = made_of) -> Handoff:
        return site.handoffs.publish(
            "preference_pairs", "tiny.prefer", rows, code_version="1", run_id="test", input_versions=inputs
        )

    pairs = seal(table)
    assert check_rows_of_pairs(site.handoffs, pairs).passed
    assert check_nothing_heldout_trains(pairs, [documents]).passed
    swapped = table.to_pylist()
    swapped[0]["chosen"], swapped[0]["rejected"] = swapped[0]["rejected"], swapped[0]["chosen"]
    found = check_rows_of_pairs(site.handoffs, seal(_like(table, swapped)))
    assert "has another verdict, text or prompt than its pair tells" in found.description
    assert not check_rows_of_pairs(site.handoffs, seal(table.slice(1), {})).passed
    learnt = next(row["term"] for row in table.to_pylist() if row["split"] == "train")
    finding = check_nothing_heldout_trains(pairs, [site.put_documents([(learnt.upper(), "a gloss")])])
    assert finding.description.startswith("1 questions of pairs that train are held out, such as")


def _like(table: Any, rows: list[dict[str, Any]]) -> Any:
    return type(table).from_pylist(rows, schema=table.schema)


REFUSALS = {
    "no prompt has both": ([Answer(prompt="a", output="x"), Answer(prompt="b", output="y")], {}, "there is no pair"),
    "all are held out": (one_each(HELD_OUT[0]), {}, "all 1 pairs are of questions that are held out"),
    "none is held out": (one_each(TAUGHT[0]), {}, "none of the 1 pairs is held out"),
    "all are too long": (one_each(TAUGHT[0]), {"sequence_length": 4}, "1 pairs are longer than sequence_length 4"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_rows_that_make_no_training_are_refused_with_what_became_of_them(
    site: ReviewedSite, tokenizers: Tokenizers, case: str
) -> None:
    answers, settings, sentence = REFUSALS[case]
    site.put(answers)
    with pytest.raises(InvalidInput, match=sentence):
        pairs_of(site, tokenizers, **settings)


def test_a_campaign_without_reviewed_rows_is_named(site: ReviewedSite, tokenizers: Tokenizers) -> None:
    site.put(one_each(TAUGHT[0]))
    with pytest.raises(HandoffMissing, match="No reviewed row of campaign glosary is in the store; .* are: glossary"):
        pairs_of(site, tokenizers, campaigns=("glosary",))
    with pytest.raises(HandoffMissing, match="of campaign glossary is in the store since 2026-11-23"):
        pairs_of(site, tokenizers, since="2026-11-23")
