"""Objects that a disk or a hand has damaged stop what needs them, with what to do, and nothing else."""

from pathlib import Path

import pytest

from headrace.errors import HandoffCorrupt, RepinRequired
from headrace.generation.claim_pins import read_claim_pins
from headrace.generation.claims import unsettled
from headrace.generation.micro_batches import committed
from headrace.generation.rolled_back import bad_versions, seal_rolled_back_rows, void_unsealed
from headrace.handoff.collecting import plan_collection
from headrace.keys import ContentPartition
from headrace.store.leases import is_leased
from headrace.store.small_objects import PassedOver
from headrace.store.tombstones import standing, tombstones
from tests.generation.builders import ScriptedEngine, Site, make_campaign, make_site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


def claim_key(site: Site, attempt: int = 1) -> str:
    (key,) = [key for key in site.objects.list("claims") if key.endswith(f"/a{attempt:04d}.json")]
    return key


def damage(site: Site, key: str, body: bytes = b"") -> None:
    site.objects.delete(key)
    site.objects.create(key, body)


def begin(site: Site) -> None:
    """An attempt that is under way, with some of its rows committed."""
    engine = ScriptedEngine()
    engine.before = lambda: (_ for _ in ()).throw(KeyboardInterrupt) if engine.batches else None
    with pytest.raises(KeyboardInterrupt):
        site.generate(engine=engine)


def test_an_abort_reads_no_other_campaigns_claims(site: Site) -> None:
    site.open_claim()
    other = Site(
        site.directory,
        campaign=make_campaign(name="tales"),
        partition=ContentPartition(day="2026-11-22", campaign="tales", shard=0),
    )
    other.initialize()
    other.start(2)
    damage(site, claim_key(site))
    assert other.abort_by_hand().sentences == []
    assert other.state.aborted
    assert unsettled(site.objects, "tales") == []
    with pytest.raises(HandoffCorrupt, match="Claim .*is damaged.*regenerate: current_set"):
        unsettled(site.objects, "glossary")


def test_an_abort_ends_the_attempt_whose_claim_cannot_be_read_and_names_it(site: Site) -> None:
    site.start(2)
    claim = site.open_claim()
    damage(site, claim_key(site))
    assert site.abort_by_hand().keys == [claim_key(site)]
    assert site.state.aborted == {claim.version_set}
    settlement = site.claims.settlement(claim)
    assert settlement is not None
    assert (settlement.outcome, settlement.reason[:24]) == ("void", "its claim cannot be read")
    # A worker that has held the claim since before publishes nothing.
    with pytest.raises(RepinRequired):
        site.generate(claim)


def test_a_list_of_rolled_back_rows_is_made_beside_a_damaged_claim_and_names_it(site: Site) -> None:
    site.start(2)
    made = site.generate().content
    site.abort(2)
    site.open_claim("run-2", regenerate="rolled_back")
    damage(site, claim_key(site, 2))
    found = seal_rolled_back_rows(site.handoffs, site.claims, "glossary", run_id="r")
    assert (found.num_rows, found.damaged) == (made.num_rows, (claim_key(site, 2),))
    assert found.figures()["damaged_objects"] == claim_key(site, 2)


@pytest.mark.parametrize("what", ["a0001.json", "a0001.settled.json"])
def test_a_partition_whose_attempt_cannot_be_read_is_made_anew_when_somebody_says_so(site: Site, what: str) -> None:
    site.generate()
    key = claim_key(site).replace("a0001.json", what)
    damage(site, key, b"{}")
    for regenerate in (None, "keep_set", "rolled_back"):
        with pytest.raises(HandoffCorrupt, match="Materialize the partition with `regenerate: current_set`") as error:
            site.open_claim(f"run-{regenerate}", regenerate=regenerate)
        assert error.value.key == key
    claim = site.open_claim("run-2", regenerate="current_set")
    assert (claim.attempt, site.open_claim("run-2", regenerate="current_set")) == (2, claim)
    assert claim.reason.startswith("regenerate: current_set, claims/")
    assert site.generate(claim).content.version >= 1
    assert site.open_claim("run-3") == claim


def test_a_claim_that_is_lost_is_no_first_attempt_again(site: Site) -> None:
    site.generate()
    site.objects.delete(claim_key(site))
    with pytest.raises(HandoffCorrupt, match="Claim 1 is missing, though number 1 was made"):
        site.open_claim("run-2")
    claim = site.open_claim("run-3", regenerate="current_set")
    assert claim.attempt == 2
    assert site.generate(claim)
    # What was given up is no gap for anybody who comes later.
    assert site.open_claim("run-4") == claim


