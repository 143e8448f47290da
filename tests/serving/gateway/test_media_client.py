"""OpenAI's Python client against gateways that paint and speak, on the echo engine: what its users get and see."""

import base64
import io
import json
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import xxhash
from PIL import Image

from headrace.rollout.live_evidence import read_drawn
from simulation.servers.gateway_site import KEY, GatewayProcess, Site, role
from tests.serving.gateway.raw_clients import RawClient, post
from tests.waiting import eventually

pytestmark = pytest.mark.process

Clients = Callable[..., openai.OpenAI]
PAINTER = role(model="brush", picture={"width": 32, "height": 24}, template="A drawing of {text} for {prompt}")
SPEAKER = role(model="throat", speech={"voice": "amy", "sample_rate": 16_000, "duration_seconds_max": 180.0})
for _maker in (PAINTER, SPEAKER):
    del _maker["decoding"]
LARGER = {"picture": {"width": 48, "height": 32}}


@pytest.fixture(scope="module")
def painting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A writer and a painter. Half of the units go to a candidate with larger pictures, and all have a shadow there."""
    service = {"roles": {"writer": role(), "painter": PAINTER}, "chain": ["writer", "painter"], "shadow_share": 1.0}
    site = Site.make(tmp_path_factory.mktemp("painting") / "site", service)
    site.initialize()
    site.start_candidate(site.version_set(painter=LARGER), weight=0.5)
    with site.started() as gateway:
        eventually(lambda: _draws(gateway), "both sets are drawn")
        yield site


def _draws(gateway: GatewayProcess) -> bool:
    said = httpx.get(f"{gateway.url}/v1/rollout", headers={"Authorization": f"Bearer {KEY}"}).json()
    return bool(said["fresh"] and said["candidate"] and len(said["loaded"]) == 2)


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    limits = {"num_units_max": 2, "waiting_seconds_max": 30.0, "stalled_seconds_max": 1.0}
    service = {"roles": {"speaker": SPEAKER}, "chain": ["speaker"], "limits": limits}
    site = Site.make(tmp_path_factory.mktemp("speaking") / "site", service)
    site.initialize()
    with site.started("--log-content"):
        yield site


def generate(client: openai.OpenAI, **wish: Any) -> Any:
    wanted: dict[str, Any] = {"model": "assistant", "prompt": "a mill"} | wish
    return client.images.with_raw_response.generate(**wanted)


def speak(client: openai.OpenAI, **wish: Any) -> Any:
    wanted: dict[str, Any] = {"model": "assistant", "input": "The mill turns.", "voice": "amy"} | wish
    return client.audio.speech.with_raw_response.create(**wanted)


def steps_of(gateway: GatewayProcess, raw: Any) -> list[dict[str, Any]]:
    request = raw.headers["x-request-id"]
    eventually(lambda: [unit for unit in gateway.records("unit") if unit["request"] == request], "a record")
    return [step for step in gateway.records("step") if step["request"] == request]


def test_a_picture_is_painted_of_what_the_writer_wrote_on_one_version_set(painting: Site, client_of: Clients) -> None:
    [gateway] = painting.gateways
    raw = generate(client_of(gateway, X_Headrace_Version_Set="stable"), quality="high", user="u", size="32x24")
    answer = raw.parse()
    [data] = answer.data
    content = base64.b64decode(data.b64_json)
    with Image.open(io.BytesIO(content)) as picture:
        picture.load()
        assert (picture.format, picture.size) == ("PNG", (32, 24))
    assert (answer.output_format, answer.size, answer.usage) == ("png", "32x24", None)
    assert data.revised_prompt.startswith("A drawing of ")
    assert data.revised_prompt.endswith(" for a mill")
    assert raw.headers["x-headrace-ignored"] == "quality, user"
    assert raw.headers["x-headrace-version-set"] == painting.version_set().id
    writer, painter = steps_of(gateway, raw)
    assert {step["version_set"] for step in (writer, painter)} == {painting.version_set().id}
    assert [step["role"] for step in (writer, painter)] == ["writer", "painter"]
    assert (painter["media_type"], painter["bytes"]) == ("image/png", len(content))
    assert painter["xxh3_128"] == xxhash.xxh3_128(content).hexdigest()
    log = gateway.log.read_text()
    assert data.b64_json[:60] not in log
    assert data.revised_prompt not in log


def test_a_seed_gives_the_same_picture_again_and_another_one_another(painting: Site, client_of: Clients) -> None:
    client = client_of(painting.gateways[0], X_Headrace_Version_Set="stable")
    first, again, other = (generate(client, extra_body={"seed": seed}).parse().data[0].b64_json for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_a_candidates_picture_has_the_candidates_size_and_a_copy_for_it_is_recorded(
    painting: Site, client_of: Clients
) -> None:
    [gateway] = painting.gateways
    client = client_of(gateway, X_Headrace_Version_Set="candidate")
    assert generate(client, size="48x32").parse().size == "48x32"
    with pytest.raises(openai.BadRequestError, match=r"size must be auto or 48x32, the size of version set .*32x24"):
        generate(client, size="32x24")
    raw = generate(client_of(gateway, X_Headrace_Version_Set="stable"))
    copies = eventually(
        lambda: [copy for copy in gateway.records("shadow") if copy["request"] == raw.headers["x-request-id"]]
    )
    assert [[step[:2] for step in copy["steps"]] for copy in copies] == [[["writer", "stop"], ["painter", "stop"]]]
    assert copies[0]["error"] == ""


@pytest.mark.parametrize(
    ("wish", "error", "message"),
    [
        ({"model": "dall-e-3"}, openai.NotFoundError, "serves 'assistant'"),
        ({"n": 2}, openai.BadRequestError, "cannot honour n"),
        ({"size": "1x1"}, openai.BadRequestError, "size must be auto or "),
        ({"size": "99999x99999"}, openai.BadRequestError, "got 99999x99999"),
        ({"response_format": "url"}, openai.BadRequestError, "keeps no pictures that an address could name"),
        ({"output_format": "webp"}, openai.BadRequestError, "output_format must be png, what the painter"),
        ({"stream": True}, openai.BadRequestError, "cannot honour stream"),
        ({"prompt": "\t"}, openai.BadRequestError, "a text that is not blank"),
        ({"prompt": "x" * 2_000_000}, openai.APIStatusError, "may have 1048576 bytes"),
    ],
)
def test_a_wrong_wish_for_a_picture_raises_what_users_know(
    painting: Site, client_of: Clients, wish: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        generate(client_of(painting.gateways[0]), **wish)


def test_a_recording_is_a_wav_or_its_samples(speaking: Site, client_of: Clients) -> None:
    [gateway] = speaking.gateways
    client = client_of(gateway)
    raw, plain = (speak(client, response_format=form, extra_body={"seed": 3}) for form in ("wav", "pcm"))
    assert (raw.headers["content-type"], plain.headers["content-type"]) == ("audio/wav", "audio/pcm")
    with wave.open(io.BytesIO(raw.content)) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (16_000, 1, 2)
        assert sound.readframes(sound.getnframes()) == plain.content
        seconds = sound.getnframes() / 16_000
    assert plain.headers["x-headrace-sample-rate"] == "16000"
    assert raw.headers["x-headrace-version-set"] == speaking.version_set().id
    [step] = steps_of(gateway, raw)
    assert (step["media_type"], step["bytes"], step["seed"]) == ("audio/wav", len(raw.content), 3)
    assert (step["duration_seconds"], step["asked"]) == (seconds, "The mill turns.")


def test_a_client_may_hear_it_faster_and_by_the_voices_other_names(speaking: Site, client_of: Clients) -> None:
    client = client_of(speaking.gateways[0])
    text = "The mill turns as long as there is water in the race."
    slow, fast = (len(speak(client, input=text, speed=speed).content) for speed in (0.5, 2))
    assert slow == pytest.approx(4 * fast, rel=0.01)
    for voice in ("default", {"id": "amy"}):
        assert speak(client, voice=voice, response_format=openai.NOT_GIVEN).content.startswith(b"RIFF")


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"voice": "alloy"}, "voice must be default or 'amy', the voice of version set"),
        ({"response_format": "mp3"}, "response_format must be wav or pcm, got 'mp3'"),
        ({"speed": 5}, "speed must be a number from 0.25 to 4, got 5"),
        ({"input": "a" * 5000}, "input may have 4096 characters, got 5000"),
        ({"stream_format": "sse"}, "cannot honour stream_format"),
        ({"instructions": "Whisper."}, "cannot honour instructions"),
    ],
)
def test_a_wrong_wish_for_speech_raises_what_users_know(
    speaking: Site, client_of: Clients, wish: dict[str, Any], message: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        speak(client_of(speaking.gateways[0]), **wish)


def test_a_client_that_does_not_take_its_recording_loses_its_place(speaking: Site, client_of: Clients) -> None:
    [gateway] = speaking.gateways
    # 180 seconds, far more than the kernel keeps for a client.
    long = json.dumps({"model": "assistant", "input": "a" * 4096, "speed": 0.25}).encode()
    request = post(b"X-Request-Id: stalls-%d", body=long).replace(b"/v1/chat/completions", b"/v1/audio/speech")
    stalling = [RawClient(gateway, receive_bytes=4096).send(request % number) for number in range(2)]
    assert len(speak(client_of(gateway)).content) > 1000
    units = eventually(
        lambda: (
            found
            if len(found := [one for one in gateway.records("unit") if one["request"].startswith("stalls")]) == 2
            else None
        ),
        "records of both",
    )
    assert {(unit["status"], unit["error"]) for unit in units} == {(499, "client stalled")}
    for client in stalling:
        client.socket.close()


def test_who_has_the_wrong_path_is_told_the_right_one(
    painting: Site, speaking: Site, echo_site: Site, client_of: Clients
) -> None:
    painter, speaker, writer = (client_of(site.gateways[0]) for site in (painting, speaking, echo_site))
    with pytest.raises(openai.NotFoundError, match="'assistant' paints: send POST /v1/images/generations"):
        painter.chat.completions.create(model="assistant", messages=[{"role": "user", "content": "Hello."}])
    with pytest.raises(openai.NotFoundError, match="'assistant' speaks: send POST /v1/audio/speech"):
        generate(speaker)
    with pytest.raises(openai.NotFoundError, match="writes: send POST /v1/chat/completions or /v1/completions"):
        speak(writer)


def test_figures_count_pictures_as_units_and_steps(painting: Site, client_of: Clients) -> None:
    [gateway] = painting.gateways
    generate(client_of(gateway, X_Headrace_Version_Set="stable"))
    page = eventually(lambda: _page(gateway) if 'role="painter"' in _page(gateway) else "", "the figures")
    stable = painting.version_set().id[:12]
    assert f'headrace_gateway_units_total{{reason="override",status="200",version_set="{stable}"}}' in page
    assert f'headrace_gateway_step_seconds_count{{role="painter",version_set="{stable}"}}' in page


def _page(gateway: GatewayProcess) -> str:
    return httpx.get(f"{gateway.url}/metrics").text


@pytest.mark.parametrize("site", ["painting", "speaking"])
def test_schemathesis_finds_nothing_that_the_openapi_page_does_not_say(
    site: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    gateway = request.getfixturevalue(site).gateways[0]
    (tmp_path / "schemathesis.toml").write_text('[parameters]\n"header.X-Headrace-Version-Set" = "stable"\n')
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{gateway.url}/openapi.json"]
    command += ["--url", gateway.url, "--header", f"Authorization: Bearer {KEY}", "--checks", "all", "--seed", "5"]
    command += ["--include-path-regex", "images|audio", "--max-examples", "5", "--phases", "coverage"]
    command += ["--no-color", "--generation-database", "none"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout[-6000:]


def test_only_units_that_fit_both_sets_are_evidence(painting: Site, client_of: Clients) -> None:
    """A size that one set alone has would choose the set. Last here: a gateway that ends leaves what it measured."""
    [gateway] = painting.gateways
    client = client_of(gateway)
    before = sum(unit["reason"] == "weight" and unit["status"] == 200 for unit in gateway.records("unit"))
    for _ in range(4):
        generate(client)
    for _ in range(4):
        try:
            generate(client, size="48x32")
        except openai.BadRequestError:
            continue
    assert gateway.terminate() == 0
    found = read_drawn(painting.store, "assistant", painting.journal.head())
    metrics = [sample for arms in found.values() for values in arms.values() for sample in [values.get("error")]]
    assert before == 0
    assert sum(sample.num for sample in metrics if sample is not None) == 4
    assert {name for arms in found.values() for values in arms.values() for name in values} == {
        "error",
        "latency_seconds",
    }
