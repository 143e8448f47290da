"""Small objects as releases wrote them before objects carried a format and a digest."""

import json
from collections.abc import Mapping
from typing import Any

from headrace.store.objects import ObjectStore, canonical_json


def of_old(raw: bytes, changes: Mapping[str, Any] | None = None, *, without: tuple[str, ...] = ()) -> bytes:
    body = json.loads(raw) | dict(changes or {})
    return canonical_json({name: body[name] for name in body if name not in ("format", "sha256", *without)})


def make_old(
    store: ObjectStore, key: str, changes: Mapping[str, Any] | None = None, *, without: tuple[str, ...] = ()
) -> None:
    raw = store.read(key)
    store.delete(key)
    store.create(key, of_old(raw, changes, without=without))
