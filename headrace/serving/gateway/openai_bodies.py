"""OpenAI's request and response bodies, as far as a service with a fixed version set can use them.

Parsed by hand, not by a schema library: every request passes here, and a message names the field, its value's kind and
the remedy. Unknown fields are ignored, as by OpenAI's own servers. Fields that would change the answer but that a
version set cannot honour (`tools`, `n` above 1, `response_format` …) are refused: an answer that silently ignores a
request is worse than none.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headrace.engines.base import Message
from headrace.engines.chain import Conversation
from headrace.serving.gateway.refusals import Refusal, invalid

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# OpenAI's own limit.
_NUM_STOPS_MAX = 4
_TOKENS_MAX = 1 << 31

# Field → the values, beside null, with which it requests nothing that is missing here.
ASKS_FOR_NOTHING: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "function_call": ("none",),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "modalities": (["text"],),
    "audio": (),
    "echo": (False,),
    "suffix": ("",),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask(Conversation):
    """A client's request to a service. None: not given."""

    kind: Literal["chat", "text"]
    model: str
    seed: int | None = None
    stream: bool = False
    include_usage: bool = False


def chat_ask(raw: bytes, *, num_messages_max: int) -> Ask:
    """Raises: Refusal: the body is not a chat completion request that can be answered here."""
    body = _object(raw)
    written = body.get("messages")
    if not isinstance(written, list) or not written:
        raise _wrong("messages", "a list of at least one message", written)
    if len(written) > num_messages_max:
        raise invalid(
            f"messages may hold {num_messages_max} messages, got {len(written)}; leave out the oldest.",
            param="messages",
        )
    messages = tuple([_message(index, message) for index, message in enumerate(written)])
    # The new name and the old one.
    tokens, older = (_whole(body, name, 1, _TOKENS_MAX) for name in ("max_completion_tokens", "max_tokens"))
    return _ask(body, "chat", messages, max_tokens=older if tokens is None else tokens)


def text_ask(raw: bytes) -> Ask:
    """Raises: Refusal: the body is not a (legacy) completion request that can be answered here."""
    body = _object(raw)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise _wrong("prompt", "one text that is not empty (several prompts are several requests)", prompt)
    message = Message(role="user", content=_encodable("prompt", prompt))
    return _ask(body, "text", (message,), max_tokens=_whole(body, "max_tokens", 1, _TOKENS_MAX))


def model_must_be(ask: Ask, service: str) -> None:
    """Raises: Refusal: the request names another service."""
    if ask.model != service:
        raise Refusal(
            404,
            f"The model {ask.model!r} does not exist here; this gateway serves {service!r}.",
            param="model",
            code="model_not_found",
        )


def _ask(
    body: Mapping[str, Any], kind: Literal["chat", "text"], messages: tuple[Message, ...], max_tokens: int | None
) -> Ask:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise _wrong("model", "the name of a model", model)
    # Most requests lack all of these fields.
    for field in body.keys() & ASKS_FOR_NOTHING.keys():
        if not _asks_for_nothing(field, body[field]):
            raise invalid(
                f"This service cannot honour {field}, and leaving it out would change the answer; send the request "
                "without it.",
                param=field,
                code="unsupported_parameter",
            )
    stream = _flag(body, "stream")
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _wrong("stream_options", "an object", options)
    return Ask(
        kind=kind,
        model=_encodable("model", model),
        messages=messages,
        temperature=_number(body, "temperature", 0, 2),
        top_p=_number(body, "top_p", 0, 1, above=True),
        max_tokens=max_tokens,
        seed=_whole(body, "seed", -(1 << 63), (1 << 63) - 1),
        stop=_stops(body.get("stop")),
        stream=stream,
        include_usage=bool(options) and _flag(options, "include_usage", "stream_options.include_usage"),
    )


def _asks_for_nothing(field: str, value: Any) -> bool:
    # In Python false equals 0 and true equals 1; in JSON they differ.
    is_flag = isinstance(value, bool)
    values = ASKS_FOR_NOTHING[field]
    return value is None or any(value == one and is_flag == isinstance(one, bool) for one in values)


def _object(raw: bytes) -> dict[str, Any]:
    try:
        body = _DECODER.decode(raw.decode())
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise invalid(f"The request's body must be JSON in UTF-8: {reason}.", code="invalid_json") from None
    if not isinstance(body, dict):
        raise invalid(f"The request's body must be a JSON object, got {_kind(body)}.", code="invalid_json")
    return body


def _message(index: int, message: Any) -> Message:
    where = f"messages[{index}]"
    if not isinstance(message, dict):
        raise _wrong(where, "an object with role and content", message)
    written = message.get("role")
    role = _ROLES.get(written) if isinstance(written, str) else None
    if role is None:
        raise _wrong(f"{where}.role", "one of system, developer, user, assistant (there are no tools here)", written)
    for call in ("tool_calls", "function_call"):
        # Messages that OpenAI's client returns from an answer have these fields, empty.
        if message.get(call) not in (None, []):
            raise invalid(f"{where} calls a tool, and this service has none.", param=f"{where}.{call}")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join([_part(f"{where}.content[{place}]", part) for place, part in enumerate(content)])
    if not isinstance(content, str):
        raise _wrong(f"{where}.content", "a text, or a list of text parts", content)
    return Message(role=role, content=_encodable(f"{where}.content", content))


def _part(where: str, part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise _wrong(where, 'a text part ({"type": "text", "text": …}; no pictures or sound here)', part)
    return part["text"]


def _stops(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if (
        not isinstance(stops, list)
        or len(stops) > _NUM_STOPS_MAX
        or not all(isinstance(stop, str) and stop for stop in stops)
    ):
        raise _wrong("stop", f"a text or a list of at most {_NUM_STOPS_MAX} texts, none of them empty", value)
    return tuple([_encodable("stop", stop) for stop in stops])


def _number(body: Mapping[str, Any], field: str, low: float, high: float, *, above: bool = False) -> float | None:
    value = body.get(field)
    if value is None:
        return None
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not low <= value <= high
        or (above and value == low)
    ):
        raise _wrong(
            field, f"a number {'above' if above else 'from'} {low} {'and at most' if above else 'to'} {high}", value
        )
    return float(value)


def _whole(body: Mapping[str, Any], field: str, low: int, high: int) -> int | None:
    value = body.get(field)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        # JSON has one kind of number: 5.0 is a whole one.
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _wrong(field, f"a whole number from {low} to {high}", value)
    return value


def _flag(body: Mapping[str, Any], field: str, where: str = "") -> bool:
    value = body.get(field)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise _wrong(where or field, "true or false", value)
    return value


def _encodable(where: str, text: str) -> str:
    """JSON can spell a lone surrogate, which is not text: it could be neither logged nor sent on."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise invalid(
            f"{where} must be Unicode text, got a lone surrogate at character {error.start}.", param=where
        ) from None
    return text


def _wrong(field: str, wanted: str, got: Any) -> Refusal:
    """Names the kind of the wrong value, not the value: prompts do not belong into logs or error trackers."""
    if got is None:
        return invalid(f"{field} is missing; it must be {wanted}.", param=field)
    return invalid(f"{field} must be {wanted}, got {_kind(got)}.", param=field)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"{value:.6g}" if abs(value) < 1e300 else "a very large number"
        case str():
            return f"a text of {len(value)} characters"
        case list():
            return f"a list of {len(value)}"
    return "an object"


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


# `json.loads` with an argument would build a decoder each time.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
