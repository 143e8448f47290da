"""`apart` of a campaign: what runs of a step ask for, and what is refused when the file is loaded."""

from typing import Any

import pytest

from headrace.errors import InvalidInput
from headrace.generation.campaign import Campaign
from headrace.generation.step_runs import StepRun
from headrace.user_files.shapes import from_mapping
from simulation.campaign_site import make_campaign
from tests.generation.media_builders import make_media_campaign, models_of

BODY: dict[str, Any] = {
    "name": "tales",
    "prompts": {"files": "prompts.jsonl"},
    "chain": ["writer", "painter"],
    "roles": {
        "writer": {"model": "pen", "engine": {"name": "echo"}},
        "painter": {"model": "brush", "engine": {"name": "echo"}, "picture": {"width": 8, "height": 8}},
    },
}


def campaign_of(apart: Any) -> Campaign:
    return from_mapping(Campaign, {**BODY, "apart": apart}, "Campaign")


def test_a_step_that_the_file_does_not_name_asks_for_what_its_asset_does() -> None:
    campaign = campaign_of({"image": {"gpus": 0.5, "gpu_memory_mib": 20_000, "gpu_models": ["H100", "L4"]}})
    assert campaign.tags_apart("text") == {}
    assert campaign.tags_apart("image") == {
        "headrace/gpus": "0.5",
        "headrace/gpu_memory_mib": "20000",
        "headrace/gpu_models": "H100|L4",
    }
    assert StepRun(gpus=2).tags == {"headrace/gpus": "2"}


def test_an_empty_apart_asks_for_runs_of_their_own_and_none_for_one() -> None:
    assert campaign_of({}).apart == {}
    assert campaign_of(None).apart is None


@pytest.mark.parametrize(
    ("apart", "words"),
    [
        ({"speech": {}}, "no role of this campaign makes any: name some of image, text"),
        ({"image": {"gpus": 1.5}}, "whole number, or a share below 1"),
        ({"image": {"gpus": 0}}, "gpus must be null or above 0"),
        ({"image": {"turns": True}}, "turns are for runs that share a GPU"),
        ({"image": {"turns": True, "gpus": 1}}, "turns are for runs that share a GPU"),
        ({"film": {}}, "film"),
    ],
)
def test_what_means_nothing_is_refused(apart: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        campaign_of(apart)


def test_a_campaign_that_only_writes_has_nothing_to_part() -> None:
    with pytest.raises(InvalidInput, match="here nobody does"):
        make_campaign(apart={})


def test_it_is_no_part_of_the_version_set() -> None:
    together, apart = make_media_campaign(), make_media_campaign(apart={"image": StepRun(gpus=0.5)})
    assert apart.version_set(models_of(apart)).id == together.version_set(models_of(together)).id
