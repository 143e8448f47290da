"""Pictures and speech from servers of each dialect, faked on this machine over real HTTP."""

from typing import Any

import pytest

from headrace.engines.base import NoAnswer
from headrace.engines.openai.dialect import check_dialect
from headrace.errors import InvalidInput
from headrace.version_sets.media_settings import Picture, Speech
from simulation.servers import media
from simulation.servers.media import making
from tests.engines.openai.media_askers import KEY, PICTURE, SEEDED, SPEECH, Outcome, made_by, make_turn

SETTINGS = Picture(width=48, height=32, num_inference_steps=28, guidance_scale=3.5, negative_prompt="blur")
DIALECTS: dict[str, tuple[media.Dialect, dict[str, Any], str]] = {
    "OpenAI": (media.openai, {"response_format": None}, "image/png"),
    "vllm-omni": (media.vllm_omni, SEEDED, "image/png"),
    "vllm-omni, bare bytes": (media.vllm_omni_file, SEEDED | {"response_format": "file"}, "image/png"),
    "SGLang": (media.sglang, {}, "image/jpeg"),
    "LocalAI": (media.localai, {}, "image/png"),
    "LocalAI behind a proxy": (media.localai_relative, {}, "image/png"),
    "an address that is the data": (media.data_address, {}, "image/png"),
    "a prefix of data": (media.data_in_base64, {}, "image/png"),
}


def good(outcome: Outcome) -> Any:
    assert not isinstance(outcome, NoAnswer), outcome
    return outcome


@pytest.mark.parametrize("name", DIALECTS)
def test_a_picture_comes_whole_and_is_what_its_bytes_are(name: str) -> None:
    dialect, request, media_type = DIALECTS[name]
    [outcome], [server] = made_by(making(dialect), request=request)
    answer, facts = good(outcome)
    assert (facts.media_type, facts.width, facts.height) == (media_type, 32, 24)
    body = server.bodies[0]
    assert answer.content == media.picture(body, media_type.removeprefix("image/").upper())
    assert answer.replica == server.url
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert server.headers[0]["X-Request-Id"] == "row-1"


def test_our_own_keys_are_sent_where_the_dialect_says_nothing() -> None:
    _, [server] = made_by(making(media.vllm_omni))
    expected = {"model": "served", "prompt": "a wheel", "n": 1, "size": "32x24", "response_format": "b64_json"}
    assert server.bodies == [expected]


def test_a_dialect_says_where_settings_go() -> None:
    request = {
        "response_format": None,
        "size": None,
        "prompt": "{prompt}|{negative_prompt}",
        "extra": {"steps": "{num_inference_steps}", "cfg": "{guidance_scale}", "shape": ["{width}", "{height}"]},
        "scheduler": "{scheduler}",
        "image_seed": "{seed}",
        "note": "seed {seed31} of {size}",
    }
    _, [server] = made_by(making(media.vllm_omni), made=SETTINGS, request=request, turns=(make_turn("a {seed}"),))
    assert server.bodies == [
        {
            "model": "served",
            "prompt": "a {seed}|blur",
            "n": 1,
            "extra": {"steps": 28, "cfg": 3.5, "shape": [48, 32]},
            "image_seed": 2**40 + 7,
            "note": "seed 7 of 48x32",
        }
    ]


def test_a_key_that_is_left_out_alone_is_no_place_without_quotes() -> None:
    check_dialect('{"size":null}', PICTURE)
    with pytest.raises(InvalidInput, match=r"request: seed has \{seed31\} as a mapping of YAML"):
        check_dialect('{"seed":{"seed31":null}}', PICTURE)


def test_a_revised_prompt_is_kept_where_it_differs() -> None:
    [outcome], _ = made_by(making(media.sglang))
    assert good(outcome)[0].attributes == {"revised_prompt": "a wheel, detailed"}
    [outcome], _ = made_by(making(media.vllm_omni))
    assert good(outcome)[0].attributes == {}


@pytest.mark.parametrize("dialect", [media.spoken, media.spoken_in_a_stream])
def test_speech_is_asked_for_as_wav_with_voice_and_speed(dialect: media.Dialect) -> None:
    speech = Speech(voice="miller", speed=1.25, sample_rate=16_000)
    [outcome], [server] = made_by(making(dialect), made=speech, request=SEEDED, turns=(make_turn("a wheel turns"),))
    _, facts = good(outcome)
    assert server.bodies == [
        {
            "model": "served",
            "input": "a wheel turns",
            "response_format": "wav",
            "voice": "miller",
            "speed": 1.25,
            "seed": 7,
        }
    ]
    assert facts.media_type == "audio/wav"
    assert facts.duration_seconds == pytest.approx(13 / 14 / 1.25, abs=1e-3)


def test_a_clients_speed_takes_the_place_of_the_members() -> None:
    _, [server] = made_by(making(media.spoken), made=SPEECH, turns=(make_turn(speed=2.0),))
    assert server.bodies[0]["speed"] == 2.0
    _, [server] = made_by(making(media.spoken), made=SPEECH)
    assert "speed" not in server.bodies[0]


def test_replicas_share_a_batch_and_each_row_keeps_its_own_picture() -> None:
    turns = tuple(make_turn(f"wheel {number}", seed=number) for number in range(16))
    outcomes, servers = made_by(
        making(media.vllm_omni, seconds=0.02), making(media.vllm_omni, seconds=0.02), request=SEEDED, turns=turns
    )
    for turn, outcome in zip(turns, outcomes, strict=True):
        body = {"prompt": turn.text, "seed": turn.seed, "size": "32x24"}
        assert good(outcome)[0].content == media.picture(body)
    assert [server.num_gone for server in servers] == [0, 0]
    assert all(server.bodies for server in servers)
    assert {good(outcome)[0].replica for outcome in outcomes} == {server.url for server in servers}


def test_a_replica_that_breaks_off_loses_its_rows_to_the_other() -> None:
    def breaks(server: Any, body: dict[str, Any]) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{"

    turns = tuple(make_turn(f"wheel {number}") for number in range(8))
    outcomes, [bad, well] = made_by(making(breaks), making(media.vllm_omni), turns=turns, num_attempts=3)
    assert {good(outcome)[0].replica for outcome in outcomes} == {well.url}
    assert bad.bodies


def test_a_slow_first_picture_is_not_taken_from_its_replica() -> None:
    """A whole answer is silent until its end; a text's replica would have lost the turn after 0.3 s."""
    [outcome], servers = made_by(
        making(media.vllm_omni, seconds=0.6), making(media.vllm_omni, seconds=0.6), silent_seconds_unheard=0.2
    )
    good(outcome)
    assert sum(len(server.bodies) for server in servers) == 1
