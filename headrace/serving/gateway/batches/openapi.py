"""Files and batches on the gateway's OpenAPI page: their paths, and the bodies that they take and give."""

from typing import Any, get_args

from headrace.inbox.batches.files import Purpose
from headrace.inbox.batches.states import Status
from headrace.serving.gateway.batches.api import (
    EXPIRY_SECONDS,
    KEY_CHARACTERS_MAX,
    NUM_METADATA_MAX,
    VALUE_CHARACTERS_MAX,
    WINDOW_PATTERN,
)
from headrace.serving.gateway.refusals import MEANINGS

_TEXT: dict[str, Any] = {"type": "string"}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_MAYBE_COUNT: dict[str, Any] = {"type": ["integer", "null"], "minimum": 0}
_MAYBE_TEXT: dict[str, Any] = {"type": ["string", "null"]}
_ALWAYS = (400, 408, 413, 414, 431, 503)
_CONFLICT = "The batch has ended, or is about to."


def batch_paths(endpoints: tuple[str, ...], guarded: tuple[int, ...], security: dict[str, Any]) -> dict[str, Any]:
    """Args: endpoints: those whose requests may be lines. guarded: statuses of a path that needs a key."""

    def operation(
        name: str,
        summary: str,
        answer: str,
        *more: int,
        body: dict[str, Any] | None = None,
        conflict: str = "",
        links: dict[str, Any] | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        statuses = sorted({*_ALWAYS, *guarded, *more})
        responses = {str(status): _error(_MEANINGS.get(status) or MEANINGS[status]) for status in statuses}
        content = {"application/json": {"schema": _ref(answer)}}
        if conflict:
            responses["409"] = _error(conflict)
        done = {"description": summary, "content": content} | ({"links": links} if links else {})
        found = {"operationId": name, "summary": summary, "responses": {"200": done, **responses}}
        if body:
            found["requestBody"] = {"required": True, "content": body}
        return found | others | security

    def paged(limit_max: int, *more: dict[str, Any]) -> dict[str, Any]:
        return {
            "parameters": [
                _query("after", _TEXT, "The last one of the page before."),
                _query("limit", {"type": "integer", "minimum": 1, "maximum": limit_max}, "Objects of a page."),
                _query("order", {"enum": ["asc", "desc"]}, "By when they were made."),
                *more,
            ]
        }

    content = operation("file_content", "The bytes of a file", "File", 404)
    content["responses"]["200"]["content"] = {"application/jsonl": {"schema": _TEXT}}
    of_file = _links(file_id="$response.body#/id", to=("retrieve_file", "file_content", "delete_file"))
    asked = {"input_file_id": "$response.body#/id", "endpoint": endpoints[0], "completion_window": "24h"}
    of_file["create_batch"] = {"operationId": "create_batch", "requestBody": asked}
    of_batch = _links(batch_id="$response.body#/id", to=("retrieve_batch", "cancel_batch"))
    upload = {"multipart/form-data": {"schema": _UPLOAD}}
    created = {"application/json": {"schema": _wanted(endpoints)}}
    purpose = _query("purpose", _TEXT, "Files of this purpose alone.")
    return {
        "/v1/files": {
            "get": operation(
                "list_files", "Files of this API key, the newest first", "Files", **paged(10_000, purpose)
            ),
            "post": operation("create_file", "A file, kept once this answers", "File", 429, body=upload, links=of_file),
        },
        "/v1/files/{file_id}": {
            "parameters": [_NAME | {"name": "file_id"}],
            "get": operation("retrieve_file", "One file", "File", 404),
            "delete": operation("delete_file", "The file is gone", "Deleted", 404),
        },
        "/v1/files/{file_id}/content": {"parameters": [_NAME | {"name": "file_id"}], "get": content},
        "/v1/batches": {
            "get": operation("list_batches", "Batches of this API key, the newest first", "Batches", **paged(100)),
            "post": operation(
                "create_batch", "A batch, which begins by itself", "Batch", 404, 429, body=created, links=of_batch
            ),
        },
        "/v1/batches/{batch_id}": {
            "parameters": [_NAME | {"name": "batch_id"}],
            "get": operation("retrieve_batch", "One batch", "Batch", 404),
        },
        "/v1/batches/{batch_id}/cancel": {
            "parameters": [_NAME | {"name": "batch_id"}],
            "post": operation(
                "cancel_batch", "The batch, which starts no further line", "Batch", 404, conflict=_CONFLICT
            ),
        },
    }


def _wanted(endpoints: tuple[str, ...]) -> dict[str, Any]:
    text = {"type": "string", "maxLength": VALUE_CHARACTERS_MAX}
    metadata = {
        "type": ["object", "null"],
        "maxProperties": NUM_METADATA_MAX,
        "propertyNames": {"maxLength": KEY_CHARACTERS_MAX},
        "additionalProperties": text,
    }
    low, high = EXPIRY_SECONDS
    expiry = {
        "type": ["object", "null"],
        "required": ["anchor", "seconds"],
        "properties": {
            "anchor": {"const": "created_at"},
            "seconds": {"type": "integer", "minimum": low, "maximum": high},
        },
    }
    return {
        "type": "object",
        "required": ["input_file_id", "endpoint", "completion_window"],
        "properties": {
            "input_file_id": _TEXT,
            "endpoint": {"enum": list(endpoints)},
            "completion_window": {"type": "string", "pattern": f"^{WINDOW_PATTERN}$", "examples": ["24h"]},
            "metadata": metadata,
            "output_expires_after": expiry,
        },
    }


def _links(*, to: tuple[str, ...], **parameters: str) -> dict[str, Any]:
    return {name: {"operationId": name, "parameters": parameters} for name in to}


def _query(name: str, schema: dict[str, Any], said: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": said, "schema": schema}


def _list(of: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["object", "data", "first_id", "last_id", "has_more"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": _ref(of)},
            "first_id": _MAYBE_TEXT,
            "last_id": _MAYBE_TEXT,
            "has_more": {"type": "boolean"},
        },
    }


def _error(meaning: str) -> dict[str, Any]:
    return {"description": meaning, "content": {"application/json": {"schema": _ref("Error")}}}


def _ref(schema: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema}"}


_NAME = {"in": "path", "required": True, "schema": _TEXT}
_MEANINGS = {
    404: "This API key has no such object.",
    429: "Too much is under way, or it would have to wait for longer than its window; Retry-After says when to come "
    "back.",
    503: "The store does not answer.",
}
_UPLOAD = {
    "type": "object",
    "required": ["purpose", "file"],
    "properties": {
        "purpose": {"const": "batch"},
        "file": {"type": "string", "format": "binary", "minLength": 1, "description": "Lines of JSON."},
    },
}
_FILE = {
    "id": _TEXT,
    "object": {"const": "file"},
    "bytes": _COUNT,
    "created_at": _COUNT,
    "expires_at": _COUNT,
    "filename": _TEXT,
    "purpose": {"enum": list(get_args(Purpose))},
    "status": {"const": "processed"},
}
_BATCH = {
    "id": _TEXT,
    "object": {"const": "batch"},
    "endpoint": _TEXT,
    "errors": {"type": ["object", "null"]},
    "input_file_id": _TEXT,
    "completion_window": _TEXT,
    "status": {"enum": list(get_args(Status))},
    "output_file_id": _MAYBE_TEXT,
    "error_file_id": _MAYBE_TEXT,
    "created_at": _COUNT,
    "expires_at": _COUNT,
    **{
        f"{moment}_at": _MAYBE_COUNT
        for moment in ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
    },
    "request_counts": {
        "type": "object",
        "required": ["total", "completed", "failed"],
        "properties": dict.fromkeys(("total", "completed", "failed"), _COUNT),
    },
    "metadata": {"type": ["object", "null"]},
}
BATCH_SCHEMAS: dict[str, Any] = {
    "File": {"type": "object", "required": list(_FILE), "properties": _FILE},
    "Files": _list("File"),
    "Deleted": {
        "type": "object",
        "required": ["id", "object", "deleted"],
        "properties": {"id": _TEXT, "object": {"const": "file"}, "deleted": {"const": True}},
    },
    "Batch": {"type": "object", "required": list(_BATCH), "properties": _BATCH},
    "Batches": _list("Batch"),
}
