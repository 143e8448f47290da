"""Campaigns whose painter and speaker are servers: what a partition holds of answers, refusals and errors."""

from pathlib import Path
from typing import Any

import pytest

from headrace.engines.media_rows import open_media_rows
from headrace.engines.roles import EngineSettings, Role
from headrace.errors import EngineUnavailable
from headrace.generation.sealed_tables import IMAGES, MEDIA_EXECUTION
from headrace.handoff.media.reading import MediaSet
from headrace.version_sets.sets import VersionSet
from simulation.servers import media
from simulation.servers.chat import ChatServer, http, served
from simulation.servers.media import CONTROL, making
from tests.engines.openai.media_askers import make_deployment
from tests.generation.media_builders import PICTURE, SPEECH, MediaSite, make_media_campaign, make_media_site, make_roles

REQUEST = {"seed": "{seed31}", "num_inference_steps": "{num_inference_steps}", "guidance_scale": "{guidance_scale}"}


class ServerSite(MediaSite):
    """Its servers are given up soon."""

    def open_media(self, version_set: VersionSet, role: str) -> Any:
        return open_media_rows(version_set, role, self.objects, make_deployment(num_attempts=1))


def make_site(directory: Path, url: str, **changes: Any) -> MediaSite:
    painter = EngineSettings("openai_http", base_url=url, model="brush", request=REQUEST)
    speaker = EngineSettings("openai_http", base_url=url, model="voice")
    roles = make_roles(
        painter=Role(model="brush", version="1", registered=False, engine=painter, picture=PICTURE),
        speaker=Role(model="voice", version="1", registered=False, engine=speaker, speech=SPEECH),
    )
    site = make_media_site(directory, campaign=make_media_campaign(roles, **changes))
    site.__class__ = ServerSite
    return site


def executed(site: MediaSite, role: str) -> list[dict[str, Any]]:
    rows = site.handoffs.open(MEDIA_EXECUTION, site.partition.key).table().to_pylist()
    return [row for row in rows if row["role"] == role]


def test_a_refusal_and_an_error_are_their_rows_alone(tmp_path: Path) -> None:
    refused: list[str] = []
    wrong: list[str] = []

    def answers(server: ChatServer, body: dict[str, Any]) -> Any:
        if "prompt" not in body:
            return media.spoken(server, body)
        prompt = body["prompt"]
        if not refused or prompt in refused:
            refused.append(prompt)
            return media.refusal("blocked", code="moderation_blocked")
        if not wrong or prompt in wrong:
            wrong.append(prompt)
            return http(media.picture(body, size=(8, 8)), kind="image/png")
        return media.sglang(server, body)

    with served(making(answers)) as server:
        site = make_site(tmp_path, server.url, row_attempts=2)
        site.generate()
    reasons = [row["finish_reason"] for row in executed(site, "painter")]
    assert sorted(reasons) == sorted(["refused", "error", *["stop"] * (len(reasons) - 2)])
    assert len(refused) == 1
    assert len(wrong) == 2
    assert {row["finish_reason"] for row in executed(site, "speaker")} == {"stop"}
    assert not any(row["deterministic"] for row in executed(site, "painter"))
    pictures = MediaSet.open(site.handoffs.open(IMAGES, site.partition.key))
    kept = [pictures.read(one) for one in pictures.ids()]
    assert len(kept) == len(reasons) - 2
    assert all(one.startswith(b"\xff\xd8") for one in kept)
    item = pictures.item(next(iter(pictures.ids())))
    assert item.attributes["revised_prompt"].endswith(", detailed")
    # The seed of a row is what its server got.
    seeds = {row["seed"] & 0x7FFFFFFF for row in executed(site, "painter")}
    asked = [body for body in server.bodies if "prompt" in body and body["prompt"] != CONTROL]
    assert {body["seed"] for body in asked} == seeds
    assert all(body["num_inference_steps"] == 8 and body["guidance_scale"] == 2.0 for body in asked)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_server_that_makes_nothing_ends_the_run_and_no_row(is_there: bool, tmp_path: Path) -> None:
    with served(making(lambda server, body: http(b"<html>", 500), is_alive=False)) as server:
        url = server.url if is_there else "http://127.0.0.1:9/v1"
        site = make_site(tmp_path, url)
        with pytest.raises(EngineUnavailable):
            site.generate()
    assert not site.handoffs.newest("generated_content", site.partition.key)
