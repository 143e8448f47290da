"""What a queued run will load follows from its campaign's rollout."""

from pathlib import Path

import pytest

from headrace.engines.host.wanted import model_id
from headrace.placement.demand import LOADS
from headrace.rollout.states import INITIALIZED
from headrace.store.local import LocalStore
from headrace_dagster import campaign_loads
from simulation.campaign_site import CampaignSite
from tests.command_line.checked_project import Project

CAMPAIGN = """\
name: glossary
model: tiny
num_shards: 2
prompts: {files: prompts.jsonl, per_shard: 3}
engine: {name: echo}
"""


@pytest.fixture
def site(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> CampaignSite:
    project = Project(tmp_path, tiny_model)
    project.write("resources/campaigns/glossary.yaml", CAMPAIGN)
    monkeypatch.chdir(tmp_path)
    store = LocalStore(project.root / ".headrace/store")
    store.directory.mkdir(parents=True, exist_ok=True)
    campaign_loads._read.cache_clear()
    return CampaignSite(store)


def test_the_models_of_the_set_that_the_partition_would_get_are_told(site: CampaignSite) -> None:
    version_set = site.roll_out(INITIALIZED, 1)
    [member] = version_set.members
    told = campaign_loads.of_writers(site.partition(0).key, has_gpus=True)
    assert told == {LOADS: model_id(member, version_set.engine)}
    assert campaign_loads.of_painters(site.partition(0).key, has_gpus=True) == {}


def test_another_version_is_another_model(site: CampaignSite) -> None:
    first, second = (campaign_loads.model_ids(site.version_set(version), "text") for version in (1, 2))
    assert len(first) == len(second) == 1
    assert first != second


def test_nothing_is_told_where_nothing_can_be_known(site: CampaignSite) -> None:
    assert campaign_loads.of_writers(site.partition(0).key, has_gpus=True) == {}, "nothing was rolled out"
    for partition in ("2026-11-22|others-0000", "no partition", "", "\x00"):
        assert campaign_loads.of_writers(partition, has_gpus=True) == {}


def test_without_gpus_nobody_looks(site: CampaignSite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADRACE_STORE", "s3://nowhere/there")
    assert campaign_loads.of_writers(site.partition(0).key, has_gpus=False) == {}
