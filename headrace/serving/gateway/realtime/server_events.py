"""The events that a client gets, in the names and shapes of OpenAI's Realtime API: of its beta, or of what followed it.

| since | in the beta |
|---|---|
| `response.output_audio.delta`, `.done` | `response.audio.delta`, `.done` |
| `response.output_audio_transcript.delta`, `.done` | `response.audio_transcript.delta`, `.done` |
| `response.output_text.delta`, `.done` | `response.text.delta`, `.done` |
| `conversation.item.added`, then `conversation.item.done` | `conversation.item.created` |
| parts of an item: `output_audio`, `output_text` | `audio`, `text` |
"""

import base64
from itertools import count
from typing import Any

from headrace.serving.gateway.http_messages import json_body
from headrace.serving.gateway.refusals import Refusal
from headrace.voice.turns import Item

_BETA = {
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done",
    "response.output_text.delta": "response.text.delta",
    "response.output_text.done": "response.text.done",
}


class ServerEvents:
    """Writes events with ids of their own."""

    def __init__(self, *, is_beta: bool) -> None:
        self.is_beta = is_beta
        self._numbers = count(1)

    def event(self, kind: str, **fields: Any) -> bytes:
        kind = _BETA.get(kind, kind) if self.is_beta else kind
        return json_body({"type": kind, "event_id": f"event_{next(self._numbers):06d}", **fields})

    def error(self, refusal: Refusal, *, event_id: str | None = None) -> bytes:
        error = {
            "type": refusal.kind,
            "code": refusal.code,
            "message": refusal.message,
            "param": refusal.param,
            "event_id": event_id,
        }
        return self.event("error", error=error)

    def item_came(self, item: Item, *, before: str | None, is_audio: bool, is_whole: bool = True) -> list[bytes]:
        """A new item. Args: before: the item in front of it."""
        told = {"previous_item_id": before, "item": self.item(item, is_audio=is_audio, is_whole=is_whole)}
        if self.is_beta:
            return [self.event("conversation.item.created", **told)]
        added = self.event("conversation.item.added", **told)
        return [added, self.event("conversation.item.done", **told)] if is_whole else [added]

    def item_ended(self, item: Item, *, before: str | None, is_audio: bool, is_whole: bool) -> list[bytes]:
        if self.is_beta:
            return []
        told = self.item(item, is_audio=is_audio, is_whole=is_whole)
        return [self.event("conversation.item.done", previous_item_id=before, item=told)]

    def item(self, item: Item, *, is_audio: bool, is_whole: bool, is_open: bool = False) -> dict[str, Any]:
        status = "in_progress" if is_open else "completed" if is_whole else "incomplete"
        part: dict[str, Any]
        if item.by != "assistant":
            part = {"type": "input_audio", "transcript": item.text} if is_audio else self._text(item)
        else:
            text = " ".join(sentence.text for sentence in item.sentences)
            part = {"type": self._part(is_audio=is_audio), "transcript" if is_audio else "text": text}
        return {
            "id": item.id,
            "object": "realtime.item",
            "type": "message",
            "status": status,
            "role": item.by,
            "content": [] if is_open else [part],
        }

    def part(self, text: str, *, is_audio: bool) -> dict[str, Any]:
        return {"type": "audio", "transcript": text} if is_audio else {"type": "text", "text": text}

    def audio(self, where: dict[str, Any], pcm: bytes) -> bytes:
        return self.event("response.output_audio.delta", **where, delta=base64.b64encode(pcm).decode())

    def _part(self, *, is_audio: bool) -> str:
        if self.is_beta:
            return "audio" if is_audio else "text"
        return "output_audio" if is_audio else "output_text"

    @staticmethod
    def _text(item: Item) -> dict[str, Any]:
        return {"type": "input_text", "text": item.text}
