"""Turns and answers on the wire, in OpenAI's shapes: one alone, one in pieces, and a batch that is made together.

A batch is one request, so that no batch of an engine is ever cut in two: lines as OpenAI's Batch API has them, answered
by as many lines in the same order. Media are bytes behind the last line, in the order of the lines, and never Base64.
Beside OpenAI's fields stand ours (`replica`, `note`, each count by itself), so that what a client gets is equal to what
the engine gave.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from headrace.engines.base import Answer, EngineFailed, Message, NoAnswer, Piece, Turn
from headrace.engines.host.outcomes import error_body, error_of, status_of
from headrace.engines.media import MediaAnswer, MediaTurn
from headrace.engines.openai.meaning import FinishReason
from headrace.engines.openai.wire import chat_body, chat_fields
from headrace.errors import HeadraceError
from headrace.store.small_objects import Record

CHAT, BATCHES, MODELS = "/v1/chat/completions", "/v1/batches", "/v1/models"
METRICS = "/metrics"
# Of a model's process alone.
SLEEP, WAKE = "/sleep", "/wake"
_PICTURES, _SPEECH = "/v1/images/generations", "/v1/audio/speech"
_MADE = 200


def num_lines(batch: bytes) -> int:
    """How many turns a request for a batch has, without reading them; at least one."""
    return max(1, batch.count(b"\n"))


@dataclass(frozen=True, kw_only=True)
class Chat:
    """OpenAI's request for a chat completion. `stream`: in pieces."""

    messages: tuple[Message, ...]
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    stop: tuple[str, ...] = ()
    stream: bool = False

    def turn(self, unit: str) -> Turn:
        return Turn(
            unit=unit,
            messages=self.messages,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            seed=self.seed,
            stop=self.stop,
        )


@dataclass(frozen=True, kw_only=True)
class _Medium:
    """OpenAI's request for a picture or a recording: the text is its `prompt` or its `input`."""

    seed: int
    prompt: str = ""
    input: str = ""
    speed: float | None = None


@dataclass(frozen=True, kw_only=True)
class _ChatLine:
    custom_id: str
    body: Chat


@dataclass(frozen=True, kw_only=True)
class _MediumLine:
    custom_id: str
    body: _Medium


@dataclass(frozen=True, kw_only=True)
class _Said:
    """The text of a message, or of one of its pieces."""

    content: str


@dataclass(frozen=True, kw_only=True)
class _Usage:
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True, kw_only=True)
class _Choice:
    message: _Said
    finish_reason: FinishReason


@dataclass(frozen=True, kw_only=True)
class _Completion:
    choices: tuple[_Choice]
    usage: _Usage
    replica: str
    note: str


@dataclass(frozen=True, kw_only=True)
class _Beginning:
    delta: _Said
    finish_reason: FinishReason | None


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    choices: tuple[_Beginning]
    usage: _Usage
    replica: str


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A medium, whose bytes follow behind the lines."""

    num_bytes: int
    replica: str
    note: str
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Response:
    status_code: int
    body: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Line:
    response: _Response


CHAT_BODY = Record("Request of a chat", Chat)
_CHAT_LINE, _MEDIUM_LINE = Record("Line of a batch", _ChatLine), Record("Line of a batch", _MediumLine)
_LINE, _COMPLETION, _MADE_BODY = Record("Line", _Line), Record("Chat completion", _Completion), Record("Medium", _Made)
_CHUNK = Record("Piece of a chat completion", _Chunk)


# --- what is asked ---


def chat_request(turn: Turn, model: str, *, stream: bool) -> bytes:
    return chat_body(_chat(turn, model), stream=stream)


def text_lines(turns: Sequence[Turn], model: str) -> bytes:
    """The request of a batch of texts."""
    return _lines({"custom_id": turn.unit, **_post(CHAT), "body": _chat(turn, model)} for turn in turns)


def media_lines(turns: Sequence[MediaTurn], model: str, *, is_speech: bool) -> bytes:
    """The request of a batch of pictures or recordings. Their sizes and voices are the member's."""
    name, url = ("input", _SPEECH) if is_speech else ("prompt", _PICTURES)
    return _lines(
        {
            "custom_id": turn.unit,
            **_post(url),
            "body": {"model": model, name: turn.text, "seed": turn.seed, "speed": turn.speed},
        }
        for turn in turns
    )


def turns_in(raw: bytes) -> list[Turn]:
    """Raises: ValueError: a line is none of a batch of texts."""
    return [line.body.turn(line.custom_id) for line in map(_CHAT_LINE.checked, raw.splitlines())]


def media_turns_in(raw: bytes) -> list[MediaTurn]:
    """Raises: ValueError: a line is none of a batch of media."""
    lines = [_MEDIUM_LINE.checked(line) for line in raw.splitlines()]
    return [
        MediaTurn(
            unit=line.custom_id, text=line.body.prompt or line.body.input, seed=line.body.seed, speed=line.body.speed
        )
        for line in lines
    ]


# --- what is answered ---


