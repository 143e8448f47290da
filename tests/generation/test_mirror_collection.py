"""Garbage collection knows mirrors: their micro-batches go once they are sealed, and a void one keeps no input."""

from pathlib import Path

import pytest

from headrace.generation.claim_pins import read_claim_pins
from headrace.generation.mirroring import MirrorStopped
from headrace.handoff.collecting import collect, plan_collection
from tests.generation.builders import TEXTS, ScriptedEngine, Site, make_mirrored_site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_mirrored_site(tmp_path)


def collected(site: Site) -> None:
    collect(site.objects, site.clock, plan_collection(site.objects, site.clock, grace_seconds=-1.0))


def test_micro_batches_of_a_sealed_mirror_go(site: Site) -> None:
    claim = site.mirror().outcome.claim
    assert site.objects.list(claim.batches_prefix)
    collected(site)
    assert site.objects.list(claim.batches_prefix) == []
    assert site.mirror(root_run_id="run-2").outcome.reused


def test_micro_batches_of_a_mirror_under_way_stay_and_its_prompts_are_pinned(site: Site) -> None:
    with pytest.raises(KeyboardInterrupt):
        site.mirror(engine=ScriptedEngine(fails=lambda prompt: prompt == TEXTS[-1] and KeyboardInterrupt()))
    before = site.objects.list("batches")
    collected(site)
    assert set(site.objects.list("batches")) >= {
        key for key in before if not key.startswith("batches/" + _content(site))
    }
    assert ("prompts", site.partition.key, 1) in read_claim_pins(site.objects).in_use


def _content(site: Site) -> str:
    return site.open_claim().id


def test_a_mirror_of_a_set_that_was_rolled_back_pins_nothing(site: Site) -> None:
    with pytest.raises(MirrorStopped):
        site.mirror(engine=ScriptedEngine(before=lambda: site.state.candidate and site.abort(2)))
    assert read_claim_pins(site.objects).in_use == {}
