"""What `headrace check` tells about servers of pictures and speech, without asking for either."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from headrace.command_line.checking.engines import engine_findings
from headrace.engines.roles import EngineSettings, Role
from headrace.errors import InvalidInput
from headrace.version_sets.media_settings import Picture, Speech
from simulation.servers.chat import http, served, telling
from simulation.servers.comfyui import GRAPH, PLACES, Comfy, serving_comfy
from simulation.servers.threads import in_a_thread


def make_role(engine: EngineSettings, **made: Any) -> Role:
    return Role(model="brush", version="1", registered=False, engine=engine, **made)


def found(role: Role, *, offline: bool = False) -> list[tuple[str, str, str | None]]:
    listed = engine_findings({"maker": role}, {}, in_roles=True, offline=offline)
    return [(one.level, one.sentence, one.key) for one in listed]


@contextmanager
def comfy() -> Iterator[Comfy]:
    @asynccontextmanager
    async def serving() -> AsyncIterator[Comfy]:
        # Made in the loop that serves it, whose events it waits for.
        server = Comfy()
        async with serving_comfy(server):
            yield server

    with in_a_thread(serving) as server:
        yield server


def test_a_voice_that_a_server_does_not_have_is_told_with_the_nearest() -> None:
    with served(telling(lambda *_: http())) as server:
        server.files["/v1/audio/voices?model=v"] = http({"voices": ["vivian", "miller"]})
        engine = EngineSettings("openai_http", base_url=server.url, model="v", request={"seed": "{seed31}"})
        [answers, voice] = found(make_role(engine, speech=Speech(voice="viviann")))
        assert answers[0] == "ok"
        assert voice[:2] == ("warn", f"{server.url} answers, and has no voice 'viviann'. Did you mean vivian?")
        assert len(found(make_role(engine, speech=Speech(voice="miller")))) == 1
        assert server.bodies == []


def test_a_server_that_gets_no_seed_is_told() -> None:
    engine = EngineSettings("openai_http", base_url="http://127.0.0.1:9/v1", model="v")
    [_, (level, sentence, key)] = found(make_role(engine, picture=Picture(width=8, height=8)), offline=True)
    assert (level, key) == ("ok", "roles.maker.engine")
    assert (
        sentence
        == "the server of brush gets no seed, since request names none: a row that is made again is another one."
    )


def test_a_comfyui_is_asked_for_the_graphs_nodes() -> None:
    with comfy() as server:
        changes: dict[str, Any] = {"base_url": server.url, "places": PLACES}
        picture = {"picture": Picture(width=8, height=8)}
        well = EngineSettings._read({"name": "comfyui_http", "graph": GRAPH, **changes})
        assert found(make_role(well, **picture)) == [
            ("ok", f"{server.url} answers, and has the graph's nodes.", "roles.maker.engine.base_url")
        ]
        graph = GRAPH | {"10": {"class_type": "Sharpen", "inputs": {}}}
        ill = EngineSettings._read({"name": "comfyui_http", "graph": graph, **changes})
        [(level, sentence, _)] = found(make_role(ill, **picture))
        assert level == "warn"
        assert sentence == (
            f"{server.url} lacks Sharpen, which 1 of the graph's nodes need: install the custom nodes there."
        )
        assert server.asked == []


def test_no_comfyui_is_told() -> None:
    section = {"name": "comfyui_http", "graph": GRAPH, "places": {"prompt": "6.inputs.text"}}
    role = make_role(
        EngineSettings._read({**section, "base_url": "http://127.0.0.1:9"}), picture=Picture(width=8, height=8)
    )
    [(level, sentence, _), (_, seed, _)] = found(role)
    assert (level, "takes no connection" in sentence) == ("warn", True)
    assert "places names none: all rows are drawn with the graph's own" in seed


ILL: dict[str, tuple[dict[str, Any], Picture | Speech | None, str]] = {
    "a place that nothing fills": (
        {"seed": "{sed}"},
        Picture(width=8, height=8),
        "request: seed may name {prompt}, {seed}",
    ),
    "a place without quotes": (
        {"seed": {"seed31": None}},
        Picture(width=8, height=8),
        'request: seed has {seed31} as a mapping of YAML: write it in quotes, "{seed31}"',
    ),
    "several pictures": ({"n": 4}, Picture(width=8, height=8), "request: n must be null or 1, got 4"),
    "true for one": ({"n": True}, Picture(width=8, height=8), "request: n must be null or 1, got True"),
    "a stream": ({"stream": True}, Speech(), "request: stream must be null or false, got True"),
    "another form of speech": ({"response_format": "mp3"}, Speech(), 'response_format must be null or "wav"'),
    "another model": ({"model": "other"}, Picture(width=8, height=8), "request: model must be null, got 'other'"),
    "no prompt": ({"prompt": "a mill"}, Picture(width=8, height=8), 'request: prompt must name "{prompt}"'),
    "a key": ({"api_key": "sk-1"}, Picture(width=8, height=8), "api_key must not stand in a file"),
    "for text": ({"seed": "{seed}"}, None, "request is for roles that paint or speak, got 'seed' for one that writes"),
    "steps that the server never learns": (
        {},
        Picture(width=8, height=8, num_inference_steps=28),
        "request must say where picture.num_inference_steps goes in this server's dialect",
    ),
    "a voice that is replaced": ({"voice": "x"}, Speech(voice="y"), "request must say where speech.voice goes"),
}


@pytest.mark.parametrize("name", ILL)
def test_a_dialect_that_says_something_else_than_the_version_set_is_refused(name: str) -> None:
    request, made, why = ILL[name]
    engine = EngineSettings("openai_http", base_url="http://a/v1", model="m", request=request)
    key = "picture" if isinstance(made, Picture) else "speech"
    with pytest.raises(InvalidInput) as caught:
        make_role(engine, **({key: made} if made else {}))
    assert why in str(caught.value)