def completion(answer: Answer, model: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": answer.text}}
    return {
        "object": "chat.completion",
        "model": model,
        "choices": [choice | {"finish_reason": answer.finish_reason}],
        "usage": _usage(answer),
        "replica": answer.replica,
        "note": answer.note,
    }


def event(piece: Piece, model: str) -> bytes:
    """A server-sent event."""
    chunk = {
        "object": "chat.completion.chunk",
        "model": model,
        "choices": [{"index": 0, "delta": {"content": piece.text}, "finish_reason": piece.finish_reason}],
        "usage": _usage(piece),
        "replica": piece.replica,
    }
    return _event(chunk)


def error_event(error: HeadraceError) -> bytes:
    """The last event of a stream that fails."""
    return _event(error_body(error))


DONE = b"data: [DONE]\n\n"


def outcome_lines(units: Sequence[str], outcomes: Sequence[Answer | MediaAnswer | NoAnswer], model: str) -> list[bytes]:
    """The answer to a batch, in parts: its lines, then the bytes of each medium."""
    lines = _lines(
        {"custom_id": unit, "response": _response(outcome, model), "error": None}
        for unit, outcome in zip(units, outcomes, strict=True)
    )
    return [lines, *(one.content for one in outcomes if isinstance(one, MediaAnswer))]


def answer_in(raw: bytes) -> Answer:
    """Raises: EngineFailed: it is no chat completion of ours."""
    told = _read(_COMPLETION, raw)
    return Answer(
        text=told.choices[0].message.content,
        finish_reason=told.choices[0].finish_reason,
        num_prompt_tokens=told.usage.prompt_tokens,
        num_output_tokens=told.usage.completion_tokens,
        replica=told.replica,
        note=told.note,
    )


def piece_in(data: bytes) -> Piece:
    """Raises: HeadraceError: what the event tells; EngineFailed: it cannot be read."""
    if data.startswith(b'{"error"'):
        raise error_of(json.loads(data))
    told = _read(_CHUNK, data)
    choice = told.choices[0]
    return Piece(
        text=choice.delta.content,
        finish_reason=choice.finish_reason,
        num_prompt_tokens=told.usage.prompt_tokens,
        num_output_tokens=told.usage.completion_tokens,
        replica=told.replica,
    )


def answers_in(raw: bytes, num_turns: int) -> list[Answer | NoAnswer]:
    """Raises: EngineFailed: it is no answer to a batch of texts."""
    bodies, _ = _bodies(raw, num_turns)
    return [one if isinstance(one, NoAnswer) else answer_in(json.dumps(one).encode()) for one in bodies]


def media_in(raw: bytes, num_turns: int) -> list[MediaAnswer | NoAnswer]:
    """Raises: EngineFailed: it is no answer to a batch of media."""
    bodies, start = _bodies(raw, num_turns)
    found: list[MediaAnswer | NoAnswer] = []
    for body in bodies:
        if isinstance(body, NoAnswer):
            found.append(body)
            continue
        told = _read(_MADE_BODY, json.dumps(body).encode())
        content = raw[start : start + told.num_bytes]
        start += told.num_bytes
        if len(content) != told.num_bytes:
            raise _unread("a medium is not whole")
        found.append(MediaAnswer(content=content, replica=told.replica, note=told.note, attributes=told.attributes))
    return found


# --- parts ---


def _chat(turn: Turn, model: str) -> dict[str, Any]:
    # All of the seed's bits: other servers take 31.
    return chat_fields(turn, model) | {"seed": turn.seed}


def _post(url: str) -> dict[str, str]:
    return {"method": "POST", "url": url}


def _usage(answer: Answer | Piece) -> dict[str, int | None]:
    return {"prompt_tokens": answer.num_prompt_tokens, "completion_tokens": answer.num_output_tokens}


def _response(outcome: Answer | MediaAnswer | NoAnswer, model: str) -> dict[str, Any]:
    if isinstance(outcome, HeadraceError):
        return {"status_code": status_of(outcome), "body": error_body(outcome)}
    if isinstance(outcome, Answer):
        return {"status_code": _MADE, "body": completion(outcome, model)}
    made = _Made(
        num_bytes=len(outcome.content),
        replica=outcome.replica,
        note=outcome.note,
        attributes=dict(outcome.attributes),
    )
    return {"status_code": _MADE, "body": asdict(made)}


def _lines(bodies: Any) -> bytes:
    return b"".join(json.dumps(body).encode() + b"\n" for body in bodies)


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _bodies(raw: bytes, num_turns: int) -> tuple[list[dict[str, Any] | NoAnswer], int]:
    """Each line's body or error, and where the bytes begin."""
    found: list[dict[str, Any] | NoAnswer] = []
    start = 0
    for _ in range(num_turns):
        end = raw.find(b"\n", start)
        if end < 0:
            raise _unread(f"{len(found)} lines for {num_turns} turns")
        response = _read(_LINE, raw[start:end]).response
        if response.status_code == _MADE:
            found.append(response.body)
        elif isinstance(error := error_of(response.body), NoAnswer):
            found.append(error)
        else:
            raise error
        start = end + 1
    return found, start


def _read(record: "Record[Any]", raw: bytes) -> Any:
    try:
        return record.checked(raw)
    except ValueError as error:
        raise _unread(str(error)) from None


def _unread(why: str) -> EngineFailed:
    return EngineFailed(f"The engine host answered what cannot be read: {why}.", may_be_the_turn=False)
