"""OpenAI's request and response bodies, as far as a service with a fixed version set can use them.

Unknown fields are ignored, as by OpenAI's own servers. Fields that would change the answer but that a version set
cannot honour (`tools`, `n` above 1, `response_format` …) are refused: an answer that silently ignores a request is
worse than none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headrace.engines.base import Message
from headrace.engines.chain import Conversation
from headrace.serving.gateway.body_fields import encodable, flag, number, object_of, refuse_unless_nothing, whole, wrong
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
    body = object_of(raw)
    written = body.get("messages")
    if not isinstance(written, list) or not written:
        raise wrong("messages", "a list of at least one message", written)
    if len(written) > num_messages_max:
        raise invalid(
            f"messages may hold {num_messages_max} messages, got {len(written)}; leave out the oldest.",
            param="messages",
        )
    messages = tuple([_message(index, message) for index, message in enumerate(written)])
    # The new name and the old one.
    tokens, older = (whole(body, name, 1, _TOKENS_MAX) for name in ("max_completion_tokens", "max_tokens"))
    return _ask(body, "chat", messages, max_tokens=older if tokens is None else tokens)


def text_ask(raw: bytes) -> Ask:
    """Raises: Refusal: the body is not a (legacy) completion request that can be answered here."""
    body = object_of(raw)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise wrong("prompt", "one text that is not empty (several prompts are several requests)", prompt)
    message = Message(role="user", content=encodable("prompt", prompt))
    return _ask(body, "text", (message,), max_tokens=whole(body, "max_tokens", 1, _TOKENS_MAX))


def model_must_be(model: str, service: str) -> None:
    """Raises: Refusal: the request names another service."""
    if model != service:
        raise Refusal(
            404,
            f"The model {model!r} does not exist here; this gateway serves {service!r}.",
            param="model",
            code="model_not_found",
        )


def _ask(
    body: Mapping[str, Any], kind: Literal["chat", "text"], messages: tuple[Message, ...], max_tokens: int | None
) -> Ask:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise wrong("model", "the name of a model", model)
    refuse_unless_nothing(body, ASKS_FOR_NOTHING)
    stream = flag(body, "stream")
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise wrong("stream_options", "an object", options)
    return Ask(
        kind=kind,
        model=encodable("model", model),
        messages=messages,
        temperature=number(body, "temperature", 0, 2),
        top_p=number(body, "top_p", 0, 1, above=True),
        max_tokens=max_tokens,
        seed=whole(body, "seed", -(1 << 63), (1 << 63) - 1),
        stop=_stops(body.get("stop")),
        stream=stream,
        include_usage=bool(options) and flag(options, "include_usage", "stream_options.include_usage"),
    )


def _message(index: int, message: Any) -> Message:
    where = f"messages[{index}]"
    if not isinstance(message, dict):
        raise wrong(where, "an object with role and content", message)
    written = message.get("role")
    role = _ROLES.get(written) if isinstance(written, str) else None
    if role is None:
        raise wrong(f"{where}.role", "one of system, developer, user, assistant (there are no tools here)", written)
    for call in ("tool_calls", "function_call"):
        # Messages that OpenAI's client returns from an answer have these fields, empty.
        if message.get(call) not in (None, []):
            raise invalid(f"{where} calls a tool, and this service has none.", param=f"{where}.{call}")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join([_part(f"{where}.content[{place}]", part) for place, part in enumerate(content)])
    if not isinstance(content, str):
        raise wrong(f"{where}.content", "a text, or a list of text parts", content)
    return Message(role=role, content=encodable(f"{where}.content", content))


def _part(where: str, part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise wrong(where, 'a text part ({"type": "text", "text": …}; no pictures or sound here)', part)
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
        raise wrong("stop", f"a text or a list of at most {_NUM_STOPS_MAX} texts, none of them empty", value)
    return tuple([encodable("stop", stop) for stop in stops])
