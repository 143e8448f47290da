"""Calls through gateway processes that are killed: many at once, with barge-ins anywhere (`simulation.talking`).

Two gateways with logs of their own share a store. One of them is killed, again and again, and started anew; a client
whose connection ends comes back, to the one that lives, and says how much audio of the last answer it received.
"""

import asyncio
import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from simulation.servers.calls import spoken_roles
from simulation.servers.chat import ChatServer, served
from simulation.servers.gateway_site import KEY, GatewayProcess, Site, http_role
from simulation.talking import (
    NUM_SENTENCES,
    TRIAL,
    Client,
    Connection,
    ConnectionLost,
    Found,
    Habits,
    look_at_questions,
    sentence_of,
)

_PAUSE_SECONDS = 0.02
_COME_BACK_SECONDS = 0.05


async def _written(server: ChatServer, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """The writer: sentences about the last message, with a pause before each."""
    asked = str(body["messages"][-1]["content"])
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    # A gateway that was killed, or whose client cut the answer, reads no further.
    with suppress(ConnectionResetError):
        await response.prepare(request)
        for number in range(1 if asked == TRIAL else NUM_SENTENCES):
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

    async def connect(self, query: str) -> Connection:
        while True:
            gateway = self._slots[self._at]
            assert gateway is not None
            url = gateway.url.replace("http", "ws", 1) + f"/v1/realtime?{query}"
            try:
                headers = {"Authorization": f"Bearer {KEY}"}
                return _Socket(await connect(url, additional_headers=headers, compression=None, max_size=None))
            except (OSError, InvalidHandshake, TimeoutError):
                await asyncio.sleep(_COME_BACK_SECONDS)


class _Socket:
    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def send(self, text: str) -> None:
        try:
            await self._socket.send(text)
        except (ConnectionClosed, OSError) as error:
            raise ConnectionLost from error

    async def recv(self) -> str:
        try:
            return str(await self._socket.recv())
        except (ConnectionClosed, OSError) as error:
            raise ConnectionLost from error

    async def close(self) -> None:
        await self._socket.close()


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
                client = Client(gateways.connect, name, found, seed=number, num_turns=3, habits=Habits(drops=0.1))
                clients.append(client)
                await client.run()
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

        look_at_questions(writer.bodies, asyncio.run(all_of_it()), found)
    return found


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
