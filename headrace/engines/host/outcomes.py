"""Errors between a host, its children and its clients, in OpenAI's form: what was raised there is raised here.

Beside OpenAI's `message`, `type` and `code` stands what else an error of ours holds, so that a client decides as if its
engine were in its own process.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace import errors
from headrace.engines.base import EngineBusy, EngineFailed, NoAnswer, TurnRefused
from headrace.errors import EngineUnavailable, HeadraceError, Transient, reason_of, text_of
from headrace.store.small_objects import Record


class ModelLost(Transient):
    """The model is not in memory any more: its process has ended, or this host has never brought it. Bring it."""


@dataclass(frozen=True, kw_only=True)
class _Error:
    """`code`: the error's class."""

    message: str
    code: str
    culprits: dict[str, str | int | float] = field(default_factory=dict)
    # Of turns alone.
    status: int = 400
    for_clients: str = ""
    by_policy: bool = False
    retry_after_seconds: float = 1.0
    timed_out: bool = False
    may_be_the_turn: bool = True


@dataclass(frozen=True, kw_only=True)
class _Body:
    error: _Error


_BODY = Record("Error of an engine host", _Body)
# HTTP's words for the classes, for clients that look no further.
_STATUS = {"EngineBusy": 429, "ModelLost": 404, "InvalidInput": 400, "EngineFailed": 502}
_OTHER_STATUS = 503


def error_body(error: HeadraceError) -> dict[str, Any]:
    """The body of an answer that tells an error."""
    name = type(error).__name__
    told: dict[str, Any] = {
        "message": text_of(error),
        "type": "invalid_request_error" if status_of(error) < 500 else "api_error",
        "param": None,
        "code": name if _class_of(name) is type(error) else _nearest(error),
        "culprits": {key: value for key, value in error.culprits.items() if isinstance(value, str | int | float)},
    }
    for one in ("status", "for_clients", "by_policy", "retry_after_seconds", "timed_out", "may_be_the_turn"):
        if isinstance(error, NoAnswer) and hasattr(error, one):
            told[one] = getattr(error, one)
    return {"error": told}


def status_of(error: HeadraceError) -> int:
    """The HTTP status of an answer that tells it."""
    if isinstance(error, TurnRefused):
        return error.status
    return next((_STATUS[one.__name__] for one in type(error).__mro__ if one.__name__ in _STATUS), _OTHER_STATUS)


def error_in(raw: bytes) -> HeadraceError:
    """The error that an answer tells; EngineFailed if it tells none that can be read."""
    try:
        told = _BODY.checked(raw).error
    except ValueError as error:
        return EngineFailed(f"The engine host answered what cannot be read: {error}.", may_be_the_turn=False)
    return _made(told)


def error_of(body: Mapping[str, Any]) -> HeadraceError:
    """As `error_in`, of a body within another."""
    return error_in(json.dumps(body).encode())


def unforeseen(error: BaseException) -> EngineUnavailable:
    """An error of no class of ours, where a model was to be brought."""
    return EngineUnavailable(reason_of(error))


def _made(told: _Error) -> HeadraceError:
    match told.code:
        case "TurnRefused":
            return TurnRefused(told.message, status=told.status, for_clients=told.for_clients, by_policy=told.by_policy)
        case "EngineBusy":
            return EngineBusy(told.message, retry_after_seconds=told.retry_after_seconds)
        case "EngineFailed":
            return EngineFailed(told.message, timed_out=told.timed_out, may_be_the_turn=told.may_be_the_turn)
    found = _class_of(told.code) or EngineUnavailable
    return found(told.message, **told.culprits)


def _class_of(name: str) -> type[HeadraceError] | None:
    own = {one.__name__: one for one in (TurnRefused, EngineBusy, EngineFailed, ModelLost)}
    found = own.get(name) or getattr(errors, name, None)
    return found if isinstance(found, type) and issubclass(found, HeadraceError) else None


def _nearest(error: HeadraceError) -> str:
    """The class of `headrace.errors` that a package's own error is of."""
    return next(one.__name__ for one in type(error).__mro__ if _class_of(one.__name__) is one)
