"""Versions name the weights in their column `weights_digest`, for as long as they are there themselves."""

import time
from pathlib import Path

import pyarrow as pa
import pytest

from headrace.clock import FixedClock
from headrace.handoff.collecting import CollectionPlan, plan_collection
from headrace.handoff.layout import manifest_key
from headrace.handoff.versions import HandoffStore
from headrace.store.leases import HELD_SECONDS
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory


class Site:
    """Weights that were sealed two days ago, and versions beside them."""

    def __init__(self, directory: Path) -> None:
        self.store = LocalStore(directory / "store")
        self.clock = FixedClock(time.time())
        self.handoffs = HandoffStore(self.store, leased=False)
        source = directory / "source"
        source.mkdir()
        (source / "model.safetensors").write_bytes(b"0123" * 1000)
        long_ago = FixedClock(time.time() - 2 * HELD_SECONDS)
        self.digest = seal_directory(self.store, source, clock=long_ago).digest

    def publish(self, asset: str, number: int, **columns: str) -> None:
        self.handoffs.publish(
            asset,
            "all",
            pa.table({"x": [number]} | {name: [value] for name, value in columns.items()}),
            code_version="1",
            run_id="r",
        )

    def damage(self, asset: str, version: int) -> None:
        path = self.store.local_path(manifest_key(asset, "all", version))
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-5])

    def plan(self) -> CollectionPlan:
        return plan_collection(self.store, self.clock, keep_versions=1, grace_seconds=-1.0, protectors={})

    @property
    def verdict(self) -> tuple[bool, str]:
        (one,) = (one for one in self.plan().others if one.kind == "weights")
        return one.is_kept, one.reason


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_version_names_its_weights_until_it_is_collected_itself(site: Site) -> None:
    site.publish("trained_model", 1, weights_digest=site.digest)
    assert site.verdict == (True, "in trained_model[all] v1")
    site.publish("trained_model", 2, weights_digest="f" * 64)
    # It goes tonight, and the weights in the night after: a collection that is killed in between takes nothing named.
    assert [found.version for found in site.plan().collected] == [1]
    assert site.verdict == (True, "in trained_model[all] v1")


def test_rows_of_content_name_no_weights(site: Site) -> None:
    site.publish("generated_content", 1, version_set=site.digest)
    assert site.verdict == (False, "nobody names them")


def test_a_damaged_version_of_what_hands_on_weights_may_name_any(site: Site) -> None:
    for number in (1, 2):
        site.publish("trained_model", number, weights_digest="f" * 64)
    site.damage("trained_model", 1)
    assert site.verdict == (True, "trained_model[all] v1 cannot be read, and may name them")


def test_a_damaged_version_of_what_never_handed_on_weights_names_none(site: Site) -> None:
    for number in (1, 2):
        site.publish("docs", number)
    site.damage("docs", 1)
    assert site.verdict == (False, "nobody names them")


def test_an_asset_of_which_nothing_can_be_read_may_name_any(site: Site) -> None:
    site.publish("docs", 1)
    site.damage("docs", 1)
    assert site.verdict == (True, "docs[all] v1 cannot be read, and may name them")


def test_parts_that_are_gone_may_have_named_any(site: Site) -> None:
    site.publish("trained_model", 1, weights_digest="f" * 64)
    site.store.delete_prefix("handoff/trained_model/all/parts")
    is_kept, reason = site.verdict
    assert (is_kept, reason) == (True, "trained_model[all] v1 cannot be read, and may name them")
    assert len(site.plan().damaged) == 1
