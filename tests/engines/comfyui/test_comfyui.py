"""The comfyui_http engine against a ComfyUI of its own protocol on this machine."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from headrace.engines.asking import media_of
from headrace.engines.base import EngineFailed, NoAnswer, TurnRefused
from headrace.engines.comfyui.client import ComfyEngine
from headrace.engines.comfyui.graph import ComfyOptions
from headrace.engines.deployment import Deployment
from headrace.engines.media import MediaTurn
from headrace.engines.registry import engine_kind, open_media_engine
from headrace.errors import InvalidInput
from headrace.generation.campaign import load_campaign
from headrace.user_files.shapes import from_mapping
from headrace.version_sets.media_settings import Picture
from simulation.servers.comfyui import GRAPH, PLACES, Comfy, serving_comfy
from simulation.servers.media import picture
from tests.engines.openai.media_askers import PICTURE, Outcome, make_deployment, make_member, make_turn

Act = Callable[[ComfyEngine], Awaitable[Any]]


def make_options(url: str = "http://127.0.0.1:1", **changes: Any) -> ComfyOptions:
    section: dict[str, Any] = {"base_url": url, "graph": GRAPH, "places": PLACES}
    return from_mapping(ComfyOptions, section | changes, "engine 'comfyui_http'")


def run_with(
    servers: list[Comfy], act: Act, made: Picture = PICTURE, options: dict[str, Any] | None = None, **deployment: Any
) -> Any:
    async def main() -> Any:
        async with serving_comfy(*servers):
            engine = ComfyEngine(
                member=make_member(made),
                base_urls=[server.url for server in servers],
                options=make_options(**(options or {})),
                deployment=make_deployment(**deployment),
            )
            try:
                return await act(engine)
            finally:
                await engine.close()

    return asyncio.run(main())


def made_by(*servers: Comfy, turns: tuple[MediaTurn, ...] = (), made: Picture = PICTURE, **more: Any) -> list[Outcome]:
    turns = turns or (make_turn(),)
    return run_with([*servers], lambda engine: media_of(engine, make_member(made), turns), made, **more)


async def disturbed(
    engine: ComfyEngine, is_under_way: Callable[[], object], disturb: Callable[[], Awaitable[None]]
) -> Outcome:
    """What becomes of a picture if something happens while it is made."""
    waiting = asyncio.create_task(media_of(engine, make_member(), (make_turn(),)))
    while not is_under_way():
        await asyncio.sleep(0.005)
    await disturb()
    [outcome] = await waiting
    return outcome


def test_prompt_seed_and_size_reach_the_graph() -> None:
    server = Comfy()
    [outcome] = made_by(server)
    assert not isinstance(outcome, NoAnswer), outcome
    answer, facts = outcome
    assert answer.content == picture({"prompt": "a wheel", "seed": 2**40 + 7}, size=(32, 24))
    assert (facts.media_type, answer.replica) == ("image/png", server.url)
    [(path, body)] = server.asked
    assert path == "/prompt"
    assert body["prompt"]["3"]["inputs"] == GRAPH["3"]["inputs"] | {"seed": 2**40 + 7}
    assert body["prompt"]["9"] == GRAPH["9"]


def test_settings_that_have_a_place_are_set_and_others_stay_the_graphs() -> None:
    server = Comfy()
    places = PLACES | {"num_inference_steps": "3.inputs.steps", "guidance_scale": "3.inputs.cfg"}
    made_by(server, made=Picture(width=32, height=24, num_inference_steps=28), options={"places": places})
    assert server.asked[0][1]["prompt"]["3"]["inputs"] | {"seed": 1} == GRAPH["3"]["inputs"] | {"steps": 28}


def test_replicas_share_a_batch() -> None:
    servers = [Comfy(seconds=0.01), Comfy(seconds=0.01)]
    turns = tuple(make_turn(f"wheel {number}", seed=number) for number in range(8))
    outcomes = made_by(*servers, turns=turns)
    for turn, outcome in zip(turns, outcomes, strict=True):
        assert not isinstance(outcome, NoAnswer)
        assert outcome[0].content == picture({"prompt": turn.text, "seed": turn.seed}, size=(32, 24))
    assert all(server.asked for server in servers)


def error(name: str, said: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda entry: {
        "outputs": {},
        "status": {"status_str": "error", "messages": [["execution_start", {}], [name, said]]},
    }


NO_MEMORY = {
    "node_id": "3",
    "node_type": "KSampler",
    "exception_type": "OutOfMemory",
    "exception_message": "20 GB\nmore",
}
ENTRIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a node that failed": (error("execution_error", NO_MEMORY), "node 3 KSampler: OutOfMemory 20 GB more"),
    "interrupted by somebody": (error("execution_interrupted", {}), "it was interrupted"),
    "failed without a word": (lambda entry: {"status": {"status_str": "error"}}, "it does not say why"),
    "no picture": (lambda entry: entry | {"outputs": {}}, "without a picture of any node"),
    "outputs of another form": (lambda entry: entry | {"outputs": ["9"]}, "without a picture of any node"),
    "a picture without a name": (lambda entry: entry | {"outputs": {"9": {"images": [{}]}}}, "without a picture"),
    "a picture that is not there": (
        lambda entry: entry | {"outputs": {"9": {"images": [{"filename": "../../etc/passwd"}]}}},
        "/view answers 404",
    ),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_graph_that_fails_is_its_rows_error(name: str) -> None:
    server = Comfy()
    server.entry, why = ENTRIES[name]
    [outcome] = made_by(server, num_attempts=1)
    assert isinstance(outcome, EngineFailed)
    assert why in str(outcome)


def test_the_wrong_bytes_are_a_rows_error() -> None:
    for wrong, why in {
        b"<html>": "no picture: <html>",
        b"GIF89a" + bytes(50): "no PNG, JPEG or WebP",
        bytes(3_000_000): "more than the",
        picture({}, size=(64, 64)): "got a PNG of 64 × 64",
    }.items():
        server = Comfy()
        server.content = lambda content, wrong=wrong: wrong
        [outcome] = made_by(server, num_attempts=1)
        assert why in str(outcome)


def test_what_is_wrong_with_a_graph_is_told_in_one_sentence() -> None:
    [outcome] = made_by(Comfy(), made=Picture(width=33, height=24))
    assert isinstance(outcome, TurnRefused)
    said = "Prompt outputs failed validation (node 5 EmptyLatentImage: Value not in steps of 8, width 33)"
    assert said in str(outcome)
    unknown = GRAPH | {"10": {"class_type": "Sharpen", "inputs": {}}}
    [outcome] = made_by(Comfy(), options={"graph": unknown})
    assert "Cannot execute: Sharpen does not exist." in str(outcome)


ANSWERS = {
    "no JSON": ("/prompt", web.Response(body=b"<html>"), "no answer of ComfyUI"),
    "no id": ("/prompt", web.Response(body=b"{}"), "no answer of ComfyUI"),
    "an id that is a path": ("/prompt", web.Response(body=b'{"prompt_id": "../../x"}'), "no answer of ComfyUI"),
    "a redirect of the picture": (
        "/view",
        web.Response(status=302, headers={"Location": "http://e/"}, body=b""),
        "302",
    ),
    "a history that is a list": ("/history", web.Response(body=b"[]"), "no answer of ComfyUI"),
    "a history of a gigabyte": ("/history", web.Response(body=b" " * 9_000_000), "more than the 8,388,608"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_wild_answer_is_its_rows_error(name: str) -> None:
    path, answer, why = ANSWERS[name]
    server = Comfy()
    server.answers[path] = answer
    [outcome] = made_by(server, num_attempts=1)
    assert isinstance(outcome, EngineFailed)
    assert why in str(outcome)


def test_a_picture_that_a_restart_lost_is_asked_for_again() -> None:
    server = Comfy(seconds=0.1)

    async def forget() -> None:
        server.forget()

    def act(engine: ComfyEngine) -> Awaitable[Outcome]:
        return disturbed(engine, lambda: server.num_queued, forget)

    assert not isinstance(run_with([server], act, backoff_seconds_min=0.01), NoAnswer)
    assert [path for path, _ in server.asked] == ["/prompt", "/prompt"]


@pytest.mark.parametrize("is_running", [True, False])
def test_a_picture_that_nobody_waits_for_is_taken_out(is_running: bool) -> None:
    server = Comfy(seconds=20)

    async def act(engine: ComfyEngine) -> None:
        turns = [make_turn("other"), make_turn("given up")]
        waiting = [asyncio.create_task(engine.make(turn)) for turn in turns]
        while server.num_queued < 2 or not server.num_polls:
            await asyncio.sleep(0.005)
        waiting[0 if is_running else 1].cancel()
        while server.num_queued > 1:
            await asyncio.sleep(0.005)
        assert server.interrupted == (["id-0"] if is_running else [])
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    run_with([server], act)
    assert server.num_queued == 0
    assert server.interrupted == (["id-0", "id-1"] if is_running else ["id-0"])


def test_a_closed_engine_leaves_nothing_in_the_queue() -> None:
    server = Comfy(seconds=20)

    def act(engine: ComfyEngine) -> Awaitable[Outcome]:
        return disturbed(engine, lambda: server.num_polls, engine.close)

    assert isinstance(run_with([server], act), EngineFailed)
    assert server.interrupted == ["id-0"]


def test_a_picture_that_takes_too_long_is_given_up() -> None:
    server = Comfy(seconds=60)
    [outcome] = made_by(server, seconds=2.0, num_attempts=1)
    assert isinstance(outcome, EngineFailed)
    assert outcome.timed_out
    assert server.interrupted == ["id-0"]


ILL: dict[str, tuple[dict[str, Any], str]] = {
    "an input that is not there": (
        {"places": PLACES | {"seed": "3.inputs.noise_seed"}},
        "places: seed must name an input of the graph, whose node 3 (KSampler) has cfg, latent_image, positive, seed",
    ),
    "a node that is not there": (
        {"places": {"prompt": "7.inputs.text"}},
        "places: prompt must name an input of the graph, which has the nodes 3 (KSampler), 5 (EmptyLatentImage)",
    ),
    "no path": ({"places": {"prompt": "text"}}, "places must be such as 6.inputs.text, got 'text'"),
    "no prompt": ({"places": {"seed": "3.inputs.seed"}}, "places lacks the key 'prompt'"),
    "an output that is not there": ({"output": "10"}, "output must be a node of the graph, which has the nodes 3"),
    "the editor's form": ({"graph": {"nodes": [], "links": []}}, "which its editor saved: use Export (API) there"),
    "no graph": ({"graph": {"3": {"inputs": {}}}}, "whose nodes have a class_type, got '3' in a mapping"),
    "an empty graph": ({"graph": {}}, "a mapping of nodes, got a mapping"),
    "a number that JSON lacks": ({"graph": '{"3": {"class_type": "a", "inputs": {"x": NaN}}}'}, "NaN is no number"),
    "no address": ({"base_url": "comfy:8188"}, "base_url must be an address"),
}


@pytest.mark.parametrize("name", ILL)
def test_a_section_that_cannot_work_is_refused_when_it_is_read(name: str) -> None:
    changes, why = ILL[name]
    with pytest.raises(InvalidInput) as caught:
        make_options(**changes)
    assert why in str(caught.value)


def campaign_file(directory: Path, graph: Any = "./graphs/painter.json", **picture: Any) -> Path:
    painter = {
        "model": "brush",
        "version": "1",
        "registered": False,
        "engine": {"name": "comfyui_http", "base_url": "http://127.0.0.1:8188", "graph": graph, "places": PLACES},
        "picture": {"width": 32, "height": 24} | picture,
    }
    body = {"name": "tales", "prompts": {"files": "a.jsonl"}, "chain": ["painter"], "roles": {"painter": painter}}
    (directory / "tales.yaml").write_text(yaml.safe_dump(body))
    return directory / "tales.yaml"


def test_a_graphs_file_is_beside_the_campaigns_and_its_content_in_the_version_set(tmp_path: Path) -> None:
    (tmp_path / "graphs").mkdir()
    (tmp_path / "graphs/painter.json").write_text(json.dumps(GRAPH, indent=2))
    made = load_campaign(campaign_file(tmp_path)).version_set({})
    inside = load_campaign(campaign_file(tmp_path, GRAPH)).version_set({})
    assert made.id == inside.id
    (tmp_path / "graphs/painter.json").write_text(json.dumps(GRAPH | {"4": GRAPH["6"]}))
    assert load_campaign(campaign_file(tmp_path)).version_set({}).id != made.id
    # As a stored set opens it, wherever the file is by then.
    (tmp_path / "graphs/painter.json").unlink()
    engine = open_media_engine(made.member("painter"), made.engine_of("painter"), None, Deployment())  # pyright: ignore[reportArgumentType]
    assert isinstance(engine, ComfyEngine)
    assert engine_kind("comfyui_http").options_of(made.engine_of("painter")).node_classes()[0] == "CLIPTextEncode"
    with pytest.raises(InvalidInput, match="must name a file with a graph of ComfyUI, got ./graphs/painter") as told:
        load_campaign(campaign_file(tmp_path))
    assert "got ./graphs/painter.json, and there is no " in str(told.value)
    assert "there is no painter.json; there is nothing." in str(told.value)
    assert "Errno" not in str(told.value)


def test_a_setting_without_a_place_in_the_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"places must say where picture.guidance_scale goes in the graph"):
        load_campaign(campaign_file(tmp_path, GRAPH, guidance_scale=3))
