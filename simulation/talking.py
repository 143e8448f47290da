"""Clients of calls whose connections end anywhere, with barge-ins anywhere, and what each of them must find.

The writer names turn and sentence in every sentence, so a client knows what it hears:

- *stale*: a sentence of an answer that its client had cut, after the cut was told; or of another answer,
- *lost*: a turn that was acknowledged and never answered, or an answer that lacks audio or was cut by nobody,
- *twice*: a turn answered by two items, or audio that came twice,
- *context*: a question whose messages are not what was said and played before.

The writer must have been asked every turn but one kind: its client cut the answer itself, was told so, and had heard
nothing of it. Between the beginning of an answer and its first sentence the writer may not have been asked yet.
"""

import asyncio
import base64
import json
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol

from simulation.servers.calls import SAMPLE_RATE

NUM_SENTENCES = 6
# The gateway's own first question, as it tries a set.
TRIAL = "Say hello."
SPEECH = "simulated.speech"
"""An event that a simulated gateway takes for what a client says aloud: `what` and `text`."""
_SECONDS_MIN = 0.2
_MS_BYTES = 2 * SAMPLE_RATE // 1000
# An answer of a living gateway never rests so long.
_EVENT_SECONDS = 30.0


class ConnectionLost(Exception):
    """The other end is gone."""


class Connection(Protocol):
    """Every call raises ConnectionLost once the other end is gone."""

    async def send(self, text: str) -> None: ...
    async def recv(self) -> str: ...
    async def close(self) -> None: ...


@dataclass
class Found:
    """What the clients found wrong, in words, and how much there was of everything."""

    stale: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    context: list[str] = field(default_factory=list)
    num_turns: int = 0
    num_cut: int = 0
    # Of those, answers of which nothing had been heard.
    num_unheard: int = 0
    num_returns: int = 0
    num_kills: int = 0

    @property
    def faults(self) -> list[str]:
        kinds = {"stale": self.stale, "lost": self.lost, "twice": self.twice, "context": self.context}
        return [f"{kind}: {what}" for kind, found in kinds.items() for what in found]

    def add(self, other: "Found") -> None:
        for name in (one.name for one in fields(self)):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def sentence_of(asked: str, number: int) -> str:
    return f"Sentence {number} is about {asked} and ends here."


def num_samples_of(text: str, characters_a_second: int) -> int:
    """How much audio the voice makes of a sentence."""
    return int(max(len(text) / characters_a_second, _SECONDS_MIN) * SAMPLE_RATE)


@dataclass
class _Answer:
    item: str
    texts: list[str] = field(default_factory=list)
    num_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Habits:
    """What a client does beside asking: shares of its turns.

    `speaks`: its turns are spoken, and so it cuts; `drops`: it loses its connection in an answer. `num_events`: of an
    answer, within which it does so. `pause_seconds`: at most, until it says how far it played a cut answer.
    `characters_a_second`: of the voice; as the echo engine speaks.
    """

    cuts: float = 0.5
    speaks: float = 0.0
    drops: float = 0.0
    num_events: int = 60
    pause_seconds: float = 0.0
    characters_a_second: int = 14


class _GivenUp(Exception):
    """The call stands still, which was noted."""


