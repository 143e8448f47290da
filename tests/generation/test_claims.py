from pathlib import Path

import pytest

from headrace.errors import HandoffMissing, InvalidInput, RepinRequired
from headrace.generation.claims import check_regenerate
from headrace.generation.micro_batches import committed
from headrace.rollout.assignment import canary_units
from headrace.rollout.plan import Plan
from headrace.rollout.states import PAUSED, REWEIGHTED
from tests.generation.builders import TEXTS, ScriptedEngine, Site, make_campaign, make_partition, make_site
from tests.store.old_objects import make_old


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


def test_a_first_run_claims_the_stable_set(site: Site) -> None:
    claim = site.open_claim()
    assert (claim.attempt, claim.version_set) == (1, site.journal.entries()[0].fields["version_set"])
    assert claim.inputs == {"prompts": 1}


def test_a_claim_is_found_again_by_every_later_run(site: Site) -> None:
    assert site.open_claim("run-1") == site.open_claim("run-1") == site.open_claim("run-2")


def test_a_sealed_claim_serves_unchanged_prompts_whatever_is_rolled_out_since(site: Site) -> None:
    claim = site.open_claim()
    site.generate(claim)
    site.start(2)
    site.promote(2)
    assert site.open_claim("run-2") == claim
    outcome = site.generate(site.open_claim("run-2"))
    assert outcome.reused
    assert site.handoffs.versions("generated_content", site.partition.key) == [1]


def test_the_same_prompts_sealed_again_are_unchanged_prompts(site: Site) -> None:
    claim = site.open_claim()
    site.generate(claim)
    site.put_prompts(["other"])
    site.put_prompts()
    assert site.handoffs.versions("prompts", site.partition.key) == [1, 2, 3]
    assert site.open_claim("run-2") == claim


def test_changed_prompts_open_an_attempt_of_their_own(site: Site) -> None:
    first = site.open_claim()
    site.put_prompts(["another list"])
    second = site.open_claim("run-2")
    assert second.id != first.id
    assert second.inputs == {"prompts": 2}


def test_a_retry_reads_the_prompts_that_its_run_pinned(site: Site) -> None:
    first = site.open_claim("run-1")
    site.put_prompts(["another list"])
    assert site.open_claim("run-1") == first


def test_prompts_that_went_back_make_the_old_rows_the_newest_again(site: Site) -> None:
    site.generate(site.open_claim("run-1"))
    rows = site.content_rows()
    site.put_prompts(["another list"])
    site.generate(site.open_claim("run-2"))
    site.put_prompts()
    outcome = site.generate(site.open_claim("run-3"))
    assert outcome.reused
    assert outcome.content.version == 3
    assert site.content_rows() == rows
    assert site.generate(site.open_claim("run-4")).content.version == 3


@pytest.mark.parametrize(("regenerate", "model_version"), [("keep_set", 1), ("current_set", 2)])
def test_regenerate_opens_one_new_attempt_a_run(site: Site, regenerate: str, model_version: int) -> None:
    first = site.open_claim("run-1")
    site.generate(first)
    sets = {1: first.version_set, 2: site.start(2)}
    site.promote(2)
    wanted = check_regenerate(regenerate)
    second = site.open_claim("run-2", wanted)
    assert (second.attempt, second.version_set) == (2, sets[model_version])
    assert site.open_claim("run-2", wanted) == second
    site.generate(second)
    # The retry of a run that had sealed its attempt, and died before it could say so.
    assert site.open_claim("run-2", wanted) == second
    assert site.open_claim("run-3") == second
    assert site.open_claim("run-4", wanted).attempt == 3


def test_two_regenerating_runs_that_meet_share_one_attempt(site: Site) -> None:
    site.generate(site.open_claim("run-1"))
    second = site.open_claim("run-2", "current_set")
    assert site.open_claim("run-3", "current_set") == second


def test_regenerate_on_a_partition_that_was_never_made_is_its_first_attempt(site: Site) -> None:
    assert site.open_claim("run-1", "current_set").attempt == 1


def test_an_attempt_on_a_set_that_is_rolled_back_is_void_and_the_next_takes_the_stable_set(site: Site) -> None:
    stable = site.journal.entries()[0].fields["version_set"]
    candidate = site.start(2)
    claim = site.open_claim()
    assert claim.version_set == candidate
    site.abort(2)
    again = site.open_claim()
    assert (again.attempt, again.version_set) == (2, stable)
    assert "rolled back" in again.reason
    settlement = site.claims.settlement(claim)
    assert settlement
    assert settlement.outcome == "void"


