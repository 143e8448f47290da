"""Calls against a gateway process: what OpenAI's clients send and get, and what is refused."""

import asyncio
import base64
import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from headrace.engines.media import MediaTurn
from headrace.engines.media_bytes import sound_of
from headrace.engines.roles import EngineSettings, Role
from headrace.engines.sound_samples import levels_of, mono_of, pcm_of
from headrace.version_sets.media_settings import Speech
from pipelines.setup import PIPECAT
from simulation.killed_calls import call_under_kills
from simulation.servers.calls import SAMPLE_RATE, Caller, calling, spoken_roles
from simulation.servers.gateway_site import KEY, GatewayProcess, Site
from tests.waiting import eventually

pytestmark = pytest.mark.process
pytest.importorskip("faster_whisper", reason="The extra `voice` is not installed: pip install 'headrace[voice]'.")

WORDS = "Tell me about the old water mill by the river."
SILENCE = bytes(SAMPLE_RATE * 2)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site.make(tmp_path_factory.mktemp("calls") / "site", spoken_roles())
    site.initialize()
    with site.started("--inbox-log", str(site.directory / "log"), "--log-content"):
        yield site


@pytest.fixture(scope="module")
def speech() -> bytes:
    """The words, as a client's microphone would send them."""
    from headrace.engines.local.hibari_voice import HibariEngine

    role = Role(model="v", version="0.2.1", registered=False, speech=Speech(), engine=EngineSettings("hibari"))

    async def spoken() -> bytes:
        engine = HibariEngine(role.member("speaker", None, engine=None))
        made = await engine.make(MediaTurn(unit="words", text=WORDS, seed=1))
        await engine.close()
        return made.content

    sound = sound_of(asyncio.run(spoken()))
    assert sound.sample_rate == SAMPLE_RATE
    return pcm_of(mono_of(levels_of(sound)))


def questions(gateway: GatewayProcess, session: str, *, num: int) -> list[list[list[str]]]:
    """What the writer was asked in a call, by turn, once the log has so many."""

    def found() -> list[list[list[str]]] | None:
        steps = [record for record in gateway.records("step") if record["session"] == session]
        asked = [step["messages"] for step in steps if step["role"] == "writer"]
        return asked if len(asked) == num else None

    return eventually(found, f"{num} questions")


def session_of(caller: Caller) -> str:
    return caller.of("session.created")[0]["session"]["id"]


def test_openais_client_holds_a_call(site: Site) -> None:
    client = openai.OpenAI(base_url=f"{site.gateways[0].url}/v1", api_key=KEY)
    with client, client.realtime.connect(model="assistant") as connection:
        connection.session.update(
            session={"type": "realtime", "instructions": "Be brief.", "audio": {"input": {"turn_detection": None}}}
        )
        item: Any = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}
        connection.conversation.item.create(item=item)
        connection.response.create()
        seen: list[Any] = []
        for event in connection:
            seen.append(event)
            if event.type == "response.done":
                break
    kinds = [event.type for event in seen]
    assert kinds[0] == "session.created"
    updated = next(event for event in seen if event.type == "session.updated")
    assert updated.session.audio.input.turn_detection is None
    assert updated.session.instructions == "Be brief."
    for kind in ("response.created", "response.output_item.added", "response.content_part.added"):
        assert kind in kinds
    assert kinds.index("response.output_audio.delta") < kinds.index("response.output_audio.done")
    done = seen[-1].response
    assert done.status == "completed"
    transcript = next(event.transcript for event in seen if event.type == "response.output_audio_transcript.done")
    assert transcript == done.output[0].content[0].transcript


@pytest.mark.skipif(not PIPECAT.exists(), reason="Pipecat is not installed: make bench-setup.")
def test_pipecats_own_client_writes_and_speaks(site: Site, speech: bytes) -> None:
    task = {"url": site.gateways[0].url.replace("http", "ws", 1) + "/v1/realtime", "key": KEY, "model": "assistant"}
    task |= {"text": "Hello", "pcm": base64.b64encode(SILENCE + speech + SILENCE).decode()}
    command = [str(PIPECAT / "bin/python"), "-m", "benchmarks.voice.pipecat_client"]
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(done.stdout)
    assert found["errors"] == []
    assert len(found["answers"]) == 2
    assert all(answer["words"] and answer["audio_bytes"] > SAMPLE_RATE for answer in found["answers"])
    # A later Pipecat that sends others shows here what is to be learned.
    known = {"session.update", "conversation.item.create", "response.create", "input_audio_buffer.append"}
    assert {*found["sent"]} <= known | {"conversation.item.truncate"}


