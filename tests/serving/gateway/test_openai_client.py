"""OpenAI's Python client against a gateway process: what its users do, and which errors they see."""

from collections.abc import Callable
from typing import Any

import openai
import pytest

from simulation.servers.gateway_site import KEY, KEY_NAME, GatewayProcess, Site
from tests.waiting import eventually

pytestmark = pytest.mark.process

Clients = Callable[..., openai.OpenAI]
HELLO: Any = [{"role": "user", "content": "Tell me of the mill."}]


def test_a_chat_is_answered_by_the_stable_set(echo_site: Site, client_of: Clients) -> None:
    raw = client_of(echo_site.gateways[0]).chat.completions.with_raw_response.create(model="assistant", messages=HELLO)
    answer = raw.parse()
    stable = echo_site.version_set().id
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.system_fingerprint == raw.headers["x-headrace-version-set"] == stable
    assert raw.headers["x-headrace-unit"] == raw.headers["x-request-id"]
    assert raw.headers["x-headrace-entry"] == "1"


def test_a_stream_says_what_the_whole_answer_says(echo_site: Site, client_of: Clients) -> None:
    client = client_of(echo_site.gateways[0])
    whole = client.chat.completions.create(model="assistant", messages=HELLO, seed=7)
    events = list(
        client.chat.completions.create(
            model="assistant", messages=HELLO, seed=7, stream=True, stream_options={"include_usage": True}
        )
    )
    texts = [event.choices[0].delta.content or "" for event in events if event.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert len(texts) > 2
    assert events[0].choices[0].delta.role == "assistant"
    assert [event.choices[0].finish_reason for event in events if event.choices][-1] == "stop"
    assert events[-1].usage == whole.usage
    assert not events[-1].choices


def test_a_text_is_completed_whole_and_as_a_stream(echo_site: Site, client_of: Clients) -> None:
    client = client_of(echo_site.gateways[0])
    whole = client.completions.create(model="assistant", prompt="The mill", seed=3, max_tokens=4)
    pieces = client.completions.create(model="assistant", prompt="The mill", seed=3, max_tokens=4, stream=True)
    assert whole.choices[0].text == "".join([piece.choices[0].text for piece in pieces])
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 4


def test_the_models_are_the_service(echo_site: Site, client_of: Clients) -> None:
    client = client_of(echo_site.gateways[0])
    assert [model.id for model in client.models.list()] == ["assistant"]
    assert client.models.retrieve("assistant").owned_by == "headrace"
    with pytest.raises(openai.NotFoundError, match="serves 'assistant'"):
        client.models.retrieve("gpt-4")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "serves 'assistant'"),
        ({"messages": []}, openai.BadRequestError, "at least one message"),
        ({"n": 2}, openai.BadRequestError, "cannot honour n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "cannot honour tools"),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "cannot honour response_format"),
        ({"temperature": 9}, openai.BadRequestError, "temperature must be a number from 0 to 2, got 9"),
        ({"messages": [{"role": "user", "content": "x" * 30_000}]}, openai.APIStatusError, "may have 20000 bytes"),
    ],
    ids=["another model", "no message", "several answers", "tools", "a format", "too hot", "too long"],
)
def test_a_wrong_request_is_refused_with_the_reason(
    echo_site: Site, client_of: Clients, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    client = client_of(echo_site.gateways[0])
    with pytest.raises(error, match=message):
        client.chat.completions.create(**({"model": "assistant", "messages": HELLO} | changes))  # pyright: ignore


@pytest.mark.parametrize("key", ["sk-wrong", KEY + "x", KEY[:-1]])
def test_a_wrong_key_is_refused_and_never_written_down(echo_site: Site, client_of: Clients, key: str) -> None:
    gateway = echo_site.gateways[0]
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
        client_of(gateway, key=key).chat.completions.create(model="assistant", messages=HELLO)
    assert key not in gateway.log.read_text()


def test_records_name_the_key_and_hold_no_prompt(echo_site: Site, client_of: Clients) -> None:
    gateway = echo_site.gateways[0]
    secret: Any = [{"role": "user", "content": "my password is swordfish"}]
    raw = client_of(gateway).chat.completions.with_raw_response.create(model="assistant", messages=secret)
    record = wait_for_unit(gateway, raw.headers["x-request-id"])
    assert record["key"] == KEY_NAME
    assert "swordfish" not in gateway.log.read_text()
    assert KEY not in gateway.log.read_text()
    assert str(raw.parse().choices[0].message.content) not in gateway.log.read_text()


def test_a_sessions_turns_are_one_unit_on_one_set(echo_site: Site, client_of: Clients) -> None:
    gateway = echo_site.gateways[0]
    client = client_of(gateway, X_Headrace_Session="s-1")
    turns = [
        client.chat.completions.with_raw_response.create(model="assistant", messages=HELLO).headers for _ in range(3)
    ]
    assert {turn["x-headrace-unit"] for turn in turns} == {"s-1"}
    assert {turn["x-headrace-session"] for turn in turns} == {"pinned"}
    records = [wait_for_unit(gateway, turn["x-request-id"]) for turn in turns]
    assert [record["reason"] for record in records] == ["weight", "session", "session"]
    assert len({record["version_set"] for record in records}) == 1


def test_a_clients_temperature_is_ignored_and_it_is_told_so(echo_site: Site, client_of: Clients) -> None:
    raw = client_of(echo_site.gateways[0]).chat.completions.with_raw_response.create(
        model="assistant", messages=HELLO, temperature=0.1
    )
    assert raw.headers["x-headrace-ignored"] == "temperature"


def test_a_set_may_be_asked_for_by_name(echo_site: Site, client_of: Clients) -> None:
    gateway = echo_site.gateways[0]
    asked = client_of(gateway, X_Headrace_Version_Set="stable")
    raw = asked.chat.completions.with_raw_response.create(model="assistant", messages=HELLO)
    assert wait_for_unit(gateway, raw.headers["x-request-id"])["reason"] == "override"
    with pytest.raises(openai.BadRequestError, match="there is no candidate now"):
        client_of(gateway, X_Headrace_Version_Set="candidate").chat.completions.create(
            model="assistant", messages=HELLO
        )


def wait_for_unit(gateway: GatewayProcess, request: str) -> dict[str, Any]:
    return eventually(
        lambda: next((record for record in gateway.records("unit") if record["request"] == request), None),
        f"a record of {request}",
    )