def test_an_attempt_that_was_passed_over_leaves_no_rows_to_the_next(site: Site) -> None:
    begin(site)
    first = site.open_claim()
    assert committed(site.objects, first)
    damage(site, claim_key(site))
    second = site.open_claim("run-2", regenerate="current_set")
    assert (committed(site.objects, first), committed(site.objects, second)) == (set(), set())
    with pytest.raises(RepinRequired):
        site.generate(first)


def test_a_mirror_whose_claim_cannot_be_read_is_made_once_more(site: Site) -> None:
    site.generate()
    candidate = site.start(2)
    site.mirror()
    (key,) = [key for key in site.objects.list("claims") if "/mirrors/" in key and key.endswith("/a0001.json")]
    damage(site, key, b"null")
    again = site.mirror(root_run_id="run-2")
    assert again.outcome.content.attributes["version_set"] == candidate
    assert again.outcome.content.num_rows == again.published.num_rows


def test_a_runs_pin_that_cannot_be_read_stops_that_run_alone(site: Site) -> None:
    claim = site.open_claim("run-1")
    (key,) = [key for key in site.objects.list("claims") if "/runs/" in key]
    damage(site, key, b"[]")
    with pytest.raises(HandoffCorrupt, match="Launch the partition as a new run") as error:
        site.open_claim("run-1")
    assert error.value.key == key
    assert site.open_claim("run-2") == claim


def test_a_collection_keeps_all_that_an_unreadable_claim_may_pin(site: Site) -> None:
    site.open_claim()
    for number in range(3):
        site.put_prompts([f"Prompt {number}."])
    site.clock.seconds += 7 * 24 * 3600
    key = claim_key(site)
    damage(site, key)
    plan = plan_collection(site.objects, site.clock, keep_versions=1, grace_seconds=0)
    assert plan.collected == []
    assert {verdict.reason for verdict in plan.versions} >= {f"{key} cannot be read, and may pin it"}
    assert len(plan.damaged) == 1
    assert "Claim file:///" in plan.damaged[0]


def test_a_collection_leaves_alone_what_an_unreadable_decision_is_about(site: Site) -> None:
    for number in range(3):
        site.put_prompts([f"Prompt {number}."])
    oldest = site.handoffs.open("prompts", site.partition.key, 1).manifest.nonce
    key = f"condemned/{oldest}/c.decided.json"
    site.objects.create(key, b"{}")
    plan = plan_collection(site.objects, site.clock, keep_versions=1, grace_seconds=0)
    assert [found.version for found in plan.collected] == [2, 3]
    assert [sentence.partition(" is damaged")[0][-len(key) :] for sentence in plan.damaged] == [key]


def test_a_manifest_that_cannot_be_read_is_named_beside_the_rows_that_are_known(site: Site) -> None:
    candidate = site.start(2)
    site.generate()
    site.put_prompts(["Another prompt."])
    site.generate(site.open_claim("run-2"))
    (partition,) = site.objects.children("handoff/generated_content")
    damage(site, f"handoff/generated_content/{partition}/v000002/manifest.json")
    damaged = PassedOver()
    (bad,) = bad_versions(site.handoffs, {candidate}, damaged=damaged)
    assert (bad.version, bad.superseded, len(damaged.sentences)) == (1, True, 1)
    with pytest.raises(HandoffCorrupt):
        bad_versions(site.handoffs, {candidate})


@pytest.mark.parametrize("name", [".nfs00000000000001", ".DS_Store", "b00000.arrow~", "Thumbs.db"])
def test_names_that_are_not_ours_are_passed_over(site: Site, name: str) -> None:
    begin(site)
    claim = site.open_claim()
    whole = committed(site.objects, claim)
    places = {key.rpartition("/")[0] for key in site.objects.list("batches") + site.objects.list("claims")}
    places |= {"leases", "leases/n", "condemned", "condemned/n", "batches", "claims/generated_content"}
    places |= {"handoff/generated_content", "handoff/prompts"}
    for place in places:
        path = site.directory / place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0")
    assert committed(site.objects, claim) == whole
    assert site.open_claim() == claim
    assert void_unsealed(site.claims, "glossary") == []
    assert bad_versions(site.handoffs, {"x"}, campaign="glossary") == []
    assert read_claim_pins(site.objects).in_use
    assert (standing(site.objects, "n"), tombstones(site.objects, "n")) == ("none", [])
    assert is_leased(site.objects, "n", 0.0) == (not name.startswith("."))
    assert plan_collection(site.objects, site.clock).damaged == ()
    assert site.generate().content.num_rows == 7
