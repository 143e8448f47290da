"""The words of OpenAI's chat protocol as servers speak it: bodies out, answers and event streams in, statuses judged.

Servers differ, and are all understood: comments and blank lines between events, `data:` without a space, `[DONE]` or
none, a usage event or none, an error as an event, a whole answer where a stream was asked for, other finish reasons.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headrace.serving.dispatch.dispatcher import FailureKind
from headrace.serving.engines.base import FinishReason, Turn

# Servers disagree on the width of a seed; all take 31 bits.
_SEED_MASK = 0x7FFFFFFF
_ERROR_CHARACTERS_MAX = 200
# What servers say instead of OpenAI's own reasons; anything else that ends an answer is a stop.
_FINISH_REASONS: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
}


class AnswerBroken(Exception):
    """What came is no chat completion, or ends in its middle."""


@dataclass(slots=True)
class Event:
    """One event of a stream, or a whole answer. Counts are None where the server did not say.

    `num_characters`: made by it, those of a thinking model's thoughts too, which are no part of the text.
    """

    text: str = ""
    num_characters: int = 0
    finish_reason: FinishReason | None = None
    num_prompt_tokens: int | None = None
    num_output_tokens: int | None = None


def chat_body(turn: Turn, model: str, *, stream: bool, with_usage: bool) -> bytes:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in turn.messages],
        "temperature": turn.temperature,
        "top_p": turn.top_p,
        "max_tokens": turn.max_tokens,
        "seed": turn.seed & _SEED_MASK,
    }
    if turn.stop:
        body["stop"] = list(turn.stop)
    if stream:
        body["stream"] = True
        if with_usage:
            body["stream_options"] = {"include_usage": True}
    return json.dumps(body).encode()


class EventLines:
    """Cuts the bytes of an event stream into the data of its events.

    Each `data:` line counts as an event of its own: no server spreads one over several lines, and some leave out the
    blank line in between.
    """

    def __init__(self) -> None:
        self._kept = b""
        self.is_done = False

    def feed(self, raw: bytes) -> Iterator[bytes]:
        lines = (self._kept + raw).split(b"\n")
        self._kept = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip()
                if data == b"[DONE]":
                    self.is_done = True
                elif data:
                    yield data

    def rest(self) -> Iterator[bytes]:
        """What stands behind the last line end, once the stream has ended."""
        return self.feed(b"\n")


def parse_event(data: bytes) -> Event:
    """Raises: AnswerBroken: the data is no event of a chat completion, or says that the server failed."""
    return _parsed(data, "delta")


def parse_answer(raw: bytes) -> Event:
    """Raises: AnswerBroken: the body is no chat completion."""
    event = _parsed(raw, "message")
    event.finish_reason = event.finish_reason or "stop"
    return event


def judged(status: int, *, with_retry_after: bool) -> FailureKind | None:
    """What a status other than 200 says about turn and replica; None: the turn itself is refused.

    | status | what it means | what happens |
    |---|---|---|
    | 400, 413, 422 | the server refuses this turn | so do we |
    | 429; 503 with Retry-After | it is busy | sent elsewhere, or later |
    | 408, 500, 502-504 | it cannot, or this turn breaks it | sent elsewhere, a few times |
    | 401, 403, 404, other | wrong key, address or model | sent elsewhere; nothing more is sent there for a while |
    """
    if status in (400, 413, 422):
        return None
    if status == 429 or (status == 503 and with_retry_after):
        return "busy"
    if status in (408, 500, 502, 503, 504):
        return "failing"
    return "unusable"


def retry_after_seconds(header: str | None) -> float | None:
    """The header as seconds; None: there is none, or it is a date, which says nothing without their clock."""
    try:
        seconds = float(header) if header else None
    except ValueError:
        return None
    return seconds if seconds is not None and 0 <= seconds < float("inf") else None


def refusal_text(raw: bytes, secrets: tuple[str, ...]) -> str:
    """What a server says of its refusal, in one line and without our key, which some servers repeat."""
    text = raw.decode(errors="replace")
    try:
        body = json.loads(text)
        error = body.get("error", body) if isinstance(body, dict) else body
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except ValueError:
        pass
    for secret in secrets:
        text = text.replace(secret, "***")
    return " ".join(text.split())[:_ERROR_CHARACTERS_MAX] or "nothing"


def _parsed(raw: bytes, part: str) -> Event:
    try:
        body = json.loads(raw)
        if body.get("error"):
            raise AnswerBroken(f"the server says: {refusal_text(raw, ())}")
        usage = body.get("usage") or {}
        event = Event(
            num_prompt_tokens=usage.get("prompt_tokens"),
            num_output_tokens=usage.get("completion_tokens"),
        )
        if choices := body.get("choices"):
            choice = choices[0]
            said = choice.get(part) or {}
            event.text = said.get("content") or ""
            thought = said.get("reasoning_content") or said.get("reasoning") or ""
            event.num_characters = len(event.text) + len(thought)
            if reason := choice.get("finish_reason"):
                event.finish_reason = _FINISH_REASONS.get(reason, "stop")
        elif part == "message":
            raise AnswerBroken(f"no chat completion: {refusal_text(raw, ())}")
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise AnswerBroken(f"no chat completion ({type(error).__name__}): {refusal_text(raw, ())}") from error
    return event
