"""What claims name: the weights of the set that an attempt is on, besides the versions that it reads."""

from pathlib import Path

import pytest

from headrace.generation.protection import protection
from headrace.store.protection import Asked
from headrace.store.small_objects import PassedOver
from headrace.version_sets.sets import VersionSets
from tests.generation.builders import Site, make_site


def named(site: Site) -> dict[str, str]:
    asked = Asked(objects=site.objects, now=site.clock.now(), clock=site.clock, grace_seconds=0, damaged=PassedOver())
    return {one.key: one.reason for one in protection(asked).named if one.key.startswith("weights/")}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


def test_an_attempt_under_way_names_the_weights_of_its_set_until_it_is_sealed(site: Site) -> None:
    claim = site.open_claim()
    site.start(2)
    site.promote(2)
    version_set = claim.version_set[:12]
    assert named(site) == {"weights/weights-1": f"claim {claim.id[:12]} (under way): version set {version_set}"}
    site.generate(claim)
    assert named(site) == {}


def test_a_run_that_is_about_to_mirror_names_the_weights_of_its_set(site: Site) -> None:
    site.generate()
    site.start(2, weight=0.1)
    with pytest.raises(KeyboardInterrupt):
        site.mirror(open_engine=lambda version_set: (_ for _ in ()).throw(KeyboardInterrupt))
    assert list(named(site)) == ["weights/weights-2"]


def test_a_set_that_is_gone_may_be_on_any_weights(site: Site) -> None:
    claim = site.open_claim()
    site.objects.delete(f"version_sets/{claim.version_set}.json")
    assert VersionSets(site.objects).ids() == []
    who = f"claim {claim.id[:12]} (under way)"
    wanted = f"version set {claim.version_set[:12]}, of {who}, cannot be read, and may name them"
    assert named(site) == {"weights/": wanted}
