"""A new painter's set takes its texts and recordings from what is sealed: byte for byte, and no writer is opened."""

from pathlib import Path
from typing import Any

import pytest

from headrace.engines.media_rows import MediaResult
from headrace.generation.sealed_tables import EXECUTION, IMAGES, MEDIA_EXECUTION, SPEECH
from headrace.handoff.collecting import collect, plan_collection
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.row_tables import CONTENT
from headrace.handoff.versions import Handoff
from headrace.rollout.states import PROMOTED
from tests.generation.builders import TEXTS, ScriptedEngine, make_site
from tests.generation.media_builders import MediaSite, make_media_campaign, make_media_site, start

TEXT_COLUMNS = ["prompt_id", "output", "seed", "num_prompt_tokens", "num_output_tokens", "finish_reason", "error"]


@pytest.fixture
def site(tmp_path: Path) -> MediaSite:
    return make_media_site(tmp_path)


def never(*_: Any) -> Any:
    raise AssertionError("an engine was opened")


def only_painter(site: MediaSite) -> dict[str, Any]:
    def open_media(version_set: Any, role: str) -> Any:
        return site.open_media(version_set, role) if role == "painter" else never()

    return {"open_engine": never, "open_media": open_media}


def texts_of(content: Handoff) -> list[dict[str, Any]]:
    return content.table().select(TEXT_COLUMNS).to_pylist()


def items_of(site: MediaSite, asset: str, claim: str) -> list[bytes]:
    found = site.handoffs.find(asset, site.partition.key, claim=claim)
    assert found
    media = MediaSet.open(found)
    return media.read_many(list(media.ids()))


def with_candidate(site: MediaSite, **versions: int) -> None:
    start(site, site.make_set(**versions))


def test_a_new_painter_takes_texts_and_recordings_and_opens_no_writer(site: MediaSite) -> None:
    stable = site.generate()
    with_candidate(site, painter=2)
    candidate = site.generate(site.open_claim("run-2", "current_set"), **only_painter(site))
    assert candidate.claim.version_set != stable.claim.version_set
    assert texts_of(candidate.content) == texts_of(stable.content)
    assert items_of(site, SPEECH, candidate.claim.id) == items_of(site, SPEECH, stable.claim.id)
    assert not set(items_of(site, IMAGES, candidate.claim.id)) & set(items_of(site, IMAGES, stable.claim.id))
    assert (candidate.num_generated_now, candidate.num_taken_now) == (len(TEXTS), 2 * len(TEXTS))
    assert candidate.figures()["num_rows_taken_now"] == 2 * len(TEXTS)


def test_the_record_says_where_a_row_was_taken_from(site: MediaSite) -> None:
    site.generate()
    with_candidate(site, painter=2)
    claim = site.open_claim("run-2", "current_set")
    site.generate(claim)
    execution = site.handoffs.find(EXECUTION, site.partition.key, claim=claim.id)
    made = site.handoffs.find(MEDIA_EXECUTION, site.partition.key, claim=claim.id)
    assert execution
    assert made
    source = site.handoffs.open(CONTENT, site.partition.key, 1).label
    assert execution.table()["taken_from"].to_pylist() == [source] * len(TEXTS)
    assert set(execution.table()["seconds"].to_pylist()) == {0.0}
    by_role = {(one["role"], one["taken_from"]) for one in made.table().to_pylist()}
    assert by_role == {("painter", None), ("speaker", site.handoffs.open(SPEECH, site.partition.key, 1).label)}


def test_a_mirror_takes_them_too(site: MediaSite) -> None:
    stable = site.generate()
    with_candidate(site, painter=2)
    mirror = site.mirror(**only_painter(site))
    assert texts_of(mirror.content) == texts_of(stable.content)
    # Every picture is another one.
    assert mirror.num_same_output == 0


def test_a_mirror_with_the_same_parts_is_the_same_output(site: MediaSite) -> None:
    site.generate()
    mirror = site.mirror("stable", open_media=site.open_media, open_engine=site.open_rows)
    assert mirror.num_same_output == len(TEXTS)
    assert mirror.outcome.num_taken_now == 0
    assert site.mirror("stable", root_run_id="run-9", open_media=never, open_engine=never).outcome.reused


