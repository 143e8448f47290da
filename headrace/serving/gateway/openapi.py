"""The gateway's own description in OpenAPI 3.1: the requests that it takes, and every answer that it gives.

Headers, statuses and refused fields come from the tables that the gateway itself uses. The rest is written beside
the bodies' readers; schemathesis checks it in the tests by requests made from it.
"""

from typing import Any

from headrace.engines.openai.coming import COME_SECONDS
from headrace.serving.gateway.openai_media_bodies import PICTURE_TYPES
from headrace.serving.gateway.openapi_events import EVENTS_ANSWER, RESULTS_QUERY, events_request
from headrace.serving.gateway.openapi_requests import chat_request, picture_request, speech_request, text_request
from headrace.serving.gateway.refusals import MEANINGS
from headrace.serving.gateway.request_headers import NAMING_HEADERS, SESSION
from headrace.serving.service import Service

# One server-sent event, in the form in which validators read a stream.
_EVENT = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}


def openapi(service: Service, *, needs_key: bool, has_inbox: bool = False, has_batches: bool = False) -> dict[str, Any]:
    security: dict[str, Any] = {"security": [{"key": []}]} if needs_key else {}
    guarded = (401,) if needs_key else ()
    batch_paths, batch_schemas = _batches(service, guarded, security) if has_batches else ({}, {})
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Headrace gateway: {service.name}", "description": service.description, "version": "1"},
        "paths": {
            **{path: {"post": _unit(*said, guarded) | security} for path, said in _units(service).items()},
            **({path: {how: said | security} for path, how, said in _inbox(guarded)} if has_inbox else {}),
            **({"/v1/realtime": {"get": _calls(guarded) | security}} if service.hears else {}),
            **batch_paths,
            "/v1/models": {"get": _page("The service, as a model", "Models", guarded) | security},
            "/v1/models/{model}": {
                "get": _page("One model", "Model", (*guarded, 404))
                | {"parameters": [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]}
                | security
            },
            "/v1/rollout": {
                "get": _page("Which sets get units, and which are loaded here", "Object", guarded) | security
            },
            "/healthz": {"get": _page("Whether the process runs", "Object", ())},
            "/readyz": {"get": _page("Whether units can be answered", "Object", (), also={503: "Not ready."})},
            "/metrics": {"get": {"responses": {"200": {"description": "Figures", "content": {"text/plain": {}}}}}},
            "/openapi.json": {"get": _page("This page", "Object", ())},
        },
        "components": {
            "schemas": _SCHEMAS | batch_schemas,
            **({"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if needs_key else {}),
        },
    }


def _batches(
    service: Service, guarded: tuple[int, ...], security: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Their paths and schemas."""
    # Here, because a gateway without batches needs none of it.
    from headrace.serving.gateway.batches.openapi import BATCH_SCHEMAS, batch_paths

    return batch_paths(tuple(_units(service)), guarded, security), BATCH_SCHEMAS


def _inbox(guarded: tuple[int, ...]) -> list[tuple[str, str, dict[str, Any]]]:
    """Path, method, and what is said of it."""
    return [("/v1/events", "post", _events(guarded)), ("/v1/events/results", "get", _results(guarded))]


def _results(guarded: tuple[int, ...]) -> dict[str, Any]:
    said = "Server-sent events without end, a result each; its id is where to go on."
    answer = {"description": said, "content": {"text/event-stream": {"schema": _EVENT}}}
    statuses = (400, *guarded, 404, 429, 431, 503)
    return {
        "summary": "Results of a campaign's events",
        "parameters": [
            *(
                {"name": name, "in": "query", "schema": {"type": "string"}} | more
                for name, more in RESULTS_QUERY.items()
            ),
            _header("Last-Event-ID", "As `after`, which it overrules.", {"type": "string"}),
        ],
        "responses": {"200": answer, **{str(status): _error(MEANINGS[status]) for status in statuses}},
    }


def _calls(guarded: tuple[int, ...]) -> dict[str, Any]:
    return {
        "summary": "A call, over a WebSocket: the part of OpenAI's Realtime API that spoken turns need",
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": schema, "description": meaning}
            for name, schema, meaning in (
                ("model", {"type": "string"}, "The service's name."),
                ("session", SESSION.schema, "The call's name: who comes back with it goes on with the call."),
                ("received_ms", {"type": "integer", "minimum": 0}, "Of the last answer's audio, so much was received."),
            )
        ],
        "responses": {
            "101": {"description": "A WebSocket, whose text frames are events in JSON."},
            "426": _error("The request did not offer WebSocket."),
            **{str(status): _error(MEANINGS[status]) for status in (400, *guarded, 404, 429, 431, 503)},
        },
    }


def _events(guarded: tuple[int, ...]) -> dict[str, Any]:
    said = "What is taken, for good, and what is refused."
    answer = {"description": said, "content": {"application/json": {"schema": _ref("EventsAnswer")}}}
    statuses = (400, *guarded, 408, 413, 414, 429, 431, 503)
    return {
        "summary": "Events of campaigns",
        "requestBody": {"required": True, "content": events_request()},
        "responses": {"200": answer, **{str(status): _error(MEANINGS[status]) for status in statuses}},
    }


def _units(service: Service) -> dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]]:
    """Path → what it is for, the request's body, and the answer in words and by content type."""
    if service.makes == "image":
        content = {"application/json": {"schema": _ref("PictureAnswer")}}
        return {"/v1/images/generations": ("Picture", picture_request(service), "The picture.", content)}
    if service.makes == "speech":
        said = "The recording: a WAV, or with `pcm` samples of 16 bits, little-endian, of one channel."
        content = {"audio/wav": {}, "audio/pcm": {}}
        return {"/v1/audio/speech": ("Spoken text", speech_request(service), said, content)}
    said = "The answer; with `stream`, server-sent events that end with `data: [DONE]`."
    chat, text = (
        {"application/json": {"schema": _ref(answer)}, "text/event-stream": {"schema": _EVENT}}
        for answer in ("ChatAnswer", "TextAnswer")
    )
    return {
        "/v1/chat/completions": ("Chat completion", chat_request(service), said, chat),
        "/v1/completions": ("Text completion", text_request(service), said, text),
    }


def _unit(
    summary: str, body: dict[str, Any], said: str, content: dict[str, Any], guarded: tuple[int, ...]
) -> dict[str, Any]:
    return {
        "summary": summary,
        "parameters": [_header(header.name, header.meaning, header.schema) for header in NAMING_HEADERS],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {
                "description": said,
                "headers": {
                    name: {"schema": {"type": "string"}}
                    for name in ("X-Headrace-Version-Set", "X-Headrace-Unit", "X-Headrace-Entry", "X-Request-Id")
                },
                "content": content,
            },
            **{str(status): _error(meaning) for status, meaning in MEANINGS.items() if status != 401 or guarded},
        },
    }


def _page(summary: str, schema: str, errors: tuple[int, ...], *, also: dict[int, str] | None = None) -> dict[str, Any]:
    def said(meaning: str) -> dict[str, Any]:
        return {"description": meaning, "content": {"application/json": {"schema": _ref(schema)}}}

    return {
        "summary": summary,
        "responses": {
            "200": said(summary),
            **{str(status): _error(MEANINGS[status]) for status in errors},
            **{str(status): said(meaning) for status, meaning in (also or {}).items()},
        },
    }


def _header(name: str, meaning: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": meaning, "schema": schema}


def _error(meaning: str) -> dict[str, Any]:
    return {"description": meaning, "content": {"application/json": {"schema": _ref("Error")}}}


def _ref(schema: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema}"}


def _answer(name: str, choice: dict[str, Any]) -> dict[str, Any]:
    text = {"type": "string"}
    number = {"type": "integer", "minimum": 0}
    return {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "usage", "system_fingerprint"],
        "properties": {
            "id": text,
            "object": {"const": name},
            "created": number,
            "model": text,
            "system_fingerprint": text,
            "choices": {
                "type": "array",
                "minItems": 1,
                "maxItems": 1,
                "items": {
                    "type": "object",
                    "required": ["index", "finish_reason", *choice],
                    "properties": {"finish_reason": {"enum": ["stop", "length", "content_filter"]}, **choice},
                },
            },
            "usage": {
                # null: the engine's server sent no counts.
                "type": ["object", "null"],
                "properties": dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), number),
            },
        },
    }


