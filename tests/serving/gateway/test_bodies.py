"""Request bodies: what is taken, what is refused, and in which words."""

import json
from typing import Any

import pytest

from headrace.engines.base import Message
from headrace.serving.gateway.openai_bodies import chat_ask, text_ask
from headrace.serving.gateway.refusals import Refusal

HELLO = {"role": "user", "content": "Hello."}


def ask(**changes: Any) -> Any:
    body = {"model": "assistant", "messages": [HELLO], **changes}
    return chat_ask(json.dumps(body).encode(), num_messages_max=4)


def refusal(raw: bytes) -> Refusal:
    with pytest.raises(Refusal) as refused:
        chat_ask(raw, num_messages_max=4)
    assert refused.value.status == 400
    return refused.value


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 1},
        {"tools": []},
        {"tool_choice": "none"},
        {"response_format": {"type": "text"}},
        {"logprobs": False},
        {"logit_bias": {}},
        {"frequency_penalty": 0, "presence_penalty": 0.0},
        {"user": "u-1", "store": False, "metadata": {"a": "b"}, "a_field_of_next_year": [1]},
        {"temperature": None, "max_tokens": None, "stop": None, "stream": None, "n": None},
    ],
)
def test_what_asks_for_nothing_special_is_taken(changes: dict[str, Any]) -> None:
    assert ask(**changes).messages == (Message(role="user", content="Hello."),)


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"n": 2}, "n", "cannot honour n"),
        ({"tools": [{}]}, "tools", "cannot honour tools"),
        ({"tool_choice": "auto"}, "tool_choice", "cannot honour"),
        ({"functions": [{}]}, "functions", "cannot honour"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "cannot honour"),
        ({"frequency_penalty": False}, "frequency_penalty", "cannot honour"),
        ({"n": True}, "n", "cannot honour"),
        ({"logprobs": True}, "logprobs", "cannot honour"),
        ({"logit_bias": {"50256": -100}}, "logit_bias", "cannot honour"),
        ({"presence_penalty": 0.5}, "presence_penalty", "cannot honour"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "cannot honour"),
        ({"model": None}, "model", "model is missing"),
        ({"model": 5}, "model", "got 5"),
        ({"messages": "hi"}, "messages", "got a text of 2 characters"),
        ({"messages": [HELLO] * 5}, "messages", "may hold 4 messages, got 5"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "no tools here"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "is missing"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, "messages[0].tool_calls", "tool"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0]",
            "no pictures",
        ),
        ({"temperature": "hot"}, "temperature", "a number from 0 to 2, got a text"),
        ({"temperature": True}, "temperature", "got true"),
        ({"top_p": 0}, "top_p", "above 0"),
        ({"max_tokens": 0}, "max_tokens", "a whole number from 1"),
        ({"max_tokens": 1.5}, "max_tokens", "got 1.5"),
        ({"seed": 1 << 70}, "seed", "a whole number"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4"),
        ({"stop": ""}, "stop", "none of them empty"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "true or false"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(changes: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(Refusal, match=words.replace("[", r"\[")) as refused:
        ask(**changes)
    assert refused.value.status == 400
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "must be JSON"),
        (b"{", "must be JSON"),
        (b"[]", "must be a JSON object, got a list"),
        (b"\xff\xfe", "must be JSON in UTF-8"),
        (b'{"temperature": NaN}', "NaN is no JSON number"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"seed": ' + b"9" * 10_000 + b"}", "must be JSON"),
        (b'{"model": "a", "messages": [{"role": "user", "content": "\\ud800"}]}', "lone surrogate at character 0"),
    ],
)
def test_what_is_no_json_is_refused_in_one_sentence(raw: bytes, words: str) -> None:
    assert words in refusal(raw).message


def test_text_parts_are_joined_and_developers_are_the_system() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    assert ask(messages=messages).messages == (
        Message(role="system", content="Be brief."),
        Message(role="user", content="Hello."),
    )


def test_the_newer_name_for_the_token_limit_wins() -> None:
    assert ask(max_tokens=5, max_completion_tokens=7).max_tokens == 7


@pytest.mark.parametrize("prompt", [["a", "b"], [1, 2], "", [], None, 5])
def test_a_completion_takes_one_text(prompt: object) -> None:
    with pytest.raises(Refusal, match="prompt"):
        text_ask(json.dumps({"model": "assistant", "prompt": prompt}).encode())


def test_a_refusal_never_repeats_what_was_sent() -> None:
    with pytest.raises(Refusal) as refused:
        ask(messages=[{"role": "user", "content": {"secret": "swordfish"}}])
    assert "swordfish" not in refused.value.message