def test_the_betas_clients_get_its_names(site: Site) -> None:
    with calling(site.gateways[0], headers={"OpenAI-Beta": "realtime=v1"}) as caller:
        session = caller.of("session.created")[0]["session"]
        assert session["modalities"] == ["audio", "text"]
        assert session["turn_detection"]["type"] == "server_vad"
        caller.send("session.update", session={"modalities": ["text"], "turn_detection": None})
        assert caller.until("session.updated")["session"]["turn_detection"] is None
        caller.say("Hello")
        assert caller.until("conversation.item.created")["item"]["role"] == "user"
        caller.send("response.create")
        text = caller.until("response.text.done")["text"]
        assert caller.until("response.done")["response"]["output"][0]["content"] == [{"type": "text", "text": text}]
        caller.send("response.create", response={"modalities": ["audio", "text"]})
        caller.until("response.audio.delta")
        caller.until("response.audio_transcript.done")
        caller.until("response.done")


def test_speech_is_heard_answered_and_cut_where_it_was_played(site: Site, speech: bytes) -> None:
    gateway = site.gateways[0]
    with calling(gateway) as caller:
        caller.speak(SILENCE + speech + SILENCE)
        started, stopped = (caller.until(f"input_audio_buffer.speech_{what}") for what in ("started", "stopped"))
        assert 300 < started["audio_start_ms"] < 1200
        assert stopped["audio_end_ms"] > started["audio_start_ms"] + 2000
        assert caller.until("input_audio_buffer.committed")["item_id"] == started["item_id"]
        heard = caller.until("conversation.item.input_audio_transcription.completed")
        assert heard["item_id"] == started["item_id"]
        done = caller.until("response.done")["response"]
        assert done["status"] == "completed"
        answer = done["output"][0]
        whole = answer["content"][0]["transcript"]
        assert len(caller.audio) > SAMPLE_RATE
        # The client hears a second of it, more than the longest word takes, and speaks again. It says how much it heard
        # while it speaks: its turn cannot end before, for want of silence.
        caller.speak(speech)
        caller.until("input_audio_buffer.speech_started")
        caller.send("conversation.item.truncate", item_id=answer["id"], content_index=0, audio_end_ms=1000)
        assert caller.until("conversation.item.truncated")["audio_end_ms"] == 1000
        caller.speak(SILENCE)
        caller.until("response.done")
        session = session_of(caller)
    first, second = questions(gateway, session, num=2)
    assert first == [["user", heard["transcript"]]]
    (_, question), (role, played), _ = second
    assert question == heard["transcript"]
    assert role == "assistant"
    assert whole.startswith(f"{played} ")
    assert len(played) <= 14


def test_a_turn_without_detection_waits_for_its_client(site: Site, speech: bytes) -> None:
    with calling(site.gateways[0]) as caller:
        caller.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
        caller.speak(SILENCE[:480])
        caller.send("input_audio_buffer.commit")
        with pytest.raises(AssertionError, match="input_audio_buffer_commit_empty"):
            caller.until("input_audio_buffer.committed")
        caller.speak(speech)
        caller.send("input_audio_buffer.commit")
        # The answer waits until the turn is understood.
        caller.send("response.create")
        heard = caller.until("conversation.item.input_audio_transcription.completed")["transcript"]
        assert heard
        assert not caller.of("response.created")
        assert caller.until("response.done")["response"]["status"] == "completed"
        session = session_of(caller)
    assert questions(site.gateways[0], session, num=1) == [[["user", heard]]]


def test_turns_that_are_committed_at_once_are_all_heard(site: Site, speech: bytes) -> None:
    with calling(site.gateways[0]) as caller:
        caller.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
        for _ in range(3):
            caller.speak(speech)
            caller.send("input_audio_buffer.commit")
        caller.send("response.create")
        caller.until("response.done")
        assert len(caller.of("input_audio_buffer.committed")) == 3
        session = session_of(caller)
    (asked,) = questions(site.gateways[0], session, num=1)
    assert [role for role, _ in asked] == ["user"] * 3


