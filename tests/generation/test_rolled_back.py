"""After a rollback: the rows that the bad set made are named, all of them and no other, and made again."""

from pathlib import Path
from typing import Any

import pytest

from headrace.errors import HandoffCorrupt, InvalidInput, RepinRequired
from headrace.generation.mirroring import MirrorStopped
from headrace.generation.review import review_rows
from headrace.generation.rolled_back import (
    aborted_sets,
    partitions_to_regenerate,
    rows_made_by,
    rows_still_published,
    seal_rolled_back_rows,
    void_unsealed,
)
from headrace.handoff.collecting import collect, plan_collection
from headrace.handoff.schemas import check_schema
from headrace.rollout.plan import Plan
from tests.generation.builders import TEXTS, ScriptedEngine, Site, make_campaign, make_partition, make_site

STABLE_SHARD, BAD_SHARD, MENDED_SHARD = 0, 1, 2


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Shard 0 was always on the stable set; 1 and 2 on a set that was rolled back, and 2 was made again since."""
    site = make_site(tmp_path)
    generate(site, STABLE_SHARD)
    site.start(2, weight=1.0)
    generate(site, BAD_SHARD)
    generate(site, MENDED_SHARD)
    site.abort(2)
    generate(site, MENDED_SHARD, "rolled_back")
    return site


def generate(site: Site, shard: int, regenerate: Any = None) -> None:
    site.partition = make_partition(shard)
    site.put_prompts()
    site.generate(site.open_claim(f"run-{shard}-{regenerate}", regenerate))


def bad_set(site: Site) -> str:
    (version_set,) = site.state.aborted
    return version_set


def test_exactly_the_rows_of_the_bad_set_are_named(site: Site) -> None:
    rows = rows_made_by(site.handoffs, bad_set(site), campaign="glossary")
    check_schema("rolled_back_rows", rows)
    expected = [
        (key, version, row["row_id"], row["prompt_id"])
        for key in site.handoffs.partitions("generated_content")
        for version in site.handoffs.versions("generated_content", key)
        for row in site.handoffs.open("generated_content", key, version).table().to_pylist()
        if row["version_set"] == bad_set(site)
    ]
    named = [(row["partition"], row["version"], row["row_id"], row["prompt_id"]) for row in rows.to_pylist()]
    assert named == expected
    assert len(named) == 14
    superseded = {row["partition"]: row["superseded"] for row in rows.to_pylist()}
    assert superseded == {make_partition(BAD_SHARD).key: False, make_partition(MENDED_SHARD).key: True}


def test_a_set_that_made_nothing_has_no_rows(site: Site) -> None:
    assert rows_made_by(site.handoffs, "f" * 64).num_rows == 0
    assert rows_made_by(site.handoffs, []).num_rows == 0


def test_another_campaigns_rows_are_its_own_affair(site: Site) -> None:
    assert rows_made_by(site.handoffs, bad_set(site), campaign="another").num_rows == 0
    assert partitions_to_regenerate(site.handoffs, site.state.aborted, campaign="another") == {}


def test_just_the_partitions_whose_newest_rows_are_bad_are_made_again(site: Site) -> None:
    found = partitions_to_regenerate(site.handoffs, site.state.aborted)
    assert list(found) == [make_partition(BAD_SHARD).key]
    versions = {shard: newest(site, shard) for shard in range(3)}
    for shard in range(3):
        generate(site, shard, "rolled_back")
    # Launched on all of them, it makes one.
    assert {shard: newest(site, shard) for shard in range(3)} == versions | {BAD_SHARD: 2}
    assert partitions_to_regenerate(site.handoffs, site.state.aborted) == {}


def newest(site: Site, shard: int) -> int:
    return site.handoffs.open("generated_content", make_partition(shard).key).version


def test_a_partition_that_a_second_bad_set_made_is_still_to_be_made_again(site: Site) -> None:
    site.start(3, weight=1.0)
    generate(site, BAD_SHARD, "rolled_back")
    site.abort(3)
    assert list(partitions_to_regenerate(site.handoffs, site.state.aborted)) == [make_partition(BAD_SHARD).key]
    rows = rows_made_by(site.handoffs, site.state.aborted).to_pylist()
    flags = {(row["version"], row["superseded"]) for row in rows if row["partition"] == make_partition(BAD_SHARD).key}
    assert flags == {(1, True), (2, False)}


def test_bad_rows_are_counted_where_they_are_still_read(site: Site) -> None:
    for shard in (BAD_SHARD, MENDED_SHARD):
        key = make_partition(shard).key
        # The review of the mended partition was made before it was mended.
        content = site.handoffs.open("generated_content", key, 1)
        review = review_rows(content.table(), site.campaign.review).table
        site.handoffs.publish("reviewed_content", key, review, code_version="1", run_id="review")
    bad, mended = make_partition(BAD_SHARD).key, make_partition(MENDED_SHARD).key
    assert rows_still_published(site.handoffs, "generated_content", site.state.aborted) == {bad: 7}
    assert rows_still_published(site.handoffs, "reviewed_content", site.state.aborted) == {bad: 7, mended: 7}
    assert rows_still_published(site.handoffs, "reviewed_content", []) == {}
    with pytest.raises(InvalidInput, match="must be generated_content or reviewed_content, got 'prompts'"):
        rows_still_published(site.handoffs, "prompts", site.state.aborted)


def test_a_manifest_that_cannot_be_read_is_no_clean_bill(site: Site) -> None:
    path = site.objects.local_path(f"handoff/generated_content/{_segment(site, STABLE_SHARD)}/v000001/manifest.json")
    path.chmod(0o644)
    path.write_text("{}")
    with pytest.raises(HandoffCorrupt):
        rows_made_by(site.handoffs, bad_set(site))
    # What is certainly bad can be made again all the same.
    assert list(partitions_to_regenerate(site.handoffs, site.state.aborted)) == [make_partition(BAD_SHARD).key]


def _segment(site: Site, shard: int) -> str:
    (segment,) = [
        name for name in site.objects.children("handoff/generated_content") if name.endswith(f"glossary-{shard:02d}")
    ]
    return segment


def test_the_list_is_sealed_once_until_something_changes(site: Site) -> None:
    first = seal_rolled_back_rows(site.handoffs, site.claims, "glossary", run_id="run-a")
    assert first.figures() == {
        "num_rolled_back_rows": 14,
        "num_rows_unnamed": 0,
        "num_rows_still_published": 7,
        "num_partitions": 2,
        "num_partitions_to_regenerate": 1,
        "partitions_to_regenerate": make_partition(BAD_SHARD).key,
    }
    again = seal_rolled_back_rows(site.handoffs, site.claims, "glossary", run_id="run-b")
    assert again.table.version == first.table.version
    generate(site, BAD_SHARD, "rolled_back")
    mended = seal_rolled_back_rows(site.handoffs, site.claims, "glossary", run_id="run-c")
    assert mended.table.version == 2
    assert mended.figures()["num_rows_still_published"] == 0
    assert all(row["superseded"] for row in mended.table.table().to_pylist())


def test_the_list_keeps_rows_whose_versions_were_collected_since(site: Site) -> None:
    generate(site, BAD_SHARD, "rolled_back")
    listed = seal_rolled_back_rows(site.handoffs, site.claims, "glossary", run_id="run-a").table.table().to_pylist()
    collect(site.objects, site.clock, plan_collection(site.objects, site.clock, keep_versions=1, grace_seconds=-1.0))
    assert rows_made_by(site.handoffs, bad_set(site)).num_rows == 0
    after = seal_rolled_back_rows(site.handoffs, site.claims, "glossary", run_id="run-b")
    assert after.table.table().to_pylist() == listed
    assert after.num_rows_unnamed == 0


def test_rows_that_were_collected_before_anybody_listed_them_are_counted(site: Site) -> None:
    generate(site, BAD_SHARD, "rolled_back")
    collect(site.objects, site.clock, plan_collection(site.objects, site.clock, keep_versions=1, grace_seconds=-1.0))
    figures = seal_rolled_back_rows(site.handoffs, site.claims, "glossary", run_id="run-a").figures()
    assert (figures["num_rolled_back_rows"], figures["num_rows_unnamed"]) == (0, 14)


def test_without_a_rollback_the_list_is_empty(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    site.generate()
    assert aborted_sets(None) == frozenset()
    assert seal_rolled_back_rows(site.handoffs, site.claims, "glossary", run_id="run-a").num_rows == 0


def test_attempts_and_mirrors_under_way_are_voided_before_their_workers_notice(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    site.generate()
    site.start(2, weight=1.0)
    last = TEXTS[-1]
    with pytest.raises(KeyboardInterrupt):
        site.mirror(engine=ScriptedEngine(fails=lambda prompt: prompt == last and KeyboardInterrupt()))
    site.partition = make_partition(1)
    site.put_prompts()
    claim = site.open_claim("run-1")
    with pytest.raises(KeyboardInterrupt):
        site.generate(claim, engine=ScriptedEngine(fails=lambda prompt: prompt == last and KeyboardInterrupt()))
    assert void_unsealed(site.claims, "glossary") == []
    site.abort(2)

    voided = void_unsealed(site.claims, "glossary")

    assert sorted(one.kind for one in voided) == ["content", "mirror"]
    assert [site.objects.list(one.batches_prefix) for one in voided] == [[], []]
    assert void_unsealed(site.claims, "glossary") == []
    with pytest.raises(RepinRequired):
        site.generate(claim)
    site.partition = make_partition(0)
    with pytest.raises(MirrorStopped):
        site.mirror()


def test_a_worker_that_looked_at_the_journal_before_the_abort_loses_to_the_one_that_voids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its store hangs between that look and the settlement; the rollout's own run is faster."""
    site = make_site(tmp_path)
    site.start(2, weight=1.0)
    claim = site.open_claim()
    create = site.objects.create
    meddled: list[str] = []

    def hangs(key: str, body: bytes, *, durable: bool = True) -> bool:
        if key.endswith(".settled.json") and not meddled:
            meddled.append(key)
            other = Site(site.directory)
            other.abort(2)
            void_unsealed(other.claims, "glossary")
        return create(key, body, durable=durable)

    monkeypatch.setattr(site.objects, "create", hangs)
    with pytest.raises(RepinRequired):
        site.generate(claim)
    assert meddled
    assert site.handoffs.newest("generated_content", site.partition.key) is None


