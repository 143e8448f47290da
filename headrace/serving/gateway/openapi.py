"""The gateway's own description in OpenAPI 3.1: the requests that it takes, and every answer that it gives.

Headers, statuses and refused fields come from the tables that the gateway itself uses. The rest is written beside
`openai_bodies`; schemathesis checks it in the tests by requests made from it.
"""

from typing import Any

from headrace.serving.gateway.openai_bodies import ASKS_FOR_NOTHING
from headrace.serving.gateway.refusals import MEANINGS
from headrace.serving.gateway.request_headers import NAMING_HEADERS
from headrace.serving.service import Limits, Service

# One server-sent event, in the form in which validators read a stream.
_EVENT = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}


def openapi(service: Service, *, needs_key: bool) -> dict[str, Any]:
    chat, text = _chat_request(service), _text_request(service)
    security: dict[str, Any] = {"security": [{"key": []}]} if needs_key else {}
    guarded = (401,) if needs_key else ()
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Headrace gateway: {service.name}", "description": service.description, "version": "1"},
        "paths": {
            "/v1/chat/completions": {"post": _completion("Chat completion", chat, "ChatAnswer", guarded) | security},
            "/v1/completions": {"post": _completion("Text completion", text, "TextAnswer", guarded) | security},
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
            "schemas": _SCHEMAS,
            **({"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if needs_key else {}),
        },
    }


def _completion(summary: str, body: dict[str, Any], answer: str, guarded: tuple[int, ...]) -> dict[str, Any]:
    return {
        "summary": summary,
        "parameters": [_header(header.name, header.meaning, header.schema) for header in NAMING_HEADERS],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {
                "description": "The answer; with `stream`, server-sent events that end with `data: [DONE]`.",
                "headers": {
                    name: {"schema": {"type": "string"}}
                    for name in ("X-Headrace-Version-Set", "X-Headrace-Unit", "X-Headrace-Entry", "X-Request-Id")
                },
                "content": {
                    "application/json": {"schema": _ref(answer)},
                    "text/event-stream": {"schema": _EVENT},
                },
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


def _chat_request(service: Service) -> dict[str, Any]:
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


def _text_request(service: Service) -> dict[str, Any]:
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
            "seed": _nullable("integer", minimum=-(1 << 63), maximum=(1 << 63) - 1),
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
    "Model": {
        "type": "object",
        "required": ["id", "object", "created", "owned_by"],
        "properties": {"id": {"type": "string"}, "object": {"const": "model"}},
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
