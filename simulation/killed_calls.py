"""Calls through gateways that are killed: many at once, with barge-ins anywhere, and what each client must find.

Two gateways with logs of their own share a store. One of them is killed, again and again, and started anew; a client
whose connection ends comes back, to the one that lives, and says how much audio of the last answer it received. The
writer is a server that names turn and sentence in every sentence, so a client knows what it hears:

- *stale*: a sentence of a turn that its client had cut already,
- *lost*: a turn that was acknowledged and never answered, or an answer that lacks audio,
- *twice*: a turn answered by two items, or audio that came twice,
- *context*: a question whose messages are not what was said and played before.
"""

import asyncio
import base64
import json
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from simulation.servers.calls import SAMPLE_RATE, spoken_roles
from simulation.servers.chat import ChatServer, served
from simulation.servers.gateway_site import KEY, GatewayProcess, Site, http_role

_NUM_SENTENCES = 6
_CHARACTERS_A_SECOND, _SECONDS_MIN = 14, 0.2
_MS_BYTES = 2 * SAMPLE_RATE // 1000
_PAUSE_SECONDS = 0.02
_COME_BACK_SECONDS, _EVENT_SECONDS = 0.05, 30.0
# The gateway's own first question, as it tries a set.
_TRIAL = "Say hello."


@dataclass
class Found:
    """What the clients found wrong, in words, and how much there was of everything."""

    stale: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    context: list[str] = field(default_factory=list)
    num_turns: int = 0
    num_cut: int = 0
    num_returns: int = 0
    num_kills: int = 0

    @property
    def num_faults(self) -> int:
        return len(self.stale) + len(self.lost) + len(self.twice) + len(self.context)


def sentence_of(asked: str, number: int) -> str:
    return f"Sentence {number} is about {asked} and ends here."