def test_who_comes_back_goes_on_with_the_call_and_nobody_else_can(site: Site) -> None:
    gateway = site.gateways[0]
    with calling(gateway, query="session=mine") as caller:
        caller.say("My name is Mill.")
        caller.send("response.create")
        answer = caller.until("response.done")["response"]["output"][0]["content"][0]["transcript"]
        with calling(gateway, query="session=mine") as again:
            again.say("Who am I?")
            again.send("response.create")
            again.until("response.done")
    said = [["user", "My name is Mill."], ["assistant", answer], ["user", "Who am I?"]]
    assert questions(gateway, "mine", num=2)[-1] == said
    page = urllib.request.urlopen(f"{gateway.url}/metrics").read().decode()
    assert re.search(r"^headrace_gateway_calls 0\.0$", page, re.MULTILINE)
    # The log gets a call's steps before their unit.
    units = eventually(lambda: [one for one in gateway.records("unit") if one["session"] == "mine"][1:])
    assert [(unit["status"], unit["reason"]) for unit in units] == [(200, "session")]


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ({"type": "response.cancel"}, "response_cancel_not_active"),
        ({"type": "session.teleport"}, "docs/voice.md lists those that are"),
        ({"type": "session.update", "session": {"tools": [{"type": "function"}]}}, "cannot honour tools"),
        ({"type": "session.update", "session": {"input_audio_format": "g711_ulaw"}}, "PCM of 16 bits at 24,000"),
        ({"type": "input_audio_buffer.append", "audio": "?"}, "audio must be PCM in Base64"),
        ({"type": "conversation.item.truncate", "item_id": "x", "audio_end_ms": 1}, "must name an answer of this call"),
        ({"type": "conversation.item.create", "item": {"type": "function_call"}}, "calls no functions"),
        ({"type": 7}, "type must be the name of an event, got 7"),
    ],
)
def test_a_wrong_event_is_answered_and_the_call_goes_on(site: Site, event: dict[str, Any], says: str) -> None:
    with calling(site.gateways[0]) as caller:
        caller.send(**{"kind": event.pop("type"), "event_id": "mine", **event})
        with pytest.raises(AssertionError, match=re.escape(says)):
            caller.until("nothing")
        assert caller.events[-1]["error"]["event_id"] == "mine"
        caller.say("Hello")
        caller.until("conversation.item.done")


def test_strangers_are_refused_before_the_handshake(site: Site) -> None:
    url = site.gateways[0].url.replace("http", "ws", 1) + "/v1/realtime"
    for query, headers, status in (
        ("", {}, 401),
        ("", {"Authorization": "Bearer wrong"}, 401),
        ("?model=another", {"Authorization": f"Bearer {KEY}"}, 404),
        ("?received_ms=x", {"Authorization": f"Bearer {KEY}"}, 400),
    ):
        with pytest.raises(InvalidStatus) as refused, connect(url + query, additional_headers=headers):
            pass
        assert refused.value.response.status_code == status
        assert b'"error"' in refused.value.response.body
    with pytest.raises(urllib.error.HTTPError) as plain:
        urllib.request.urlopen(urllib.request.Request(url.replace("ws", "http", 1)))
    assert plain.value.code == 426
    with pytest.raises(urllib.error.HTTPError) as wrong:
        urllib.request.urlopen(urllib.request.Request(f"{site.gateways[0].url}/v1/chat/completions", data=b"{}"))
    assert "open a WebSocket at /v1/realtime" in wrong.value.read().decode()


def test_a_browsers_key_comes_as_a_subprotocol(site: Site) -> None:
    url = site.gateways[0].url.replace("http", "ws", 1) + "/v1/realtime"
    offered: Any = ["realtime", f"openai-insecure-api-key.{KEY}"]
    with connect(url, subprotocols=offered) as socket:
        assert socket.subprotocol == "realtime"
        assert "session.created" in str(socket.recv(timeout=30))


def test_a_gateway_that_goes_down_sends_its_calls_elsewhere(tmp_path: Path) -> None:
    site = Site.make(tmp_path / "site", spoken_roles())
    site.initialize()
    with site.started("--inbox-log", str(site.directory / "log")) as gateway, calling(gateway) as caller:
        caller.say("Hello")
        caller.until("conversation.item.done")
        gateway.process.terminate()
        with pytest.raises(Exception, match="come back with the session"):
            caller.until("nothing")
        assert gateway.process.wait(30) == 0


def test_no_turn_is_lost_or_said_twice_though_gateways_are_killed(tmp_path: Path) -> None:
    found = call_under_kills(tmp_path / "site", num_kills=1, seed=7, num_calls=4)
    assert not found.faults
    assert found.num_turns > 4
    assert found.num_cut
    assert found.num_returns
