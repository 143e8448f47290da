"""The generation sensor of a campaign whose steps are apart: what an attempt lacks is asked for, once each."""

from pathlib import Path

import pytest

from headrace.generation.campaign import load_campaign
from headrace.keys import ContentPartition
from headrace.rollout.states import INITIALIZED
from headrace_dagster.partition_keys import register_keys
from pipelines.sensors import campaign_generation
from tests.generation.media_builders import MediaSite
from tests.pipelines.sensor_site import TODAY, Deployment

CAMPAIGN = """
name: tales
prompts: {files: ./prompts.jsonl}
chain: [writer, painter, speaker]
roles:
  writer: {model: pen, version: "1", registered: false, engine: {name: echo}}
  painter: {model: brush, version: "1", registered: false, engine: {name: echo}, picture: {width: 16, height: 16}}
  speaker: {model: voice, version: "1", registered: false, engine: {name: echo}, speech: {duration_seconds_max: 20}}
apart: {image: {gpus: 0.5, gpu_models: [L4]}}
"""


@pytest.fixture
def site(deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MediaSite:
    directory = tmp_path / "campaigns"
    directory.mkdir()
    (directory / "tales.yaml").write_text(CAMPAIGN)
    monkeypatch.setenv("HEADRACE_CAMPAIGNS", str(directory))
    campaign = load_campaign(directory / "tales.yaml")
    register_keys(deployment.instance, campaign.dynamic_keys)
    partition = ContentPartition.parse(campaign.partition_keys(TODAY)[0])
    site = MediaSite(tmp_path / "store", campaign=campaign, partition=partition)
    site.roll_out_set(INITIALIZED, campaign.version_set({}))
    site.put_prompts()
    return site


def asked(deployment: Deployment) -> list[str]:
    return [str(request.job_name) for request in deployment.requests(campaign_generation)]


def test_texts_come_first_then_what_they_lack_beside_each_other(deployment: Deployment, site: MediaSite) -> None:
    assert asked(deployment) == ["generate"]
    site.generate(up_to="text")
    requests = deployment.requests(campaign_generation)
    assert [request.job_name for request in requests] == ["paint", "speak"]
    assert requests[0].tags["headrace/gpus"] == "0.5"
    assert requests[0].tags["headrace/gpu_models"] == "L4"
    assert "headrace/gpus" not in requests[1].tags
    assert [one.run_key for one in deployment.requests(campaign_generation)] == [one.run_key for one in requests]


def test_what_is_under_way_or_made_is_not_asked_for(deployment: Deployment, site: MediaSite) -> None:
    site.generate(up_to="text")
    deployment.run_of("paint", site.partition.key)
    assert asked(deployment) == ["speak"]
    site.generate(up_to="speech")
    assert asked(deployment) == []


def test_nothing_is_asked_for_where_all_is_sealed(deployment: Deployment, site: MediaSite) -> None:
    site.generate()
    assert asked(deployment) == []
