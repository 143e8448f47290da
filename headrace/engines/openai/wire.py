"""OpenAI's chat protocol as servers speak it: writes bodies, reads answers and event streams.

Accepts all differences between servers: comments and blank lines between events, `data:` without a space, any line end,
a byte order mark, `[DONE]` or none, a usage event or none, an error as an event, content as a list of parts, a
character's two halves in two events. Anything else is `AnswerBroken`; an invalid count becomes None, with a note. What
leaves this module cannot fail later for its type, range or characters.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from headrace.engines.base import Turn
from headrace.engines.openai.meaning import COUNT_MAX, FinishReason, finish_reason, policy_in, status_in
from headrace.masking import Mask

# Servers disagree on the width of a seed; all accept 31 bits.
SEED_MASK = 0x7FFFFFFF
_SHOWN_CHARACTERS_MAX = 200
_SHOWN_BYTES_MAX = 65_536
_PARTS_OF_TEXT = frozenset({"text", "output_text"})
_PARTS_OF_THOUGHT = frozenset({"thinking", "reasoning", "reasoning_content"})


class AnswerBroken(Exception):
    """The answer is not a chat completion, ends in its middle, or reports that the server failed.

    `status`: the reported failure's; None: there is none. `by_policy`: what was asked for is refused.
    """

    def __init__(self, message: str, *, status: int | None = None, by_policy: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.by_policy = by_policy


@dataclass(slots=True)
class Event:
    """One event of a stream, or a whole answer. Counts are None if the server sent none, or an invalid one; then
    `notes` say so.

    `num_characters`: all that it adds, including a thinking model's thoughts, which are not part of the text.
    """

    text: str = ""
    num_characters: int = 0
    finish_reason: FinishReason | None = None
    num_prompt_tokens: int | None = None
    num_output_tokens: int | None = None
    notes: list[str] = field(default_factory=list)


def chat_fields(turn: Turn, model: str) -> dict[str, Any]:
    """The fields of a request."""
    fields: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in turn.messages],
        "temperature": turn.temperature,
        "top_p": turn.top_p,
        "max_tokens": turn.max_tokens,
        "seed": turn.seed & SEED_MASK,
    }
    if turn.stop:
        fields["stop"] = list(turn.stop)
    return fields


def chat_body(fields: Mapping[str, Any], *, stream: bool = False, with_usage: bool = False) -> bytes:
    """Args: fields: of `chat_fields`."""
    body = dict(fields)
    if stream:
        body["stream"] = True
        if with_usage:
            body["stream_options"] = {"include_usage": True}
    return json.dumps(body).encode()


class EventLines:
    """Cuts the bytes of an event stream into the data of its events.

    Each `data:` line counts as its own event: no server splits one over several lines, and some omit the blank line in
    between.
    """

    def __init__(self) -> None:
        self._kept = b""
        self._is_first = True
        self.is_done = False

    @property
    def num_bytes_kept(self) -> int:
        """The length of an unfinished line."""
        return len(self._kept)

    def feed(self, raw: bytes) -> Iterator[bytes]:
        lines = (self._kept + raw).splitlines(keepends=True)
        self._kept = b"" if not lines or lines[-1].endswith((b"\n", b"\r")) else lines.pop()
        for line in lines:
            if self._is_first:
                self._is_first = False
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.startswith(b"data:"):
                data = line[5:].strip()
                if data == b"[DONE]":
                    self.is_done = True
                elif data:
                    yield data

    def rest(self) -> Iterator[bytes]:
        """The text after the last line end, once the stream has ended."""
        return self.feed(b"\n")


def is_event_stream(first: bytes) -> bool:
    """Judges by the first bytes, as lines of an event stream begin; ignores the content type."""
    return first.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"data:", b"event:", b"id:", b"retry:", b":"))


def parse_event(data: bytes, mask: Mask) -> Event:
    """Raises: AnswerBroken: the data is not an event of a chat completion, or reports that the server failed."""
    return _parsed(data, "delta", mask)


def parse_answer(raw: bytes, mask: Mask) -> Event:
    """Raises: AnswerBroken: the body is not a chat completion, or reports that the server failed."""
    event = _parsed(raw, "message", mask)
    event.text = joined_halves(event.text)
    event.finish_reason = event.finish_reason or "stop"
    return event


def joined_halves(text: str) -> str:
    """The text with split characters joined. Raises: AnswerBroken: a half is missing."""
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise AnswerBroken("it has half a character (a surrogate without its pair)") from None
    return text


class Halves:
    """Holds back a text's last half character until the next event brings the other half."""

    def __init__(self) -> None:
        self._kept = ""

    def feed(self, text: str) -> str:
        """Raises: AnswerBroken: a half is missing."""
        text, self._kept = self._kept + text, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._kept = text[:-1], text[-1]
        return joined_halves(text)

    def end(self) -> None:
        """Raises: AnswerBroken: the answer ends with half a character."""
        if self._kept:
            joined_halves(self._kept)