def test_a_part_that_is_missing_counts_against_a_mirrored_row(site: MediaSite) -> None:
    """The mirrored painter fails at one row."""
    site.generate()
    with_candidate(site, painter=2)
    painter = site.open_media(site.make_set(painter=2), "painter")
    made = painter.generate

    def failing(requests: Any) -> Any:
        results = made(requests)
        return [
            MediaResult.none("refused", "no") if one.text.endswith(f", as {TEXTS[2]}") else result
            for one, result in zip(requests, results, strict=True)
        ]

    painter.generate = failing
    mirror = site.mirror(open_engine=never, open_media=lambda *_: painter)
    assert mirror.num_only_published_kept == 1
    [row] = [one for one in mirror.comparison.table().to_pylist() if not one["mirrored_kept"]]
    assert row["mirrored_rejected_by"] == ["painter.refused"]


def test_a_chain_takes_the_texts_of_a_campaign_that_only_wrote(tmp_path: Path) -> None:
    plain = make_site(tmp_path)
    texts = plain.generate()
    site = MediaSite(tmp_path, campaign=make_media_campaign())
    start(site, site.make_set())
    chain = site.generate(site.open_claim("run-2", "current_set"), open_engine=never)
    assert texts_of(chain.content) == texts_of(texts.content)


def test_regenerating_the_same_set_makes_its_rows_anew(site: MediaSite) -> None:
    site.generate()
    outcome = site.generate(site.open_claim("run-2", "keep_set"))
    assert (outcome.num_generated_now, outcome.num_taken_now) == (3 * len(TEXTS), 0)
    with_candidate(site, painter=2)
    site.generate(site.open_claim("run-3", "current_set"))
    again = site.generate(site.open_claim("run-4", "keep_set"))
    assert (again.num_generated_now, again.num_taken_now) == (3 * len(TEXTS), 0)


def test_another_writer_takes_nothing(site: MediaSite) -> None:
    site.generate()
    with_candidate(site, writer=2)
    assert site.generate(site.open_claim("run-2", "current_set")).num_taken_now == 0


def test_a_row_with_an_error_is_tried_again_alone(site: MediaSite) -> None:
    broken = ScriptedEngine(fails=lambda prompt: prompt == TEXTS[3] and ValueError("no"))
    site.generate(open_engine=lambda _: broken)
    with_candidate(site, painter=2)
    healed = ScriptedEngine()
    outcome = site.generate(site.open_claim("run-2", "current_set"), open_engine=lambda _: healed)
    assert healed.batches == [[TEXTS[3]]]
    assert outcome.num_errors == 0


def test_damaged_pictures_are_painted_anew_of_the_texts_that_readers_have(site: MediaSite) -> None:
    """Its micro-batches are collected, and the writer would write something else by now."""
    claim = site.open_claim()
    site.generate(claim)
    before = items_of(site, IMAGES, claim.id)
    collect(site.objects, site.clock, plan_collection(site.objects, site.clock, grace_seconds=-1.0))
    assert site.objects.list(claim.batches_prefix) == []
    [shard] = [key for key in site.objects.list(f"handoff/{IMAGES}") if "shard-" in key or key.endswith(".bin")][:1]
    site.objects.delete(shard)
    repaired = site.generate(claim, open_engine=never)
    assert repaired.num_generated_now == len(TEXTS)
    assert items_of(site, IMAGES, claim.id) == before
    assert site.handoffs.versions(CONTENT, site.partition.key) == [1]


def test_a_promoted_painter_is_not_compared_with_other_texts(site: MediaSite) -> None:
    """An engine that writes something else each time: the candidate's texts are the stable set's all the same."""
    site.generate(open_engine=lambda _: ScriptedEngine())
    stable = texts_of(site.handoffs.open(CONTENT, site.partition.key))
    candidate = site.make_set(painter=2)
    start(site, candidate)
    site.roll_out_set(PROMOTED, candidate)
    assert texts_of(site.generate(site.open_claim("run-2", "current_set"), open_engine=never).content) == stable


@pytest.mark.parametrize("lost", ["shard-00000.media", "shards.json", ".arrow"])
def test_recordings_that_are_damaged_are_spoken_again_instead_of_taken(site: MediaSite, lost: str) -> None:
    stable = site.generate()
    spoken = items_of(site, SPEECH, stable.claim.id)
    with_candidate(site, painter=2)
    [key] = [key for key in site.objects.list(f"handoff/{SPEECH}") if key.endswith(lost)]
    site.objects.delete(key)
    fresh = MediaSite(site.directory, campaign=site.campaign)
    candidate = fresh.generate(fresh.open_claim("run-2", "current_set"), open_engine=never)
    assert candidate.num_taken_now == len(TEXTS)
    assert items_of(fresh, SPEECH, candidate.claim.id) == spoken