class Client:
    """One call of some turns, each of which may be cut anywhere. `connect`: to a living gateway, with that query."""

    def __init__(
        self,
        connect: Callable[[str], Awaitable[Connection]],
        name: str,
        found: Found,
        *,
        seed: int,
        num_turns: int,
        habits: Habits,
    ) -> None:
        self._connect, self._name, self._found = connect, name, found
        self._draw, self._num_turns, self._habits = random.Random(seed), num_turns, habits
        self._connection: Connection | None = None
        self._answer: _Answer | None = None
        # Its last turn was acknowledged, and the answer has not ended.
        self._is_waiting = False
        self._is_speaking, self._speech_item, self._spoken_as = False, "", ""
        # Answers whose end was told.
        self._ended: set[str] = set()
        # What the writer must be asked with, from the first message on.
        self.said: list[tuple[str, str]] = []
        self.asked: dict[str, list[tuple[str, str]]] = {}
        # Turns that this client cut before it heard anything of the answer: the writer may not have been asked.
        self.cut_unheard: set[str] = set()

    async def run(self) -> None:
        try:
            for number in range(self._num_turns):
                await self._turn(f"turn {number} of {self._name}", f"item_{self._name}_{number}")
                self._found.num_turns += 1
        except _GivenUp:
            return
        if self._connection is not None:
            await self._connection.close()

    async def _turn(self, text: str, item: str) -> None:
        self._answer = None
        is_spoken = self._is_speaking or self._chance(self._habits.speaks)
        await (self._until_understood(text) if is_spoken else self._until_acknowledged(text, item))
        self._is_waiting, self._spoken_as = True, self._speech_item
        self.said.append(("user", text))
        self.asked[text] = list(self.said)
        cut_after = self._draw.randrange(1, self._habits.num_events) if self._chance(self._habits.cuts) else None
        drop_after = self._draw.randrange(1, self._habits.num_events) if self._chance(self._habits.drops) else None
        cuts_by_voice = self._chance(self._habits.speaks)
        num_events, has_cut = 0, False
        is_asked, is_cutting = is_spoken, False
        while True:
            try:
                if not is_asked:
                    await self._send({"type": "response.create"})
                    is_asked = True
                event = await self._next(text)
                num_events += 1
                kind = event["type"]
                if kind == "response.created":
                    self._begun(event, text)
                elif kind.endswith(("audio.delta", "transcript.delta")):
                    self._heard(event)
                elif kind == "response.done" and self._answer is not None:
                    self._is_waiting = False
                    await self._done(event, text, has_cut=has_cut)
                    return
                if drop_after is not None and num_events >= drop_after:
                    drop_after = None
                    await self._lose_connection()
                elif cut_after is not None and num_events >= cut_after and self._answer and not is_cutting:
                    is_cutting = has_cut = True
                    await (self._begin_to_speak() if cuts_by_voice else self._send({"type": "response.cancel"}))
            except ConnectionLost:
                await self._come_back()
                self._is_speaking = is_cutting = False
                # An answer that has begun goes on by itself.
                standing = await self._standing_of(self._spoken_as if is_spoken else item, text)
                is_asked = standing == "answered"
                if standing == "gone":
                    self._found.lost.append(f"{text}: was acknowledged, and is gone")
                    raise _GivenUp from None
                if is_spoken and not is_asked:
                    self._found.lost.append(f"{text}: was understood, and no answer began")

    async def _until_acknowledged(self, text: str, item: str) -> None:
        content = [{"type": "input_text", "text": text}]
        body = {"type": "message", "role": "user", "id": item, "content": content}
        is_sent = False
        while True:
            try:
                if not is_sent:
                    await self._send({"type": "conversation.item.create", "item": body})
                    is_sent = True
                event = await self._next(text)
                if event["type"] == "conversation.item.done" and event["item"]["id"] == item:
                    return
                if event["type"] == "error" and event["error"]["param"] == "item.id":
                    return  # it was kept, and the acknowledgement was not sent any more
            except ConnectionLost:
                await self._come_back()
                is_sent = False

    async def _until_understood(self, text: str) -> None:
        """Says it aloud; again, where its transcript was not kept."""
        is_said = False
        while True:
            try:
                if not self._is_speaking:
                    await self._begin_to_speak()
                if not is_said:
                    await self._send({"type": SPEECH, "what": "stopped", "text": text})
                    is_said = True
                event = await self._next(text)
                if event["type"] == "conversation.item.input_audio_transcription.completed":
                    self._is_speaking = False
                    return
            except ConnectionLost:
                await self._come_back()
                self._is_speaking = is_said = False
                if self._speech_item and await self._standing_of(self._speech_item, text) != "gone":
                    # It is answered, perhaps since some time: of that, too, nothing was heard.
                    self._is_waiting = True
                    await self._come_back()
                    return

    async def _begin_to_speak(self) -> None:
        self._is_speaking, self._speech_item = True, ""
        await self._send({"type": SPEECH, "what": "started"})

    async def _standing_of(self, item: str, text: str) -> Literal["answered", "there", "gone"]:
        """Of a turn, after a return: the gateway tells of an answer that goes on before it says anything else."""
        while True:
            try:
                await self._send({"type": "conversation.item.retrieve", "item_id": item})
                while True:
                    event = await self._next(text)
                    match event["type"], (event.get("error") or {}).get("code"):
                        case "response.created", _:
                            self._begun(event, text)
                            return "answered"
                        case "conversation.item.retrieved", _:
                            return "there"
                        case "error", "item_not_found":
                            return "gone"
                        case _:
                            pass
            except ConnectionLost:
                await self._come_back()

    def _begun(self, event: dict[str, Any], text: str) -> None:
        item = event["response"]["id"].removeprefix("resp_")
        if self._answer is None:
            self._answer = _Answer(item)
        elif self._answer.item != item:
            self._found.twice.append(f"{text}: answered by {self._answer.item} and {item}")

    def _heard(self, event: dict[str, Any]) -> None:
        answer = self._answer
        if answer is None or event["item_id"] != answer.item:
            self._found.stale.append(f"{self._name}: {event['type']} of {event['item_id']}")
        elif event["type"].endswith("audio.delta"):
            answer.num_bytes += len(base64.b64decode(event["delta"]))
        elif (sentence := event["delta"].strip()) not in answer.texts:
            answer.texts.append(sentence)

    async def _done(self, event: dict[str, Any], text: str, *, has_cut: bool) -> None:
        answer = self._answer
        assert answer is not None
        self._ended.add(answer.item)
        status = event["response"]["status"]
        whole = [sentence_of(text, number) for number in range(NUM_SENTENCES)]
        if answer.texts != whole[: len(answer.texts)]:
            self._found.twice.append(f"{text}: heard {answer.texts}")
        most = sum(map(self._num_bytes, answer.texts))
        if answer.num_bytes > most:
            self._found.twice.append(f"{text}: {answer.num_bytes} bytes of {most}")
        is_whole = status == "completed" and answer.texts == whole and answer.num_bytes >= most
        if has_cut and not is_whole and status in ("cancelled", "completed"):
            self._found.num_cut += 1
            if not answer.texts:
                self._found.num_unheard += 1
                self.cut_unheard.add(text)
            # Who heard nothing has nothing to say about it.
            ms = self._draw.randrange(0, answer.num_bytes // _MS_BYTES + 1)
            if answer.num_bytes:
                await self._listen(self._draw.uniform(0.0, self._habits.pause_seconds))
                await self._truncate(answer.item, ms)
            if heard := self._heard_words(answer.texts, ms):
                self.said.append(("assistant", heard))
            return
        self.said.append(("assistant", " ".join(answer.texts)))
        if not is_whole:
            self._found.lost.append(f"{text}: {status}, {len(answer.texts)} sentences, {answer.num_bytes} of {most}")
        elif has_cut or self._habits.speaks:
            # It ended while its client cut it; or its client speaks next, and has played all of it.
            await self._truncate(answer.item, answer.num_bytes // _MS_BYTES)

    async def _listen(self, seconds: float) -> None:
        """For so long, to what should not come."""
        if not seconds:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        await self._next("a pause")
                    except ConnectionLost:
                        self._is_speaking = False
                        await self._come_back()

    async def _truncate(self, item: str, ms: int) -> None:
        is_sent = False
        while True:
            try:
                if not is_sent:
                    fields = {"item_id": item, "content_index": 0, "audio_end_ms": ms}
                    await self._send({"type": "conversation.item.truncate", **fields})
                    is_sent = True
                if (await self._next(item))["type"] == "conversation.item.truncated":
                    return
            except ConnectionLost:
                await self._come_back()
                self._is_speaking = is_sent = False

    def _num_bytes(self, text: str) -> int:
        """How much a client gets of a sentence: up to a whole millisecond."""
        return -(-2 * num_samples_of(text, self._habits.characters_a_second) // _MS_BYTES) * _MS_BYTES

    def _heard_words(self, sentences: list[str], ms: int) -> str:
        """By hand: of each sentence the words whose last letter was played."""
        found: list[str] = []
        for text in sentences:
            whole = self._num_bytes(text) // _MS_BYTES
            place = 0
            for word in text.split():
                place += len(word)
                if ms >= whole or int(len(text) * max(ms, 0) / whole) >= place:
                    found.append(word)
                place += 1
            ms -= whole
        return " ".join(found)

    def _chance(self, share: float) -> bool:
        return share > 0 and self._draw.random() < share

    async def _send(self, event: dict[str, Any]) -> None:
        if self._connection is None:
            await self._come_back()
        assert self._connection is not None
        await self._connection.send(json.dumps(event))

    async def _next(self, what: str) -> dict[str, Any]:
        """Raises: ConnectionLost; _GivenUp: nothing comes. Args: what: is waited for."""
        assert self._connection is not None
        try:
            # `wait_for` may take an event and pass over that its caller has been cancelled.
            async with asyncio.timeout(_EVENT_SECONDS):
                event = json.loads(await self._connection.recv())
        except TimeoutError:
            self._found.lost.append(f"{self._name}: nothing came for {_EVENT_SECONDS:g} s, of {what}")
            raise _GivenUp from None
        if event["type"] == "input_audio_buffer.speech_started":
            self._speech_item = event["item_id"]
        elif event["type"].endswith("delta") and event["item_id"] in self._ended:
            self._found.stale.append(f"{self._name}: {event['type']} after response.done")
        return event

    async def _lose_connection(self) -> None:
        assert self._connection is not None
        await self._connection.close()
        raise ConnectionLost

    async def _come_back(self) -> None:
        if self._connection is not None:
            self._found.num_returns += 1
        # Who waits for an answer and has heard nothing of it wants all of it.
        received = self._answer.num_bytes // _MS_BYTES if self._answer else 0
        is_told = self._answer is not None or self._is_waiting
        query = f"session={self._name}" + (f"&received_ms={received}" if is_told else "")
        self._connection = await self._connect(query)


def look_at_questions(bodies: Iterable[Mapping[str, Any]], clients: Iterable[Client], found: Found) -> None:
    """Compares what the writer was asked with what the clients say must have been. Args: bodies: of its requests."""
    expected: dict[str, list[tuple[str, str]]] = {}
    excused: set[str] = set()
    for client in clients:
        expected |= client.asked
        excused |= client.cut_unheard
    asked: set[str] = set()
    for body in bodies:
        messages = [(message["role"], message["content"]) for message in body["messages"]]
        text = messages[-1][1]
        if text == TRIAL:
            continue
        asked.add(text)
        if text in expected and messages != expected[text]:
            found.context.append(f"{text}: {messages} instead of {expected[text]}")
    found.lost += [f"{text}: never asked" for text in expected.keys() - asked - excused]