def refusal_text(raw: bytes, mask: Mask) -> str:
    """A server's reason for a refusal, as one printable line without our secrets."""
    text = raw.decode(errors="replace")
    try:
        body = json.loads(text)
        error = body.get("error", body.get("detail", body)) if isinstance(body, dict) else body
        text = _details(error) or str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, RecursionError):
        pass
    # Masked before cutting, so that no half of a secret remains; and again after line ends, which may have split one.
    text = mask(" ".join(mask(text).split()))
    return text.encode(errors="replace").decode()[:_SHOWN_CHARACTERS_MAX] or "nothing"


def _details(error: object) -> str:
    """FastAPI's list of faults as a text, such as `body.size: must be WxH`; empty: it is none."""
    if not isinstance(error, list) or not all(isinstance(one, dict) and "msg" in one for one in error):
        return ""
    places = [one.get("loc") for one in error]
    named = [".".join(map(str, place)) if isinstance(place, list) else "" for place in places]
    return "; ".join(f"{name}: {one['msg']}".removeprefix(": ") for name, one in zip(named, error, strict=True))


def is_policy(raw: bytes) -> bool:
    """Whether a refusal's body says that what was asked for is refused, and not how it was asked."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return isinstance(body, dict) and policy_in(body)


def body_of(raw: bytes, named: str, mask: Mask) -> dict[str, Any]:
    """An answer's JSON object.

    Args:
        named: what the answer should be, for errors. They quote the answer, cut to one line: it is masked before it is
            cut.

    Raises: AnswerBroken: it is none, or reports that the server failed.
    """
    shown = raw[:_SHOWN_BYTES_MAX]
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise AnswerBroken(f"no {named} ({type(error).__name__}): {refusal_text(shown, mask)}") from None
    if not isinstance(body, dict):
        raise AnswerBroken(f"no {named}: {refusal_text(shown, mask)}")
    if body.get("error") or body.get("object") == "error":
        said = f"the server says: {refusal_text(shown, mask)}"
        raise AnswerBroken(said, status=status_in(body), by_policy=policy_in(body))
    return body


def _parsed(raw: bytes, part: str, mask: Mask) -> Event:
    body, shown = body_of(raw, "chat completion", mask), raw[:_SHOWN_BYTES_MAX]
    event = Event()
    _count(event, body.get("usage"))
    choices = body.get("choices")
    if not choices:
        if part == "message":
            raise AnswerBroken(f"no chat completion: {refusal_text(shown, mask)}")
        return event
    choice = choices[0] if isinstance(choices, list) else None
    said = (choice.get(part) or {}) if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(said, dict):
        raise AnswerBroken(f"no chat completion: {refusal_text(shown, mask)}")
    event.text, num_thought = _said(said.get("content"))
    thought = said.get("reasoning_content") or said.get("reasoning")
    event.num_characters = len(event.text) + num_thought + (len(thought) if isinstance(thought, str) else 0)
    try:
        event.finish_reason = finish_reason(choice.get("finish_reason"))
    except ValueError as error:
        raise AnswerBroken(str(error)) from None
    return event


def _said(content: object) -> tuple[str, int]:
    """The text of a message's content, and how many of its parts are thoughts."""
    if content is None:
        return "", 0
    if isinstance(content, str):
        return content, 0
    if not isinstance(content, list):
        raise AnswerBroken(f"no chat completion: its content is of type {type(content).__name__}, not text")
    texts: list[str] = []
    num_thoughts = 0
    for part in content:
        kind, text = (part.get("type", "text"), part.get("text")) if isinstance(part, dict) else ("text", part)
        if isinstance(kind, str) and kind in _PARTS_OF_THOUGHT:
            num_thoughts += 1
        elif isinstance(kind, str) and kind in _PARTS_OF_TEXT and isinstance(text, str):
            texts.append(text)
        else:
            raise AnswerBroken(f"no chat completion: a part of its content is no text ({str(kind)[:40]})")
    return "".join(texts), num_thoughts


def _count(event: Event, usage: object) -> None:
    if usage is None:
        return
    if not isinstance(usage, dict):
        event.notes.append(f"usage is of type {type(usage).__name__}: not counted")
        return
    event.num_prompt_tokens = _tokens(event, usage, "prompt_tokens")
    event.num_output_tokens = _tokens(event, usage, "completion_tokens")


def _tokens(event: Event, usage: dict[str, Any], name: str) -> int | None:
    value = usage.get(name)
    if value is None:
        return None
    whole = int(value) if isinstance(value, float) and isfinite(value) and value.is_integer() else value
    if isinstance(whole, int) and not isinstance(whole, bool) and 0 <= whole <= COUNT_MAX:
        return whole
    event.notes.append(f"usage.{name} is {_shown_count(value)}: not counted")
    return None


def _shown_count(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return f"of type {type(value).__name__}"
    if isinstance(value, str):
        return "a text"
    return f"{value:.6g}" if isinstance(value, float) or abs(value) < 10**15 else "a number of many digits"
