"""Checks the Kubernetes API's answers against their shape, so that no other answer decides a placement. Pure.

The API server checks what it stores, so an object that does not fit comes from a proxy or another service. Labels,
annotations and amounts that people may write stay texts here; their readers interpret them.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

# For each kind of listed object: its optional fields and their types.
_FIELDS: dict[str, str] = {
    "metadata": "object",
    "metadata.name": "text",
    "metadata.namespace": "text",
    "metadata.deletionTimestamp": "text",
    "metadata.labels": "texts",
    "metadata.annotations": "texts",
    "spec": "object",
    "spec.nodeName": "text",
    "spec.taints": "objects",
    "spec.containers": "objects",
    "spec.initContainers": "objects",
    "status": "object",
    "status.phase": "text",
    "status.allocatable": "object",
    "status.conditions": "objects",
    "status.active": "count",
    "status.succeeded": "count",
    "status.failed": "count",
}


class NotAnAnswer(ValueError):
    """The answer is not a list of the Kubernetes API."""


def listed(raw: bytes) -> tuple[list[dict[str, Any]], str]:
    """The objects of one page, and the next page's token ("": there is none).

    Raises: NotAnAnswer.
    """
    try:
        page = json.loads(raw)
    except (ValueError, RecursionError) as error:
        said = " ".join(raw[:200].decode(errors="replace").split())
        raise NotAnAnswer(f"it answered what is no JSON ({type(error).__name__}): {said or 'nothing'}") from None
    if not isinstance(page, dict) or not ("items" in page or "List" in str(page.get("kind", ""))):
        raise NotAnAnswer("it answered what is no list of objects")
    items = page.get("items") or []
    metadata = page.get("metadata") or {}
    token = metadata.get("continue") or "" if isinstance(metadata, dict) else None
    if not isinstance(items, list) or not isinstance(token, str):
        raise NotAnAnswer("it answered a list whose items or metadata are of other types")
    for index, item in enumerate(items):
        if fault := _fault(item):
            raise NotAnAnswer(f"object {index} of its list {fault}")
    return items, token


def _fault(item: object) -> str | None:
    if not isinstance(item, dict):
        return f"is of type {type(item).__name__}"
    if not _value(item, "metadata.name"):
        return "has no name"
    for path, kind in _FIELDS.items():
        value = _value(item, path)
        if value is not None and not _IS[kind](value):
            return f"has a {path} of type {type(value).__name__}"
    return None


def _value(item: Mapping[str, Any], path: str) -> Any:
    """The field's value; None: it is absent, or its parent has no fields, which is reported for the parent."""
    value: Any = item
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


_IS: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "objects": lambda value: isinstance(value, list) and all(isinstance(each, dict) for each in value),
    "text": lambda value: isinstance(value, str),
    "texts": lambda value: isinstance(value, dict) and all(isinstance(each, str) for each in value.values()),
    "count": lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
}
