"""Ids of sets, rows and prompts as earlier releases made them: a campaign that goes on finds its own work."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from headrace.engines.registry import engine_kind
from headrace.generation.campaign import load_campaign
from headrace.generation.requests import rows_for
from headrace.handoff.schemas import PROMPTS
from headrace.keys import prompt_id
from headrace.serving.service import load_service
from headrace.version_sets.sets import VersionSet
from resources.settings import CHECKOUT
from simulation.models import model_of

MODEL = model_of("smollm2-135m", 3, weights_digest="a" * 64)
CAMPAIGN_SET = "3407eee19652bbe6135b6c6f2b5a436bcc082f61cb1f4cd85ac9268ef86fe09f"
ROWS = [
    (
        "c14e8d413f042abc115b29047eca6bc16048db381a1b3e88e8d72592746ac7f8",
        "61039f0517175d5fb68dde68372deebb0a910064f83d646ce143af7eedfef3fb",
        5438576376642808588,
    ),
    (
        "13095a2fa2f314a9d7fbc24fab92dda16a1249633e1e1c85e0033cb6bde1f22b",
        "193abae9301d7f3b941995ace65fc61c751a9e986eb6ffee48e1a15ea606030f",
        3032429978304740833,
    ),
]
SERVER: dict[str, Any] = {
    "model": "m",
    "version": "7",
    "registered": False,
    "decoding": {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 40},
    "engine": {"name": "openai_http", "base_url": "http://a/v1", "model": "served", "special_tokens": ["<s>"]},
}


@pytest.fixture
def demo(tmp_path: Path) -> Any:
    """The demo's campaign with the batches of earlier releases; on echo, whose build is the same with any library's
    version."""
    file = tmp_path / "glossary.yaml"
    text = (CHECKOUT / "resources/campaigns/glossary.yaml").read_text()
    file.write_text(text.replace("batch_rows: 14", "batch_rows: 7"))
    return load_campaign(file).with_engine("echo")


def test_a_campaigns_version_set(demo: Any) -> None:
    assert demo.version_set({"writer": MODEL}).id == CAMPAIGN_SET


def test_prompts_and_rows(demo: Any) -> None:
    texts = ["a mill", "a mill race"]
    ids = [prompt_id("glossary", "2026-11-22", text, 0) for text in texts]
    prompts = pa.table([ids, [0, 1], texts, [None, None]], schema=PROMPTS)
    rows = rows_for(prompts, demo.version_set({"writer": MODEL}).id)
    assert [(row.row_id, row.prompt_id, row.seed) for row in rows] == ROWS


def test_a_services_version_set(tmp_path: Path) -> None:
    body = yaml.safe_load((CHECKOUT / "resources/services/assistant.yaml").read_text())
    body["roles"]["writer"]["engine"] = {"name": "echo"}
    (tmp_path / "assistant.yaml").write_text(yaml.safe_dump(body))
    service = load_service(tmp_path / "assistant.yaml")
    expected = "270908fa6e004203480b3808297992682d5c960c30fb6babc74e0cd94574f2ac"
    assert service.version_set({"writer": MODEL}).id == expected


def test_a_version_set_on_a_server(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump({"name": "a", "roles": {"writer": SERVER}, "chain": ["writer"]}))
    expected = "cfc7efbbe43a921c55f0289ea068a4b6ff492e90ef435c1224c2ced5a20ccfab"
    assert load_service(file).version_set({}).id == expected


def test_a_servers_dialect_is_part_of_a_version_set_where_there_is_one(tmp_path: Path) -> None:
    def set_of(**engine: Any) -> VersionSet:
        role = SERVER | {"picture": {"width": 8, "height": 8}, "engine": SERVER["engine"] | engine}
        del role["decoding"]
        (tmp_path / "a.yaml").write_text(
            yaml.safe_dump({"name": "a", "roles": {"painter": role}, "chain": ["painter"]})
        )
        return load_service(tmp_path / "a.yaml").version_set({})

    plain = set_of()
    assert plain.id == set_of(request={}, allow_url_hosts=[]).id
    assert not {"request", "allow_url_hosts"} & plain.to_json()["engine"].keys()
    seeded = set_of(request={"b": 1, "a": "{seed31}"})
    assert seeded.id == set_of(request={"a": "{seed31}", "b": 1}).id
    assert len({plain.id, seeded.id, set_of(request={"a": "{seed}", "b": 1}).id, set_of(allow_url_hosts=["h"]).id}) == 4
    [engine] = {one["engine"]["request"] for one in seeded.to_json()["members"]}
    assert engine == '{"a":"{seed31}","b":1}'
    kind = engine_kind("openai_http")
    assert kind.spec(kind.options_of(seeded.engine_of("painter"))) == seeded.engine_of("painter")
