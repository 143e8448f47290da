"""What a collection, a rollback or damage in between does to a chain's parts: nothing is lost, nothing half shown."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import HandoffCorrupt, HandoffMissing, RepinRequired
from headrace.generation.review_content import review_content
from headrace.generation.rolled_back import seal_rolled_back_rows, void_unsealed
from headrace.generation.sealed_tables import (
    IMAGES,
    MEDIA_EXECUTION,
    SPEECH,
    UNPUBLISHED,
    UNPUBLISHED_IMAGES,
    UNPUBLISHED_SPEECH,
)
from headrace.generation.tracing import trace
from headrace.handoff.collecting import collect, plan_collection
from headrace.handoff.layout import manifest_key
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.row_tables import CONTENT
from headrace.rollout.states import ABORTED
from tests.generation.builders import TEXTS, ScriptedEngine, make_prompts
from tests.generation.media_builders import MediaSite, make_media_campaign, make_media_site, start


@pytest.fixture
def site(tmp_path: Path) -> MediaSite:
    return make_media_site(tmp_path)


def collected(site: MediaSite) -> None:
    collect(site.objects, site.clock, plan_collection(site.objects, site.clock, grace_seconds=-1.0))


def num_items(site: MediaSite, asset: str, claim: str) -> int:
    found = site.handoffs.find(asset, site.partition.key, claim=claim)
    assert found
    media = MediaSet.open(found)
    media.verify()
    return len(media)


@pytest.mark.parametrize("lost", [IMAGES, SPEECH, MEDIA_EXECUTION])
def test_micro_batches_stay_until_every_table_of_the_claim_is_there(site: MediaSite, lost: str) -> None:
    claim = site.open_claim()
    site.generate(claim)
    site.objects.delete(manifest_key(lost, site.partition.key, 1))
    batches = site.objects.list(claim.batches_prefix)
    collected(site)
    assert site.objects.list(claim.batches_prefix) == batches

    def never(*_: Any) -> Any:
        raise AssertionError("an engine was opened")

    repaired = site.generate(claim, open_engine=never, open_media=never)
    assert repaired.num_generated_now == 0
    assert num_items(site, IMAGES, claim.id) == num_items(site, SPEECH, claim.id) == len(TEXTS)
    collected(site)
    assert site.objects.list(claim.batches_prefix) == []


def test_micro_batches_of_a_chain_under_way_stay(site: MediaSite) -> None:
    claim = site.open_claim()
    site.generate(claim, up_to="image")
    batches = site.objects.list(claim.batches_prefix)
    collected(site)
    assert site.objects.list(claim.batches_prefix) == batches


def test_inputs_that_change_back_show_the_first_rows_with_their_own_parts(site: MediaSite) -> None:
    first = site.generate()
    site.seal_prompts(make_prompts(["another"]))
    other = site.generate(site.open_claim("run-2"))
    site.put_prompts()
    collected(site)
    again = site.generate(site.open_claim("run-3"))
    assert again.claim == first.claim
    assert again.content.version == 3
    assert again.num_generated_now == 0
    newest = site.handoffs.open(CONTENT, site.partition.key)
    assert newest.attributes["claim"] == first.claim.id != other.claim.id
    assert num_items(site, IMAGES, first.claim.id) == len(TEXTS)


def test_repaired_parts_of_inputs_that_changed_back_are_what_readers_take(site: MediaSite) -> None:
    first = site.generate()
    site.seal_prompts(make_prompts(["another"]))
    site.generate(site.open_claim("run-2"))
    site.put_prompts()
    site.objects.delete(manifest_key(SPEECH, site.partition.key, 1))
    again = site.generate(site.open_claim("run-3"))
    assert again.content.version == site.handoffs.open(CONTENT, site.partition.key).version == 3
    assert num_items(site, SPEECH, first.claim.id) == len(TEXTS)


def test_a_painter_whose_set_is_rolled_back_while_it_paints_is_told_so(site: MediaSite) -> None:
    """The rollback drops the texts that it reads: that is no damage."""
    candidate = site.make_set(painter=2)
    start(site, candidate)
    claim = site.open_claim()
    painter = site.open_media(candidate, "painter")
    made = painter.generate

    def meddled(requests: Any) -> Any:
        if site.claims.settlement(claim) is None:
            site.roll_out_set(ABORTED, candidate)
            void_unsealed(site.claims, site.campaign.name)
        return made(requests)

    painter.generate = meddled
    with pytest.raises(RepinRequired):
        site.generate(claim, open_media=lambda *_: painter)
    assert site.objects.list(claim.batches_prefix) == []
    second = site.generate(site.open_claim())
    assert second.claim.attempt == 2
    assert num_items(site, IMAGES, second.claim.id) == len(TEXTS)


def test_two_workers_on_painter_and_speaker_seal_once(site: MediaSite) -> None:
    """The speaker's run finds the pictures half made, and the painter's run ends after it."""
    claim = site.open_claim()
    site.generate(claim, up_to="text")
    painter = site.open_media(site.make_set(), "painter")
    made, spoken = painter.generate, []

    def slow(requests: Any) -> Any:
        if not spoken:
            spoken.append(site.generate(site.open_claim("run-2"), up_to="speech"))
        return made(requests)

    painter.generate = slow
    outcome = site.generate(claim, up_to="image", open_media=lambda *_: painter)
    assert spoken[0].waits_for == ("painter",)
    assert outcome.sealed
    for asset in (CONTENT, IMAGES, SPEECH, MEDIA_EXECUTION):
        assert site.handoffs.versions(asset, site.partition.key) == [1]


def test_two_workers_that_seal_at_once_find_the_same_version(site: MediaSite, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, other = site.open_claim(), MediaSite(site.directory, campaign=site.campaign)
    create, meddled = site.objects.create, []

    def meddle(key: str, body: bytes, *, durable: bool = True) -> bool:
        if f"{IMAGES}/" in key and key.endswith("manifest.json") and not meddled:
            meddled.append(other.generate(other.open_claim("run-2")))
        return create(key, body, durable=durable)

    monkeypatch.setattr(site.objects, "create", meddle)
    outcome = site.generate(claim)
    assert outcome.content.version == meddled[0].content.version == 1
    for asset in (IMAGES, SPEECH, MEDIA_EXECUTION):
        assert site.handoffs.versions(asset, site.partition.key) == [1]


def test_rows_of_a_rolled_back_painter_are_listed_and_replaced_with_all_their_parts(site: MediaSite) -> None:
    stable = site.generate()
    candidate = site.make_set(painter=2)
    start(site, candidate)
    site.generate(site.open_claim("run-2", "current_set"))
    site.roll_out_set(ABORTED, candidate)
    listed = seal_rolled_back_rows(site.handoffs, site.claims, site.campaign.name, run_id="r")
    assert (listed.num_rows, listed.to_regenerate) == (len(TEXTS), (site.partition.key,))
    again = site.generate(site.open_claim("run-3", "rolled_back"))
    assert again.claim.version_set == stable.claim.version_set
    newest = site.handoffs.open(CONTENT, site.partition.key)
    assert newest.attributes["claim"] == again.claim.id
    collected(site)
    assert num_items(site, IMAGES, again.claim.id) == num_items(site, SPEECH, again.claim.id) == len(TEXTS)


def test_no_prompts_give_a_partition_with_no_parts(tmp_path: Path) -> None:
    site = make_media_site(tmp_path)
    site.seal_prompts(make_prompts([]))
    outcome = site.generate(site.open_claim("run-2"))
    assert outcome.content.num_rows == 0
    assert num_items(site, IMAGES, outcome.claim.id) == 0
    assert site.generate(site.open_claim("run-2")).reused


def test_rows_that_the_plan_keeps_unpublished_keep_their_parts(tmp_path: Path) -> None:
    plan = replace(make_media_campaign().rollout, on_abort="finish_unpublished")
    site = make_media_site(tmp_path, campaign=replace(make_media_campaign(), rollout=plan))
    candidate = site.make_set(painter=2)
    start(site, candidate)
    claim = site.open_claim()
    site.generate(claim, up_to="text")
    site.roll_out_set(ABORTED, candidate)
    with pytest.raises(RepinRequired):
        site.generate(claim)
    assert site.handoffs.newest(CONTENT, site.partition.key) is None
    assert site.handoffs.newest(IMAGES, site.partition.key) is None
    assert site.handoffs.open(UNPUBLISHED, site.partition.key).num_rows == len(TEXTS)
    for asset in (UNPUBLISHED_IMAGES, UNPUBLISHED_SPEECH):
        assert num_items(site, asset, claim.id) == len(TEXTS)
    assert site.objects.list(claim.batches_prefix) == []


def test_rows_whose_pictures_are_gone_are_not_judged_without_them(site: MediaSite) -> None:
    content = site.generate().content
    site.objects.delete(manifest_key(IMAGES, site.partition.key, 1))
    with pytest.raises(HandoffMissing, match="has parts that painter made, and generated_images is gone"):
        review_content(content, site.handoffs, site.campaign)
    assert review_content(site.generate().content, site.handoffs, site.campaign).num_kept == len(TEXTS)


def test_no_picture_is_published_with_another_text(site: MediaSite) -> None:
    claim, said = site.open_claim(), iter(range(1000))

    class Talking(ScriptedEngine):
        """Writes something else each time."""

        def generate(self, requests: Any) -> Any:
            return [replace(one, text=f"{one.text} {next(said)}") for one in super().generate(requests)]

    site.generate(claim, open_engine=lambda _: Talking(), up_to="image")
    site.objects.delete(claim.batch_key(0))
    with pytest.raises(HandoffCorrupt, match=r"painter/b00000.arrow was made of other texts .*Delete that file"):
        site.generate(claim, open_engine=lambda _: Talking())
    site.objects.delete(claim.batch_key(0, "painter"))
    content = site.generate(claim, open_engine=lambda _: Talking()).content
    made = site.handoffs.open(MEDIA_EXECUTION, site.partition.key).table().to_pylist()
    asked = {row["row_id"]: row["asked"] for row in made if row["role"] == "speaker"}
    assert asked == {row["row_id"]: row["output"] for row in content.table().to_pylist()}


def test_a_row_is_traced_though_the_record_of_its_pictures_is_damaged(site: MediaSite, tmp_path: Path) -> None:
    row = site.generate().content.table()["row_id"][0].as_py()
    [part] = (site.directory / "handoff" / MEDIA_EXECUTION).rglob("part-*.arrow")
    body = part.read_bytes()
    part.chmod(0o644)
    part.write_bytes(body[: len(body) // 2] + bytes(64) + body[len(body) // 2 + 64 :])
    told: list[str] = []
    found = trace(site.handoffs, row, home=tmp_path, damaged=lambda error: told.append(str(error)))
    assert (found.row["row_id"], found.parts) == (row, ())
    assert any(MEDIA_EXECUTION in one for one in told)
