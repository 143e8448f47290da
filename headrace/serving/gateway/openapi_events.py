"""Events, as JSON Schema for the gateway's OpenAPI page: what `headrace.inbox.events` reads, and what is answered."""

from typing import Any

from headrace.fairness import CLASSES
from headrace.inbox.rules import NAME_CHARACTERS_MAX, NUM_EVENTS_MAX

_NAME = {"type": "string", "minLength": 1, "maxLength": NAME_CHARACTERS_MAX}
_TEXT = {"type": ["string", "null"], "maxLength": NAME_CHARACTERS_MAX}
_TIME = {"type": ["string", "null"], "format": "date-time"}
_COUNT = {"type": "integer", "minimum": 0}

_EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["id", "source", "campaign", "data"],
    "properties": {
        "specversion": {"enum": ["1.0", None]},
        "id": _NAME,
        "source": _NAME,
        "campaign": _NAME,
        "time": _TIME,
        "partitionkey": _TEXT,
        "sequence": {"type": ["integer", "string", "null"]},
        "tenant": _TEXT,
        "class": {"enum": list(CLASSES)},
        "deadline": _TIME,
        "data": {"type": "object"},
    },
}

# Of `GET /v1/events/results`.
RESULTS_QUERY: dict[str, dict[str, Any]] = {
    "campaign": {"required": True, "description": "Whose events."},
    "after": {"description": "The id of the last result that was read, or `now`; by default before the first."},
}

EVENTS_ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["object", "taken", "repeated", "refused"],
    "properties": {
        "object": {"const": "events"},
        "taken": _COUNT,
        "repeated": _COUNT | {"description": "Events that were taken before."},
        "refused": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["index", "reason", "retry_after_seconds"],
                "properties": {
                    "index": _COUNT,
                    "reason": {"type": "string"},
                    "retry_after_seconds": {"type": ["number", "null"]},
                },
            },
        },
    },
}


def events_request() -> dict[str, Any]:
    """The body's schema, by content type."""
    # Of several, each is judged by itself: a wrong one is in the answer, and no wrong request.
    events = {"type": "array", "minItems": 1, "maxItems": NUM_EVENTS_MAX, "items": {"description": "An event."}}
    return {
        "application/json": {"schema": {"anyOf": [_EVENT, events]}},
        "application/x-ndjson": {"schema": {"type": "string", "description": "An event a line."}},
    }
