"""The bodies that the gateway takes, as JSON Schema for its OpenAPI page: what the readers of `openai_bodies` and
`openai_media_bodies` accept, and no more. Fields that request nothing come from the readers' own tables.
"""

from typing import Any

from headrace.serving.gateway.openai_bodies import ASKS_FOR_NOTHING
from headrace.serving.gateway.openai_media_bodies import (
    DEFAULT_VOICE,
    INPUT_CHARACTERS_MAX,
    PICTURE_ASKS_FOR_NOTHING,
    PICTURE_IGNORED,
    SOUND_TYPES,
    SPEECH_ASKS_FOR_NOTHING,
    SPEED_MAX,
    SPEED_MIN,
)
from headrace.serving.service import Limits, Service


def chat_request(service: Service) -> dict[str, Any]:
    limits: Limits = service.limits
    part = {
        "type": "object",
        "required": ["type", "text"],
        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    }
    content = {"anyOf": [{"type": "string"}, {"type": "array", "items": part}]}
    message = {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"enum": ["system", "developer", "user", "assistant"]},
            "content": content,
            "tool_calls": {"enum": [[], None]},
            "function_call": {"enum": [[], None]},
        },
    }
    messages = {"type": "array", "minItems": 1, "maxItems": limits.num_messages_max, "items": message}
    own = {"messages": messages, "max_completion_tokens": _nullable("integer", minimum=1, maximum=1 << 31)}
    return _request(service, own, required="messages")


def text_request(service: Service) -> dict[str, Any]:
    one = {"type": "string", "minLength": 1}
    prompt = {"anyOf": [one, {"type": "array", "minItems": 1, "maxItems": 1, "items": one}]}
    return _request(service, {"prompt": prompt}, required="prompt")


def _request(service: Service, own: dict[str, Any], *, required: str) -> dict[str, Any]:
    stop = {"type": "string", "minLength": 1}
    is_refused = service.client_decoding == "refused"
    null: dict[str, Any] = {"type": "null"}
    return {
        "type": "object",
        "required": ["model", required],
        "properties": {
            "model": {"const": service.name},
            **own,
            "max_tokens": _nullable("integer", minimum=1, maximum=1 << 31),
            "temperature": null if is_refused else _nullable("number", minimum=0, maximum=2),
            "top_p": null if is_refused else _nullable("number", exclusiveMinimum=0, maximum=1),
            "seed": _SEED,
            "stop": {"anyOf": [stop, {"type": "array", "maxItems": 4, "items": stop}, null]},
            "stream": _nullable("boolean"),
            "stream_options": {
                "type": ["object", "null"],
                "properties": {"include_usage": _nullable("boolean")},
            },
            # Fields that would change the answer and cannot be honoured: only values that request nothing.
            **{field: {"enum": [*values, None]} for field, values in ASKS_FOR_NOTHING.items()},
        },
    }


def _nullable(kind: str, **bounds: Any) -> dict[str, Any]:
    return {"type": [kind, "null"], **bounds}


def picture_request(service: Service) -> dict[str, Any]:
    picture = service.roles[service.chain[-1]].picture
    assert picture, "a service that paints"
    own = {
        "size": {
            "enum": ["auto", f"{picture.width}x{picture.height}", None],
            "description": "The version set's own; here that of the service's file.",
        },
        "response_format": {"enum": ["b64_json", None]},
        **{field: {"description": "Passed over; X-Headrace-Ignored names it."} for field in PICTURE_IGNORED},
    }
    said = "output_format, if it is sent, must be what the version set's painter makes: the answer's output_format."
    return _media_request(service, "prompt", own, PICTURE_ASKS_FOR_NOTHING) | {"description": said}


def speech_request(service: Service) -> dict[str, Any]:
    speech = service.roles[service.chain[-1]].speech
    assert speech, "a service that speaks"
    names = list(dict.fromkeys([DEFAULT_VOICE, speech.voice or DEFAULT_VOICE]))
    by_id = {"type": "object", "required": ["id"], "properties": {"id": {"enum": names}}}
    own = {
        "voice": {
            "anyOf": [{"enum": [*names, None]}, by_id],
            "description": "The version set's own; here that of the service's file.",
        },
        "response_format": {"enum": [*SOUND_TYPES, None]},
        "speed": _nullable("number", minimum=SPEED_MIN, maximum=SPEED_MAX),
    }
    request = _media_request(service, "input", own, SPEECH_ASKS_FOR_NOTHING)
    request["properties"]["input"]["maxLength"] = INPUT_CHARACTERS_MAX
    return request


def _media_request(
    service: Service, said: str, own: dict[str, Any], asks_for_nothing: dict[str, tuple[Any, ...]]
) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["model", said],
        "properties": {
            "model": {"const": service.name},
            said: {"type": "string", "pattern": r"\S"},
            "seed": _SEED,
            **own,
            **{field: {"enum": [*values, None]} for field, values in asks_for_nothing.items()},
        },
    }


_SEED = _nullable("integer", minimum=-(1 << 63), maximum=(1 << 63) - 1)
