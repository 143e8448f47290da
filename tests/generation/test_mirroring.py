import dataclasses
import random
from pathlib import Path

import pytest

from headrace.engines.rows import RowMaker
from headrace.errors import HandoffMissing, InvalidInput, ObjectMissing
from headrace.generation.claims import unsettled
from headrace.generation.micro_batches import committed
from headrace.generation.mirroring import (
    MirrorStopped,
    kept_difference_interval,
    mirrored_differences,
    partitions_to_mirror,
)
from headrace.handoff.schemas import check_schema
from headrace.keys import row_id
from headrace.rollout.plan import Plan
from headrace.rollout.sequential.samples import Sample
from headrace.rollout.states import PROPOSED
from headrace.version_sets.sets import VersionSet
from tests.generation.builders import (
    DAY,
    TEXTS,
    ScriptedEngine,
    Site,
    make_campaign,
    make_mirrored_site,
    make_partition,
    make_site,
    make_version_set,
)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A partition that is sealed on the stable set, and a candidate."""
    return make_mirrored_site(tmp_path)


def no_engine(version_set: VersionSet) -> RowMaker:
    raise AssertionError("no engine should be opened")


def rows_of(site: Site, asset: str) -> list[dict]:
    return site.handoffs.open(asset, site.partition.key).table().to_pylist()


def test_a_mirror_answers_the_same_prompts_on_the_candidate(site: Site) -> None:
    mirror = site.mirror()
    candidate = make_version_set(2).id
    rows = rows_of(site, "mirrored_content")
    assert [row["prompt"] for row in rows] == TEXTS
    assert {row["version_set"] for row in rows} == {candidate}
    assert [row["row_id"] for row in rows] == [row_id(row["prompt_id"], candidate, 0) for row in rows]
    assert mirror.content.attributes["version_set"] == candidate
    assert mirror.outcome.execution.num_rows == 7
    check_schema("mirrored_content", mirror.content.table())
    check_schema("mirror_comparison", mirror.comparison.table())


def test_a_mirror_changes_nothing_that_anybody_reads(site: Site) -> None:
    before = site.content_rows()
    site.mirror()
    assert site.content_rows() == before
    assert site.handoffs.versions("generated_content", site.partition.key) == [1]
    assert site.handoffs.versions("execution", site.partition.key) == [1]
    assert site.open_claim("another-run").kind == "content"


def test_a_comparison_has_a_row_for_every_prompt(site: Site) -> None:
    # Two words at least: an answer of one word is rejected, on either side.
    site.campaign = make_campaign(review=dataclasses.replace(site.campaign.review, words_min=4, words_max=None))
    mirror = site.mirror()
    compared = rows_of(site, "mirror_comparison")
    published, mirrored = rows_of(site, "generated_content"), rows_of(site, "mirrored_content")
    for row, old, new in zip(compared, published, mirrored, strict=True):
        assert (row["prompt_id"], row["position"]) == (old["prompt_id"], old["position"])
        assert (row["published_row_id"], row["mirrored_row_id"]) == (old["row_id"], new["row_id"])
        assert row["same_output"] == (old["output"] == new["output"])
        assert row["published_num_output_tokens"] == old["num_output_tokens"]
        assert row["mirrored_num_output_tokens"] == new["num_output_tokens"]
        assert row["published_kept"] == (not row["published_rejected_by"])
        assert row["mirrored_kept"] == (not row["mirrored_rejected_by"])
    figures = mirror.figures()
    only_published = sum(row["published_kept"] and not row["mirrored_kept"] for row in compared)
    only_mirrored = sum(row["mirrored_kept"] and not row["published_kept"] for row in compared)
    assert (figures["num_only_stable_kept"], figures["num_only_candidate_kept"]) == (only_published, only_mirrored)
    assert figures["kept_difference"] == pytest.approx((only_mirrored - only_published) / 7)
    assert mirror.differences == Sample(
        num=7, total=only_mirrored - only_published, total_squares=only_mirrored + only_published
    )


def test_the_set_that_made_the_content_makes_the_same_content(site: Site) -> None:
    mirror = site.mirror("stable")
    assert mirror.num_same_output == 7
    assert mirror.differences == Sample(num=7)


def test_a_mirror_that_is_sealed_loads_no_model(site: Site) -> None:
    site.mirror()
    again = site.mirror(open_engine=no_engine, root_run_id="run-2")
    assert again.outcome.reused
    assert site.handoffs.versions("mirrored_content", site.partition.key) == [1]
    assert site.handoffs.versions("mirror_comparison", site.partition.key) == [1]


def test_other_review_rules_compare_the_same_rows_again(site: Site) -> None:
    site.mirror()
    site.campaign = make_campaign(review=dataclasses.replace(site.campaign.review, words_min=3))
    site.mirror(open_engine=no_engine, root_run_id="run-2")
    assert site.handoffs.versions("mirrored_content", site.partition.key) == [1]
    assert site.handoffs.versions("mirror_comparison", site.partition.key) == [1, 2]


def test_content_that_is_made_again_is_compared_with_the_mirror_that_is_there(site: Site) -> None:
    site.mirror()
    site.promote(2)
    site.generate(site.open_claim("run-2", "current_set"))
    mirror = site.mirror(make_version_set(2).id, open_engine=no_engine, root_run_id="run-3")
    assert mirror.published.version == 2
    # The same prompts on the same set: both are the same rows.
    assert mirror.num_same_output == 7


def test_a_mirror_reads_the_prompts_that_the_content_was_made_from(site: Site) -> None:
    site.put_prompts(["another list"])
    assert [row["prompt"] for row in rows_of(site, site.mirror().content.asset)] == TEXTS


def test_mirrors_on_two_sets_stand_beside_each_other(site: Site) -> None:
    first = site.mirror()
    second = site.mirror("stable", root_run_id="run-2")
    assert first.outcome.claim.id != second.outcome.claim.id
    found = site.handoffs.find("mirrored_content", site.partition.key, version_set=make_version_set(2).id)
    assert found
    assert found.version == first.content.version


def test_a_killed_mirror_is_gone_on_with_and_makes_the_same_bytes(site: Site, tmp_path: Path) -> None:
    whole = make_site(tmp_path / "whole")
    whole.generate()
    whole.start(2, weight=0.1)

    def lights_out() -> None:
        (claim,) = unsettled(site.objects, "glossary")
        if len(committed(site.objects, claim)) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.mirror(engine=ScriptedEngine(before=lights_out))
    resumed = ScriptedEngine()
    site.mirror(engine=resumed)
    assert len(resumed.batches) == 2
    assert rows_of(site, "mirrored_content") == rows_of(whole, whole.mirror(engine=ScriptedEngine()).content.asset)


def test_a_retry_mirrors_what_its_run_began_with(site: Site) -> None:
    def lights_out() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.mirror(engine=ScriptedEngine(before=lights_out))
    site.promote(2)
    site.start(3, weight=0.1)
    assert site.mirror().content.attributes["version_set"] == make_version_set(2).id
    assert site.mirror(root_run_id="run-2").content.attributes["version_set"] == make_version_set(3).id


def test_a_proposed_set_is_mirrored_before_it_gets_a_unit(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    site.generate()
    proposed = site.roll_out(PROPOSED, 2)
    assert site.mirror().content.attributes["version_set"] == proposed


def test_a_rollback_stops_a_mirror_and_leaves_nothing_of_it(site: Site) -> None:
    engine = ScriptedEngine(before=lambda: engine.batches or site.abort(2))
    with pytest.raises(MirrorStopped, match=r"The mirror of generated_content\[2026-11-22\|glossary-00\].*rolled back"):
        site.mirror(engine=engine)
    assert len(engine.batches) == 1
    assert site.handoffs.newest("mirrored_content", site.partition.key) is None
    assert site.objects.list("batches") == [
        key for key in site.objects.list("batches") if key.startswith(site.open_claim("run-1").batches_prefix)
    ]
    # Its retry, and another run that names the set itself.
    with pytest.raises(MirrorStopped):
        site.mirror(open_engine=no_engine)
    with pytest.raises(MirrorStopped, match="nothing is mirrored on it any more"):
        site.mirror(make_version_set(2).id, root_run_id="run-2", open_engine=no_engine)


def test_a_rollback_before_the_seal_leaves_nothing_of_a_mirror(site: Site) -> None:
    """All rows are made; the abort comes between the last one and the seal."""
    engine = ScriptedEngine(before=lambda: len(engine.batches) == 3 and site.abort(2))
    with pytest.raises(MirrorStopped):
        site.mirror(engine=engine)
    assert len(engine.batches) == 4
    assert site.handoffs.newest("mirrored_content", site.partition.key) is None


def test_a_mirrors_claim_can_be_sealed_as_nothing_else(site: Site) -> None:
    """Even by a worker that is handed it as if it were content."""
    with pytest.raises(KeyboardInterrupt):
        site.mirror(engine=ScriptedEngine(fails=lambda prompt: KeyboardInterrupt()))
    (claim,) = unsettled(site.objects, "glossary")
    assert claim.kind == "mirror"
    outcome = site.generate(claim)
    assert outcome.content.asset == "mirrored_content"
    assert site.handoffs.versions("generated_content", site.partition.key) == [1]


def test_a_partition_that_was_never_made_has_no_mirror(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    with pytest.raises(HandoffMissing, match="No sealed handoff generated_content"):
        site.mirror("stable")


@pytest.mark.parametrize(
    ("wanted", "message"),
    {
        "no candidate": ("candidate", "There is no candidate set now"),
        "a prefix that is too short": ("a", "first 4 or more characters, or candidate, or stable"),
        "a set that nobody knows": ("f" * 64, "begins with"),
    }.values(),
    ids=["no candidate", "a prefix that is too short", "a set that nobody knows"],
)
def test_a_set_that_cannot_be_told_is_refused(tmp_path: Path, wanted: str, message: str) -> None:
    site = make_site(tmp_path)
    site.generate()
    with pytest.raises((InvalidInput, ObjectMissing), match=message):
        site.mirror(wanted)


def test_a_set_is_found_by_the_beginning_of_its_id(site: Site) -> None:
    stable = make_version_set(1).id
    assert site.mirror(stable[:8]).content.attributes["version_set"] == stable


def test_differences_are_summed_over_the_pairs_of_two_sets(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    stable, totals = site.state.stable, Sample()
    candidate = site.start(2, weight=0.1)
    for shard in range(3):
        site.partition = make_partition(shard)
        site.put_prompts()
        site.generate(site.open_claim(f"run-{shard}"))
        mirror = site.mirror(candidate, root_run_id=f"mirror-{shard}")
        if mirror.published.attributes["version_set"] == stable:
            totals += mirror.differences
    # Counted is what was published on the stable set; a canary is its own mirror.
    assert mirrored_differences(site.handoffs, "glossary", candidate, stable) == totals
    assert mirrored_differences(site.handoffs, "another", candidate, stable) == Sample()
    assert mirrored_differences(site.handoffs, "glossary", stable, candidate) == Sample()


def test_the_interval_of_a_difference_covers_zero_where_nothing_differs() -> None:
    low, high = kept_difference_interval(Sample(num=100))
    assert low < 0 < high
    assert high - low < 0.06


def test_the_interval_of_paired_shares_covers_the_true_difference_nearly_always() -> None:
    """500 draws of 60 pairs whose kept shares differ by 0.2: 95% of the intervals hold it, give or take three sigma."""
    draw = random.Random(7)
    num_covered = 0
    for _ in range(500):
        pairs = draw.choices([1, -1, 0], weights=[0.3, 0.1, 0.6], k=60)
        low, high = kept_difference_interval(Sample.of_values(pairs))
        num_covered += low <= 0.2 <= high
    assert 460 <= num_covered <= 490


def test_without_pairs_everything_is_possible() -> None:
    assert kept_difference_interval(Sample()) == (-1.0, 1.0)


def test_the_newest_partitions_of_the_stable_set_are_wanted_once(tmp_path: Path) -> None:
    site = make_site(tmp_path, campaign=make_campaign(rollout=Plan(mirror_partitions=2)))
    for day, shard in (("2026-11-20", 1), (DAY, 0), (DAY, 2)):
        site.partition = make_partition(shard, day)
        site.put_prompts()
        site.generate(site.open_claim(f"run-{day}-{shard}"))
    days = ["2026-11-20", "2026-11-21", DAY]
    assert partitions_to_mirror(site.handoffs, site.campaign, site.state, days) == []
    candidate = site.start(2, weight=0.1)

    wanted = partitions_to_mirror(site.handoffs, site.campaign, site.state, days)

    assert [(one.partition, one.version_set) for one in wanted] == [
        (f"{DAY}|glossary-00", candidate),
        (f"{DAY}|glossary-02", candidate),
    ]
    site.partition = make_partition(0)
    site.mirror()
    wanted = partitions_to_mirror(site.handoffs, site.campaign, site.state, days)
    assert [one.partition for one in wanted] == [f"{DAY}|glossary-02"]


def test_a_mirror_counts_against_no_cap(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    site.generate()
    site.start(2, weight=1.0, cap=1)
    site.mirror()
    places = site.claims.places(site.state, site.campaign.partition_keys(DAY))
    assert places
    assert (places.taken, places.num_left) == (frozenset(), 1)
