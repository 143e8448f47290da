"""What a client gets of one answer: its events from `response.created` to `response.done`, however it ends."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from headrace.serving.gateway.realtime.answering import MS_BYTES, PIECE_BYTES, SpokenSentence
from headrace.serving.gateway.realtime.server_events import ServerEvents
from headrace.serving.gateway.refusals import Refusal
from headrace.voice.turns import Item

Send = Callable[[bytes], Awaitable[None]]

FAILED, TOO_LONG = "failed", "max_output_tokens"
"""Reasons in turn events: the answer could not be made; the writer stopped at its limit."""


@dataclass(kw_only=True, eq=False)
class Reply:
    """Attributes:
    item: the answer's item as it was when the answer began.
    before: the item in front of it.
    is_newest: whether no answer has begun since.
    sent: called with the milliseconds of each piece of audio that was sent.
    is_cut: nothing more of it is sent but its end.
    has_begun, has_ended: its client was told.
    """

    events: ServerEvents
    send: Send
    item: Item
    before: str | None
    speaks: bool
    is_newest: Callable[[], bool]
    sent: Callable[[int], None]
    said: list[str] = field(default_factory=list)
    is_ended: bool = False
    is_cut: bool = False
    has_begun: asyncio.Event = field(default_factory=asyncio.Event)
    has_ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> str:
        return f"resp_{self.item.id}"

    @property
    def is_wanted(self) -> bool:
        """Whether what is made for it is still sent."""
        return self.is_newest() and not self.is_ended and not self.is_cut

    async def begin(self) -> None:
        events, item = self.events, self.item
        await self.send(events.event("response.created", response=self._response("in_progress")))
        told = events.item(item, is_audio=self.speaks, is_whole=False, is_open=True)
        await self.send(events.event("response.output_item.added", response_id=self.id, output_index=0, item=told))
        for event in events.item_came(item, before=self.before, is_audio=self.speaks, is_whole=False):
            await self.send(event)
        await self.send(
            events.event("response.content_part.added", **self._where, part=events.part("", is_audio=self.speaks))
        )
        self.has_begun.set()

    async def sentence(self, sentence: SpokenSentence, *, from_byte: int = 0) -> None:
        """Sends a sentence, its audio from that byte on, once the answer has begun; stops where it is not wanted."""
        await self.has_begun.wait()
        if not self.is_wanted:
            return
        text = sentence.text if not self.said else f" {sentence.text}"
        self.said.append(sentence.text)
        kind = "response.output_audio_transcript.delta" if self.speaks else "response.output_text.delta"
        await self.send(self.events.event(kind, **self._where, delta=text))
        for start in range(from_byte, len(sentence.pcm), PIECE_BYTES):
            if not self.is_wanted:
                return
            piece = sentence.pcm[start : start + PIECE_BYTES]
            self.sent(len(piece) // MS_BYTES)
            await self.send(self.events.audio(self._where, piece))

    async def end(self, item: Item, *, failed: Refusal | None = None) -> None:
        """Tells how the answer ended, once it has begun. Args: item: as it is now. failed: why."""
        if self.is_ended:
            return
        status = _status(item)
        self.is_ended, self.is_cut = True, status == "cancelled"
        await self.has_begun.wait()
        events, is_whole = self.events, status == "completed"
        text = " ".join(self.said)
        if self.speaks:
            await self.send(events.event("response.output_audio.done", **self._where))
            await self.send(events.event("response.output_audio_transcript.done", **self._where, transcript=text))
        else:
            await self.send(events.event("response.output_text.done", **self._where, text=text))
        await self.send(
            events.event("response.content_part.done", **self._where, part=events.part(text, is_audio=self.speaks))
        )
        told = events.item(item, is_audio=self.speaks, is_whole=is_whole)
        await self.send(events.event("response.output_item.done", response_id=self.id, output_index=0, item=told))
        for event in events.item_ended(item, before=self.before, is_audio=self.speaks, is_whole=is_whole):
            await self.send(event)
        details: dict[str, Any] = {"type": status}
        if status != "failed":
            details["reason"] = item.reason
        elif failed is not None:
            details["error"] = {"type": failed.kind, "code": failed.code, "message": failed.message}
        body = self._response(status) | {"output": [told], "status_details": None if is_whole else details}
        await self.send(events.event("response.done", response=body))
        self.has_ended.set()

    @property
    def _where(self) -> dict[str, Any]:
        return {"response_id": self.id, "item_id": self.item.id, "output_index": 0, "content_index": 0}

    def _response(self, status: str) -> dict[str, Any]:
        usage = {"total_tokens": 0, "input_tokens": 0, "output_tokens": 0} if status != "in_progress" else None
        modalities = ["audio"] if self.speaks else ["text"]
        named = {"modalities": ["audio", "text"] if self.speaks else ["text"]} if self.events.is_beta else {}
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "status_details": None,
            "output": [],
            "output_modalities": modalities,
            "usage": usage,
            **named,
        }


def _status(item: Item) -> str:
    """How an answer ended, in the API's word."""
    if item.is_cut:
        return "failed" if item.reason == FAILED else "cancelled"
    return "incomplete" if item.reason else "completed"
