"""Requests for pictures and speech: what is taken, what is passed over, what is refused, and in which words."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.serving.gateway.openai_media_bodies import (
    PICTURE_ASKS_FOR_NOTHING,
    SPEECH_ASKS_FOR_NOTHING,
    MediaAsk,
    picture_ask,
    speech_ask,
)
from headrace.serving.gateway.refusals import Refusal


def picture(**changes: Any) -> MediaAsk:
    return picture_ask(json.dumps({"model": "assistant", "prompt": "A mill.", **changes}).encode())


def speech(**changes: Any) -> MediaAsk:
    return speech_ask(json.dumps({"model": "assistant", "input": "A mill.", **changes}).encode())


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, {"size": None, "seed": None, "file_type": None}),
        ({"size": "auto", "n": 1, "response_format": "b64_json", "output_format": None}, {"size": None}),
        ({"size": "32x24", "seed": 7, "output_format": "png"}, {"size": (32, 24), "seed": 7, "file_type": "png"}),
        ({"stream": False, "partial_images": 0}, {"ignored": ()}),
        (
            {"user": "u", "style": "vivid", "quality": "hd", "background": None},
            {"ignored": ("quality", "style", "user")},
        ),
        ({"a_field_of_next_year": [1]}, {"ignored": ()}),
    ],
)
def test_a_picture_is_asked_for_with_what_its_set_has(changes: dict[str, Any], wanted: dict[str, Any]) -> None:
    ask = picture(**changes)
    assert {name: getattr(ask, name) for name in wanted} == wanted
    assert ask.prompt == "A mill."


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"voice": "amy", "speed": 0.25}, {"voice": "amy", "speed": 0.25, "file_type": None}),
        ({"voice": {"id": "amy"}, "speed": 4, "response_format": "pcm"}, {"voice": "amy", "speed": 4.0}),
        ({"stream_format": "audio", "response_format": "wav"}, {"voice": None, "file_type": "wav"}),
        ({"input": "é" * 4096, "instructions": None}, {"speed": None}),
    ],
)
def test_a_text_is_spoken_as_its_set_speaks(changes: dict[str, Any], wanted: dict[str, Any]) -> None:
    ask = speech(**changes)
    assert {name: getattr(ask, name) for name in wanted} == wanted


Asks = Callable[..., MediaAsk]
REFUSED: list[tuple[Asks, dict[str, Any], str, str]] = [
    *((picture, {"n": n}, "n", "cannot honour n") for n in (0, 2, True, "1", [], 10**400)),
    *((picture, {"size": size}, "size", "size must be auto, or") for size in ("1x", "0x0", "99999999x1", "a", 5, [])),
    (picture, {"size": "１x１"}, "size", "size must be auto, or"),
    (picture, {"prompt": None}, "prompt", "prompt is missing"),
    (picture, {"prompt": " \n"}, "prompt", "a text that is not blank, got a text of 2 characters"),
    (picture, {"prompt": ["A mill."]}, "prompt", "got a list of 1"),
    (picture, {"prompt": "\ud800"}, "prompt", "a lone surrogate at character 0"),
    (picture, {"model": 5}, "model", "got 5"),
    (picture, {"response_format": "url"}, "response_format", "keeps no pictures that an address could name"),
    (picture, {"response_format": "json"}, "response_format", "must be b64_json, got 'json'"),
    (picture, {"output_format": "gif"}, "output_format", "must be png or jpeg or webp, got 'gif'"),
    (picture, {"output_format": {}}, "output_format", "got an object"),
    (picture, {"stream": True}, "stream", "cannot honour stream"),
    (picture, {"partial_images": 2}, "partial_images", "cannot honour partial_images"),
    (picture, {"negative_prompt": "blurry"}, "negative_prompt", "cannot honour"),
    (picture, {"seed": 1 << 64}, "seed", "a whole number"),
    (speech, {"input": "a" * 4097}, "input", "may have 4096 characters, got 4097"),
    (speech, {"input": ""}, "input", "a text that is not blank"),
    (speech, {"input": "a\udfff"}, "input", "a lone surrogate at character 1"),
    *((speech, {"speed": speed}, "speed", "a number from 0.25 to 4") for speed in (0, 0.2, 4.1, -1, "fast", True)),
    *((speech, {"response_format": form}, "response_format", "must be wav or pcm") for form in ("mp3", "opus", 3)),
    (speech, {"stream_format": "sse"}, "stream_format", "cannot honour stream_format"),
    (speech, {"instructions": "Whisper."}, "instructions", "cannot honour instructions"),
    (speech, {"voice": ""}, "voice", "the name of a voice"),
    (speech, {"voice": {"name": "amy"}}, "voice", "got an object"),
    (speech, {"voice": "\ud800"}, "voice", "a lone surrogate"),
]


@pytest.mark.parametrize(("ask", "changes", "param", "words"), REFUSED)
def test_what_cannot_be_made_so_is_refused_by_name(ask: Asks, changes: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(Refusal, match=words) as refused:
        ask(**changes)
    assert (refused.value.status, refused.value.param) == (400, param)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_speed_that_is_no_number_is_refused(number: str) -> None:
    with pytest.raises(Refusal) as refused:
        speech_ask(f'{{"model": "assistant", "input": "a", "speed": {number}}}'.encode())
    assert refused.value.status == 400


FIELDS = ("model", "size", "voice", "speed", "seed", "response_format", "output_format", "user")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(derandomize=True, max_examples=200)
@given(body=st.dictionaries(st.sampled_from([*FIELDS, *PICTURE_ASKS_FOR_NOTHING, *SPEECH_ASKS_FOR_NOTHING]), VALUES))
def test_any_body_is_an_ask_or_refused_without_a_word_of_its_prompt(body: dict[str, Any]) -> None:
    whole = {"model": "assistant", **body, "prompt": "swordfish", "input": "swordfish"}
    for read in (picture_ask, speech_ask):
        refusal = _refusal(read, json.dumps(whole).encode())
        assert refusal is None or (refusal.status == 400 and "swordfish" not in refusal.message)


def _refusal(read: Callable[[bytes], MediaAsk], raw: bytes) -> Refusal | None:
    try:
        assert read(raw).prompt == "swordfish"
    except Refusal as refusal:
        return refusal
    return None