def test_a_set_that_is_about_to_be_aborted_is_fenced_off_and_tried_again_if_it_is_not(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    candidate = site.start(2, weight=1.0)
    claim = site.open_claim()
    assert void_unsealed(site.claims, "glossary", about_to_abort=site.state.stable) == []
    assert void_unsealed(site.claims, "glossary", about_to_abort=candidate) == [claim]
    with pytest.raises(RepinRequired, match="is being rolled back"):
        site.generate(claim)
    # The abort never came.
    again = site.open_claim()
    assert (again.attempt, again.version_set) == (2, candidate)
    assert site.generate(again).content.num_rows == 7


def test_what_may_finish_unpublished_is_ended_and_its_worker_goes_on(tmp_path: Path) -> None:
    """Its settlement is taken before the abort, so that nothing of it can be sealed afterwards."""
    site = make_site(tmp_path, campaign=make_campaign(rollout=Plan(on_abort="finish_unpublished")))
    site.put_prompts()
    site.start(2, weight=1.0)
    claim = site.open_claim()
    assert void_unsealed(site.claims, "glossary", about_to_abort=claim.version_set) == [claim]
    site.abort(2)
    with pytest.raises(RepinRequired):
        site.generate(claim)
    assert site.handoffs.open("unpublished_content", site.partition.key).num_rows == 7
    assert site.handoffs.newest("generated_content", site.partition.key) is None