def test_a_worker_that_slept_through_a_rollback_publishes_nothing(site: Site) -> None:
    site.start(2)
    claim = site.open_claim()
    site.abort(2)
    replacement = site.open_claim("run-2")
    with pytest.raises(RepinRequired, match=r"Attempt 1 at generated_content\[2026-11-22\|glossary-00\] is void"):
        site.generate(claim)
    site.generate(replacement)
    versions = site.handoffs.versions("generated_content", site.partition.key)
    assert [
        site.handoffs.open("generated_content", site.partition.key, one).attributes["claim"] for one in versions
    ] == [replacement.id]


def test_a_rollback_after_the_seal_changes_nothing(site: Site) -> None:
    site.start(2)
    claim = site.open_claim()
    site.claims.settle(claim, "sealed", "all micro-batches are committed")
    site.abort(2)
    assert site.open_claim("run-2") == claim
    assert not site.generate(claim).reused
    assert site.handoffs.versions("generated_content", site.partition.key) == [1]


def test_a_settlement_is_the_first_writers(site: Site) -> None:
    claim = site.open_claim()
    assert site.claims.settle(claim, "void", "first").outcome == "void"
    assert site.claims.settle(claim, "sealed", "second").outcome == "void"


def test_an_aborted_set_may_be_finished_unpublished(tmp_path: Path) -> None:
    site = make_site(tmp_path, campaign=make_campaign(rollout=Plan(on_abort="finish_unpublished")))
    site.start(2)
    claim = site.open_claim()
    site.abort(2)
    assert site.open_claim() == claim
    with pytest.raises(RepinRequired):
        site.generate(claim)
    assert site.handoffs.newest("generated_content", site.partition.key) is None
    assert site.handoffs.open("unpublished_content", site.partition.key).num_rows == 7
    assert site.open_claim().attempt == 2


def test_a_canary_partition_gets_the_candidate_and_the_others_the_stable_set(site: Site) -> None:
    candidate = site.start(2, weight=0.1)
    claimed = []
    for shard in range(site.campaign.num_shards):
        site.partition = make_partition(shard)
        site.put_prompts()
        claimed.append(site.open_claim(f"run-{shard}").version_set)
    assert claimed.count(candidate) == 1


def claim_all(site: Site, run: str = "run") -> dict[int, str]:
    """Shard → the set that its claim pinned."""
    claimed = {}
    for shard in range(site.campaign.num_shards):
        site.partition = make_partition(shard)
        site.put_prompts()
        claimed[shard] = site.open_claim(f"{run}-{shard}").version_set
    return claimed


@pytest.mark.parametrize(("weight", "cap", "num_canaries"), [(1.0, 3, 3), (0.5, 3, 2), (1.0, 4, 4), (0.5, None, 2)])
def test_a_candidate_gets_exactly_its_share_and_no_more_than_its_cap(
    site: Site, weight: float, cap: int | None, num_canaries: int
) -> None:
    candidate = site.start(2, weight, cap)
    assert list(claim_all(site).values()).count(candidate) == num_canaries
    # Another day's partitions count against the same cap.
    site.partition = make_partition(0, "2026-11-23")
    site.put_prompts()
    is_left = cap is None or num_canaries < cap
    chosen = weight == 1.0 or site.partition.key in canary_units(
        weight, "glossary", site.campaign.partition_keys("2026-11-23")
    )
    assert (site.open_claim("next-day").version_set == candidate) == (is_left and chosen)


def test_a_worker_that_dies_between_its_place_and_its_claim_uses_one_place(site: Site) -> None:
    candidate = site.start(2, weight=1.0, cap=2)
    for _ in range(3):
        other = Site(site.directory)
        create = other.objects.create

        def die(key: str, body: bytes, *, durable: bool = True, create=create) -> bool:
            if key.startswith("claims/") and "/runs/" not in key:
                raise KeyboardInterrupt
            return create(key, body, durable=durable)

        other.objects.create = die
        with pytest.raises(KeyboardInterrupt):
            other.open_claim()
    assert list(claim_all(site).values()).count(candidate) == 2


def test_making_a_canary_again_uses_no_further_place(site: Site) -> None:
    candidate = site.start(2, weight=1.0, cap=1)
    site.generate(site.open_claim("run-1"))
    assert site.open_claim("run-2", "current_set").version_set == candidate
    places = site.claims.places(site.state, [site.partition.key])
    assert places
    assert (places.taken, places.num_left) == ({site.partition.key}, 0)


def test_a_candidate_after_a_rolled_back_one_has_a_cap_of_its_own(site: Site) -> None:
    site.start(2, weight=1.0, cap=1)
    site.open_claim("run-1")
    site.abort(2)
    candidate = site.start(3, weight=1.0, cap=1)
    assert site.open_claim("run-1").version_set == candidate


