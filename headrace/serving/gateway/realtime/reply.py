"""What a client gets of one answer: its events from `response.created` to `response.done`, however it ends."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from headrace.serving.gateway.realtime.answering import MS_BYTES, PIECE_BYTES, SpokenSentence
from headrace.serving.gateway.realtime.server_events import ServerEvents
from headrace.serving.gateway.refusals import Refusal
from headrace.voice.turns import Item

Send = Callable[[bytes], Awaitable[None]]


@dataclass(kw_only=True, eq=False)
class Reply:
    """Attributes:
    item: the answer's item as it was when the answer began.
    before: the item in front of it.
    sent: called with the milliseconds of each piece of audio that was sent.
    """

    events: ServerEvents
    send: Send
    item: Item
    before: str | None
    speaks: bool
    is_wanted: Callable[[], bool]
    sent: Callable[[int], None]
    said: list[str] = field(default_factory=list)
    is_ended: bool = False
    is_cut: bool = False

    @property
    def id(self) -> str:
        return f"resp_{self.item.id}"

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

    async def sentence(self, sentence: SpokenSentence, *, from_byte: int = 0) -> None:
        """Sends a sentence, its audio from that byte on; stops where it is no longer wanted."""
        text = sentence.text if not self.said else f" {sentence.text}"
        self.said.append(sentence.text)
        kind = "response.output_audio_transcript.delta" if self.speaks else "response.output_text.delta"
        await self.send(self.events.event(kind, **self._where, delta=text))
        for start in range(from_byte, len(sentence.pcm), PIECE_BYTES):
            if not self.is_wanted():
                return
            piece = sentence.pcm[start : start + PIECE_BYTES]
            self.sent(len(piece) // MS_BYTES)
            await self.send(self.events.audio(self._where, piece))

    async def end(self, item: Item, status: str, *, reason: str = "", failed: Refusal | None = None) -> None:
        """Args:
        item: as it is now.
        status: completed, cancelled, incomplete or failed.
        """
        if self.is_ended:
            return
        self.is_ended, self.is_cut = True, status == "cancelled"
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
        details: dict[str, Any] = {"type": status, **({"reason": reason} if reason else {})}
        if failed is not None:
            details["error"] = {"type": failed.kind, "code": failed.code, "message": failed.message}
        body = self._response(status) | {"output": [told], "status_details": None if is_whole else details}
        await self.send(events.event("response.done", response=body))

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
