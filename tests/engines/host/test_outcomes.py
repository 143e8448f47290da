"""Errors over the wire are the errors that were raised."""

import json
from typing import Any

import pytest

from headrace.engines.base import EngineBusy, EngineFailed, TurnRefused
from headrace.engines.host.outcomes import ModelLost, error_body, error_in, status_of
from headrace.errors import EngineUnavailable, HandoffCollected, HandoffCorrupt, HeadraceError, InvalidInput


class Shouted(InvalidInput):
    """Of a package that a client may not have."""


ERRORS = {
    "a turn that is too long": (TurnRefused("long", status=413, for_clients="Shorten it."), 413),
    "a turn against a policy": (TurnRefused("no", status=400, by_policy=True), 400),
    "no room": (EngineBusy("full", retry_after_seconds=2.5), 429),
    "a failed turn": (EngineFailed("broke", timed_out=True), 502),
    "an engine that is away": (EngineFailed("away", may_be_the_turn=False), 502),
    "a wrong setting": (InvalidInput("no such voice", voice="nobody", number=3), 400),
    "damaged weights": (HandoffCorrupt("flipped", key="weights/a"), 503),
    "collected weights": (HandoffCollected("gone"), 503),
    "no memory": (EngineUnavailable("full", model="a:1"), 503),
    "a lost model": (ModelLost("gone"), 404),
}


@pytest.mark.parametrize("what", ERRORS)
def test_an_error_comes_back_with_all_that_it_holds(what: str) -> None:
    error, status = ERRORS[what]
    back = error_in(json.dumps(error_body(error)).encode())
    assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))
    assert status_of(error) == status


def test_an_error_of_a_packages_own_class_comes_back_as_what_it_is_to_a_caller() -> None:
    back = error_in(json.dumps(error_body(Shouted("too loud"))).encode())
    assert (type(back), str(back)) == (InvalidInput, "too loud")


def test_openais_clients_read_message_and_kind() -> None:
    error: Any = error_body(TurnRefused("long"))["error"]
    assert (error["message"], error["type"], error["param"]) == ("long", "invalid_request_error", None)
    assert error_body(EngineFailed("broke"))["error"]["type"] == "api_error"


@pytest.mark.parametrize("raw", [b"", b"<html>", b"{}", b'{"error": {"message": 3, "code": "InvalidInput"}}'])
def test_an_answer_that_tells_no_error_is_a_failure_that_no_turn_has_caused(raw: bytes) -> None:
    back: HeadraceError = error_in(raw)
    assert isinstance(back, EngineFailed)
    assert not back.may_be_the_turn
    assert "The engine host answered what cannot be read" in str(back)