def test_a_paused_candidate_keeps_its_share(site: Site) -> None:
    candidate = site.start(2, weight=1.0)
    site.roll_out(PAUSED, 2)
    assert site.open_claim().version_set == candidate


def test_a_weight_that_falls_leaves_what_is_claimed_and_takes_the_rest(site: Site) -> None:
    candidate = site.start(2, weight=1.0)
    claim = site.open_claim("run-1")
    site.roll_out(REWEIGHTED, 2, weight=0.0)
    assert site.open_claim("run-1") == site.open_claim("run-2") == claim
    assert claim.version_set == candidate
    assert site.generate(claim).content.attributes["version_set"] == candidate
    site.partition = make_partition(1)
    site.put_prompts()
    assert site.open_claim("run-3").version_set == site.state.stable


def test_a_claim_of_an_earlier_release_is_read(site: Site) -> None:
    claim = site.open_claim()
    (key,) = [key for key in site.objects.list("claims") if key.endswith("a0001.json")]
    make_old(site.objects, key, without=("kind",))
    assert site.open_claim() == claim


def test_a_new_pin_drops_what_the_old_one_made(site: Site) -> None:
    site.start(2)
    claim = site.open_claim()
    with pytest.raises(KeyboardInterrupt):
        site.generate(claim, engine=ScriptedEngine(fails=lambda prompt: prompt == TEXTS[-1] and KeyboardInterrupt()))
    assert committed(site.objects, claim)
    site.abort(2)
    again = site.open_claim()
    assert again.id != claim.id
    assert site.objects.list(claim.batches_prefix) == []


def test_a_worker_that_was_voided_while_it_made_a_batch_leaves_none(site: Site) -> None:
    site.start(2)
    claim = site.open_claim()

    def voided_meanwhile() -> None:
        if len(engine.batches) == 1:
            site.abort(2)
            Site(site.directory).open_claim("run-2")

    engine = ScriptedEngine(before=voided_meanwhile)
    with pytest.raises(RepinRequired):
        site.generate(claim, engine=engine)
    assert len(engine.batches) == 2
    assert site.objects.list(claim.batches_prefix) == []


def test_a_worker_whose_batches_are_dropped_as_it_reads_them_says_that_its_claim_is_void(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.start(2)
    claim = site.open_claim()
    read = site.objects.read

    def voided_meanwhile(key: str) -> bytes:
        if key == claim.batch_key(2):
            monkeypatch.undo()
            site.abort(2)
            Site(site.directory).open_claim("run-2")
        return read(key)

    monkeypatch.setattr(site.objects, "read", voided_meanwhile)
    with pytest.raises(RepinRequired, match="is void: version set .* was rolled back"):
        site.generate(claim)


def test_a_void_attempt_whose_opener_died_is_cleared_by_the_next(site: Site) -> None:
    site.start(2)
    claim = site.open_claim()
    with pytest.raises(KeyboardInterrupt):
        site.generate(claim, engine=ScriptedEngine(fails=lambda prompt: prompt == TEXTS[-1] and KeyboardInterrupt()))
    site.abort(2)
    site.claims.settle(claim, "void", "rolled back")
    assert site.objects.list(claim.batches_prefix)
    site.open_claim("run-2")
    assert site.objects.list(claim.batches_prefix) == []


def test_rolled_back_regenerates_only_what_a_rolled_back_set_made(site: Site) -> None:
    site.generate(site.open_claim("run-1"))
    assert site.open_claim("run-2", "rolled_back").attempt == 1
    site.start(2)
    site.generate(site.open_claim("run-3", "current_set"))
    assert site.open_claim("run-4", "rolled_back").attempt == 2
    site.abort(2)
    again = site.open_claim("run-5", "rolled_back")
    assert (again.attempt, again.version_set) == (3, site.state.stable)
    site.generate(again)
    # Its retry, and whoever comes next.
    assert site.open_claim("run-5", "rolled_back") == site.open_claim("run-6", "rolled_back") == again


def test_a_campaign_without_a_rollout_says_what_to_do(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.put_prompts()
    with pytest.raises(HandoffMissing, match=r"'glossary' has no version set yet.*Materialize rollout\[glossary\]"):
        site.open_claim()


def test_an_unknown_word_for_regenerate_is_refused() -> None:
    with pytest.raises(
        InvalidInput, match="regenerate must be keep_set, current_set or rolled_back, or left out, got 'yes'"
    ):
        check_regenerate("yes")