def pcm_bytes_of(text: str) -> int:
    """How much audio the echo engine makes of a sentence."""
    num_samples = int(max(len(text) / _CHARACTERS_A_SECOND, _SECONDS_MIN) * SAMPLE_RATE)
    # Up to a whole millisecond.
    return -(-2 * num_samples // _MS_BYTES) * _MS_BYTES


async def _written(server: ChatServer, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """The writer: sentences about the last message, with a pause before each."""
    asked = str(body["messages"][-1]["content"])
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    # A gateway that was killed, or whose client cut the answer, reads no further.
    with suppress(ConnectionResetError):
        await response.prepare(request)
        for number in range(1 if asked == _TRIAL else _NUM_SENTENCES):
            await asyncio.sleep(_PAUSE_SECONDS)
            await response.write(_event({"content": sentence_of(asked, number) + " "}))
        await response.write(_event({}, finish="stop") + b"data: [DONE]\n\n")
    return response


def _event(delta: dict[str, Any], *, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return (
        b"data: " + json.dumps({"id": "1", "object": "chat.completion.chunk", "choices": [choice]}).encode() + b"\n\n"
    )


class Gateways:
    """Two of them; `url` is that of one that lives."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._slots: list[GatewayProcess | None] = [None, None]
        self._at = 0

    def start(self, slot: int) -> None:
        self._slots[slot] = self._site.start("--inbox-log", str(self._site.directory / f"log-{slot}"))

    def kill(self) -> int:
        """Kills the one that has the calls; they go to the other. Returns the one to start anew."""
        killed, self._at = self._at, 1 - self._at
        gateway = self._slots[killed]
        assert gateway is not None
        gateway.process.kill()
        gateway.process.wait()
        return killed

    @property
    def url(self) -> str:
        gateway = self._slots[self._at]
        assert gateway is not None
        return gateway.url.replace("http", "ws", 1) + "/v1/realtime"


@dataclass
class _Answer:
    item: str
    texts: list[str] = field(default_factory=list)
    num_bytes: int = 0
    is_cut: bool = False


class Client:
    """One call of some turns, each of which may be cut anywhere."""

    def __init__(self, gateways: Gateways, name: str, found: Found, *, seed: int, num_turns: int) -> None:
        self._gateways, self._name, self._found = gateways, name, found
        self._draw, self._num_turns = random.Random(seed), num_turns
        self._socket: ClientConnection | None = None
        self._answer: _Answer | None = None
        # What the writer must be asked with, from the first message on.
        self.said: list[tuple[str, str]] = []
        self.asked: dict[str, list[tuple[str, str]]] = {}
        # Turns whose answer was cut: perhaps before the writer was asked.
        self.cut: set[str] = set()

    async def run(self) -> None:
        for number in range(self._num_turns):
            await self._turn(f"turn {number} of {self._name}", f"item_{self._name}_{number}")
            self._found.num_turns += 1
        if self._socket is not None:
            await self._socket.close()

    async def _turn(self, text: str, item: str) -> None:
        self._answer = None
        await self._until_acknowledged(text, item)
        self.said.append(("user", text))
        self.asked[text] = list(self.said)
        cut_after = self._draw.randrange(1, 60) if self._draw.random() < 0.5 else None
        num_events, is_asked, is_cutting = 0, False, False
        while True:
            try:
                if not is_asked:
                    await self._send({"type": "response.create"})
                    is_asked = True
                event = await self._next()
                num_events += 1
                kind = event["type"]
                if kind == "response.created":
                    self._begun(event, text)
                elif kind.endswith(("audio.delta", "transcript.delta")):
                    self._heard(event, is_cut=is_cutting and self._answer is not None and self._answer.is_cut)
                elif kind == "response.done" and self._answer is not None:
                    await self._done(event, text)
                    return
                if num_events == cut_after and self._answer is not None and not is_cutting:
                    is_cutting = True
                    await self._send({"type": "response.cancel"})
            except (ConnectionClosed, OSError):
                await self._come_back()
                # An answer that has begun goes on by itself.
                is_asked, is_cutting = self._answer is not None, False

    async def _until_acknowledged(self, text: str, item: str) -> None:
        content = [{"type": "input_text", "text": text}]
        body = {"type": "message", "role": "user", "id": item, "content": content}
        is_sent = False
        while True:
            try:
                if not is_sent:
                    await self._send({"type": "conversation.item.create", "item": body})
                    is_sent = True
                event = await self._next()
                if event["type"] == "conversation.item.done" and event["item"]["id"] == item:
                    return
                if event["type"] == "error" and event["error"]["param"] == "item.id":
                    return  # it was kept, and the acknowledgement was not sent any more
            except (ConnectionClosed, OSError):
                await self._come_back()
                is_sent = False

    def _begun(self, event: dict[str, Any], text: str) -> None:
        item = event["response"]["id"].removeprefix("resp_")
        if self._answer is None:
            self._answer = _Answer(item)
        elif self._answer.item != item:
            self._found.twice.append(f"{text}: answered by {self._answer.item} and {item}")

    def _heard(self, event: dict[str, Any], *, is_cut: bool) -> None:
        answer = self._answer
        if answer is None or event["item_id"] != answer.item:
            self._found.stale.append(f"{self._name}: {event['type']} of {event['item_id']}")
        elif is_cut:
            self._found.stale.append(f"{self._name}: {event['type']} after response.done")
        elif event["type"].endswith("audio.delta"):
            answer.num_bytes += len(base64.b64decode(event["delta"]))
        elif (sentence := event["delta"].strip()) not in answer.texts:
            answer.texts.append(sentence)

    async def _done(self, event: dict[str, Any], text: str) -> None:
        answer = self._answer
        assert answer is not None
        status = event["response"]["status"]
        whole = [sentence_of(text, number) for number in range(_NUM_SENTENCES)]
        if answer.texts != whole[: len(answer.texts)]:
            self._found.twice.append(f"{text}: heard {answer.texts}")
        most = sum(map(pcm_bytes_of, answer.texts))
        if status == "cancelled":
            self._found.num_cut += 1
            self.cut.add(text)
            ms = self._draw.randrange(0, answer.num_bytes // _MS_BYTES + 1)
            await self._truncate(answer.item, ms)
            if heard := _heard_words(answer.texts, ms):
                self.said.append(("assistant", heard))
            if answer.num_bytes > most:
                self._found.twice.append(f"{text}: {answer.num_bytes} bytes of {most}")
            return
        self.said.append(("assistant", " ".join(answer.texts)))
        if status != "completed" or answer.texts != whole or answer.num_bytes < most:
            self._found.lost.append(f"{text}: {status}, {len(answer.texts)} sentences, {answer.num_bytes} of {most}")
        elif answer.num_bytes > most:
            self._found.twice.append(f"{text}: {answer.num_bytes} bytes of {most}")

    async def _truncate(self, item: str, ms: int) -> None:
        is_sent = False
        while True:
            try:
                if not is_sent:
                    fields = {"item_id": item, "content_index": 0, "audio_end_ms": ms}
                    await self._send({"type": "conversation.item.truncate", **fields})
                    is_sent = True
                event = await self._next()
                if event["type"].endswith("delta"):
                    self._found.stale.append(f"{self._name}: {event['type']} after response.done")
                if event["type"] == "conversation.item.truncated":
                    return
            except (ConnectionClosed, OSError):
                await self._come_back()
                is_sent = False

    async def _send(self, event: dict[str, Any]) -> None:
        if self._socket is None:
            await self._come_back()
        assert self._socket is not None
        await self._socket.send(json.dumps(event))

    async def _next(self) -> dict[str, Any]:
        assert self._socket is not None
        return json.loads(await asyncio.wait_for(self._socket.recv(), _EVENT_SECONDS))

    async def _come_back(self) -> None:
        if self._socket is not None:
            self._found.num_returns += 1
        received = self._answer.num_bytes // _MS_BYTES if self._answer else 0
        query = f"session={self._name}" + (f"&received_ms={received}" if self._answer else "")
        while True:
            try:
                headers = {"Authorization": f"Bearer {KEY}"}
                url = f"{self._gateways.url}?{query}"
                self._socket = await connect(url, additional_headers=headers, compression=None, max_size=None)
                return
            except (OSError, InvalidHandshake, TimeoutError):
                await asyncio.sleep(_COME_BACK_SECONDS)


def _heard_words(sentences: list[str], ms: int) -> str:
    """By hand: of each sentence the words whose last letter was played."""
    found: list[str] = []
    for text in sentences:
        whole = pcm_bytes_of(text) // _MS_BYTES
        place = 0
        for word in text.split():
            place += len(word)
            if ms >= whole or int(len(text) * max(ms, 0) / whole) >= place:
                found.append(word)
            place += 1
        ms -= whole
    return " ".join(found)


def call_under_kills(
    directory: Path, *, num_kills: int, seed: int, num_calls: int = 8, seconds_between: float = 0.7
) -> Found:
    """Calls until so many kills have happened, each with some turns; then the writer's questions are looked at."""
    found = Found()
    with _site(directory) as (site, writer):
        gateways = Gateways(site)
        gateways.start(0)
        gateways.start(1)
        is_over = threading.Event()

        async def callers(place: int) -> list[Client]:
            clients: list[Client] = []
            while not is_over.is_set():
                name = f"s{seed}c{place}n{len(clients)}"
                number = seed * 1_000_000 + place * 10_000 + len(clients)
                clients.append(Client(gateways, name, found, seed=number, num_turns=3))
                await clients[-1].run()
            return clients

        async def killer() -> None:
            draw = random.Random(seed)
            while found.num_kills < num_kills:
                await asyncio.sleep(seconds_between * draw.uniform(0.5, 1.5))
                slot = gateways.kill()
                found.num_kills += 1
                if found.num_kills < num_kills:
                    await asyncio.to_thread(gateways.start, slot)
            is_over.set()

        async def all_of_it() -> list[Client]:
            work = [asyncio.create_task(callers(place)) for place in range(num_calls)]
            killing = asyncio.create_task(killer())
            try:
                await killing
                return [client for clients in await asyncio.gather(*work) for client in clients]
            finally:
                is_over.set()
                for task in (*work, killing):
                    task.cancel()

        expected: dict[str, list[tuple[str, str]]] = {}
        cut: set[str] = set()
        for client in asyncio.run(all_of_it()):
            expected |= client.asked
            cut |= client.cut
        _look_at_questions(writer, expected, cut, found)
    return found


def _look_at_questions(
    writer: ChatServer, expected: Mapping[str, list[tuple[str, str]]], cut: set[str], found: Found
) -> None:
    asked: set[str] = set()
    for body in writer.bodies:
        messages = [(message["role"], message["content"]) for message in body["messages"]]
        text = messages[-1][1]
        if text == _TRIAL:
            continue
        asked.add(text)
        if text in expected and messages != expected[text]:
            found.context.append(f"{text}: {messages} instead of {expected[text]}")
    found.lost += [f"{text}: never asked" for text in expected.keys() - asked - cut]


@contextmanager
def _site(directory: Path) -> Iterator[tuple[Site, ChatServer]]:
    with served(_written) as writer:
        decoding = {"temperature": 0.0, "max_new_tokens": 400}
        site = Site.make(directory, {**spoken_roles(writer=http_role(writer.url, decoding=decoding))})
        site.initialize()
        try:
            yield site, writer
        finally:
            site.close()