_SCHEMAS: dict[str, Any] = {
    "Object": {"type": "object"},
    "EventsAnswer": EVENTS_ANSWER,
    "ChatAnswer": _answer(
        "chat.completion",
        {
            "message": {
                "type": "object",
                "required": ["role", "content"],
                "properties": {"role": {"const": "assistant"}, "content": {"type": "string"}},
            }
        },
    ),
    "TextAnswer": _answer("text_completion", {"text": {"type": "string"}}),
    "PictureAnswer": {
        "type": "object",
        "required": ["created", "data", "output_format", "size", "usage"],
        "properties": {
            "created": {"type": "integer", "minimum": 0},
            "data": {
                "type": "array",
                "minItems": 1,
                "maxItems": 1,
                "items": {
                    "type": "object",
                    "required": ["b64_json", "revised_prompt"],
                    "properties": {
                        "b64_json": {"type": "string", "contentEncoding": "base64", "minLength": 1},
                        "revised_prompt": {"type": "string", "description": "What the painter was asked."},
                    },
                },
            },
            "output_format": {"enum": list(PICTURE_TYPES)},
            "size": {"type": "string", "pattern": "^[0-9]+x[0-9]+$"},
            # Pictures are not counted in tokens.
            "usage": {"type": "null"},
        },
    },
    "Model": {
        "type": "object",
        "required": ["id", "object", "created", "owned_by"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "model"},
            COME_SECONDS: {
                "type": "number",
                "minimum": 0,
                "description": "Seconds until the stable set's models could work, where an engine host holds them.",
            },
        },
    },
    "Models": {
        "type": "object",
        "required": ["object", "data"],
        "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": _ref("Model")}},
    },
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string", "minLength": 1},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
            }
        },
    },
}
