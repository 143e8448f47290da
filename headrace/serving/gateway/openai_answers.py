"""Answers in OpenAI's shape: whole, or as the server-sent events of a stream.

A stream's events differ in one text each, so the text before and after it is built once for each stream.
"""

import json
from typing import Any

from headrace.serving.gateway.http_messages import json_body
from headrace.serving.gateway.openai_bodies import Ask

# It tells the client that nothing is missing.
DONE = b"data: [DONE]\n\n"


def usage(num_prompt_tokens: int | None, num_output_tokens: int | None) -> dict[str, int] | None:
    """Token counts; None, as in OpenAI's own events, if the engine's server did not report one."""
    if num_prompt_tokens is None or num_output_tokens is None:
        return None
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_output_tokens,
        "total_tokens": num_prompt_tokens + num_output_tokens,
    }


def whole_answer(
    ask: Ask,
    *,
    request: str,
    created: int,
    version_set: str,
    text: str,
    finish: str,
    tokens: tuple[int | None, int | None],
) -> bytes:
    """`tokens`: the engine's counts for prompt and output."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": None}
    if ask.kind == "chat":
        choice["message"] = {"role": "assistant", "content": text, "refusal": None}
    else:
        choice["text"] = text
    head = _head(ask, request, created, version_set, chunk=False)
    return json_body({**head, "choices": [choice], "usage": usage(*tokens)})


class Events:
    """The events of one stream."""

    def __init__(self, ask: Ask, *, request: str, created: int, version_set: str) -> None:
        self._head = _head(ask, request, created, version_set, chunk=True)
        self._is_chat = ask.kind == "chat"
        self._include_usage = ask.include_usage
        # With usage requested, every event but the last has a null usage: OpenAI's own form.
        self._before = json_body(self._head)[:-1] + b',"choices":[{"index":0,'
        self._after = b',"logprobs":null}]' + (b',"usage":null}\n\n' if ask.include_usage else b"}\n\n")

    def text(self, text: str, *, finish: str | None = None, first: bool = False) -> bytes:
        """One piece. Only the last has `finish`; a chat's first piece names the role."""
        written = json.dumps(text).encode()
        ending = b'"' + finish.encode() + b'"' if finish else b"null"
        if self._is_chat:
            role = b'"role":"assistant",' if first else b""
            delta = b"{}" if finish and not text else b"{" + role + b'"content":' + written + b"}"
            choice = b'"delta":' + delta
        else:
            choice = b'"text":' + written
        return b"data: " + self._before + choice + b',"finish_reason":' + ending + self._after

    def last(self, tokens: tuple[int | None, int | None]) -> bytes:
        """The events after the last piece."""
        if not self._include_usage:
            return DONE
        return b"data: " + json_body({**self._head, "choices": [], "usage": usage(*tokens)}) + b"\n\n" + DONE


def broken_off(error_body: bytes) -> bytes:
    """The end of a stream that failed midway: clients raise an error, and there is no [DONE]."""
    return b"data: " + error_body + b"\n\n"


def _head(ask: Ask, request: str, created: int, version_set: str, *, chunk: bool) -> dict[str, Any]:
    is_chat = ask.kind == "chat"
    return {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{request}",
        "object": ("chat.completion.chunk" if chunk else "chat.completion") if is_chat else "text_completion",
        "created": created,
        "model": ask.model,
        # As OpenAI defines the field: the same fingerprint means the same backend.
        "system_fingerprint": version_set,
    }
