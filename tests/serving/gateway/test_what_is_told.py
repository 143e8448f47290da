"""What clients, and anybody, are told of engines: never where they are, nor in which words they failed."""

import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from headrace.engines.base import EngineBusy, EngineFailed, TurnRefused
from headrace.errors import InvalidInput
from headrace.serving.gateway.refusals import refusal_of
from headrace.serving.plan_lease import PlanUnknown
from simulation.servers.chat import ChatServer, answering, refusing, served
from simulation.servers.gateway_site import GatewayProcess, Site, http_role
from tests.serving.gateway.raw_clients import RawClient, chat, post
from tests.waiting import eventually

WORDS = "CUDA out of memory on gpu-7.internal"


async def _behave(server: ChatServer, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """As the prompt says; streams too."""
    said = body["messages"][-1]["content"]
    if (status := re.search(r"answer (\d+)", said)) is not None:
        return await refusing(int(status[1]), WORDS)(server, request, body)
    return await answering()(server, request, body)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A stable set on a server that fails as it is asked to, and a candidate on one that is not there."""
    with served(_behave) as server:
        limits = {"num_attempts": 1, "unit_seconds_max": 20.0}
        site = Site.make(
            tmp_path_factory.mktemp("told") / "site", {"roles": {"writer": http_role(server.url)}, "limits": limits}
        )
        site.initialize()
        nowhere = {"engine": {"name": "openai_http", "base_url": "http://127.0.0.1:9/v1", "model": "slow"}}
        site.start_candidate(site.version_set(writer=nowhere), weight=0.5)
        with site.started():
            yield site


@pytest.fixture
def gateway(site: Site) -> GatewayProcess:
    return site.gateways[0]


def logged(gateway: GatewayProcess, request: str) -> dict[str, Any]:
    return eventually(
        lambda: next((record for record in gateway.records("gateway") if record.get("request") == request), None),
        f"something in the log about {request}",
    )


@pytest.mark.process
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("upstream", "status", "code"),
    [(422, 422, "turn_refused"), (400, 400, "turn_refused"), (500, 502, "engine_failed")],
)
def test_an_engines_words_and_address_are_for_the_log_alone(
    gateway: GatewayProcess, upstream: int, status: int, code: str, stream: bool
) -> None:
    said = [{"role": "user", "content": f"answer {upstream}"}]
    headers = (b"Connection: close", b"X-Headrace-Version-Set: stable")
    answer = RawClient(gateway).send(post(*headers, body=chat(messages=said, stream=stream))).until_closed()
    assert (answer.status, answer.error["code"]) == (status, code)
    assert "X-Request-Id" in answer.error["message"]
    told = answer.raw.decode()
    assert "CUDA" not in told
    assert "127.0.0.1" not in told
    why = logged(gateway, answer.headers["x-request-id"])["why"]
    assert WORDS in why
    assert "http://127.0.0.1:" in why
    # The replica is probed before it gets another turn, of another test.
    eventually(lambda: RawClient(gateway).send(post(*headers)).until_closed().status == 200, "another turn")


@pytest.mark.process
def test_who_may_not_know_where_engines_are_does_not_learn_it_from_the_health_pages(gateway: GatewayProcess) -> None:

    def reasons() -> list[str]:
        with urllib.request.urlopen(f"{gateway.url}/readyz", timeout=60) as response:
            body = json.load(response)
        is_told = body["status"] == "degraded" and "could not be loaded" in body["reasons"][0]
        return body["reasons"] if is_told else []

    reason = eventually(reasons, "the set that could not be loaded")[0]
    assert re.fullmatch(r"the candidate set [0-9a-f]{12} could not be loaded; the log says why", reason)
    failed = gateway.event("set not loaded")
    assert failed is not None
    assert "127.0.0.1:9" in failed["error"]


ADDRESS = "http://10.1.2.3:8000/v1 answered 500: CUDA out of memory"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TurnRefused(ADDRESS, status=422), 422),
        (EngineBusy(ADDRESS, retry_after_seconds=3), 429),
        (EngineFailed(ADDRESS), 502),
        (EngineFailed(ADDRESS, timed_out=True), 504),
        (PlanUnknown(ADDRESS), 503),
        (InvalidInput(ADDRESS), 400),
    ],
)
def test_no_error_tells_a_client_its_own_text(error: Exception, status: int) -> None:
    refusal = refusal_of(error)
    assert refusal.status == status
    assert b"10.1.2.3" not in refusal.body
    assert refusal.detail == ADDRESS


def test_what_an_engine_says_for_clients_is_told_to_them() -> None:
    why = "The messages have 99 tokens; the model has 64 positions."
    assert refusal_of(TurnRefused(why, for_clients=why)).message == why


def test_what_nobody_foresaw_shows_its_text_to_nobody() -> None:
    refusal = refusal_of(KeyError("my password is swordfish"))
    assert (refusal.status, refusal.detail) == (500, "")
    assert b"swordfish" not in refusal.body
