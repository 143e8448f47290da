"""Calls to a gateway, for tests and measurements: a service that hears, what its clients say, and what they get."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from websockets.sync.client import ClientConnection, connect

from simulation.servers.gateway_site import KEY, GatewayProcess, role

SAMPLE_RATE = 24_000


def spoken_roles(**changes: Any) -> dict[str, Any]:
    """Roles that hear, write and speak, on the echo engine; `changes` by role."""
    roles = {
        "listener": _made("ears", hearing={"language": "en"}),
        "writer": role(),
        "speaker": _made("voice", speech={"sample_rate": SAMPLE_RATE}),
    }
    return {"roles": {name: body | changes.get(name, {}) for name, body in roles.items()}, "chain": [*roles]}


def _made(model: str, **how: Any) -> dict[str, Any]:
    return {"model": model, "version": "1", "registered": False, "engine": {"name": "echo"}, **how}


class Caller:
    """A client of one call. `events`: all that it got."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.events: list[dict[str, Any]] = []

    def send(self, kind: str, **fields: Any) -> None:
        self._socket.send(json.dumps({"type": kind, **fields}))

    def say(self, text: str, **item: Any) -> None:
        content = [{"type": "input_text", "text": text}]
        self.send("conversation.item.create", item={"type": "message", "role": "user", "content": content, **item})

    def speak(self, pcm: bytes, *, piece_bytes: int = 96_000) -> None:
        for start in range(0, len(pcm), piece_bytes):
            audio = base64.b64encode(pcm[start : start + piece_bytes]).decode()
            self.send("input_audio_buffer.append", audio=audio)

    def until(self, kind: str, *, seconds: float = 60.0) -> dict[str, Any]:
        """The next event of that kind. Raises: AssertionError: an error came that was not waited for."""
        while True:
            event = json.loads(self._socket.recv(timeout=seconds))
            self.events.append(event)
            if event["type"] == kind:
                return event
            assert event["type"] != "error", event

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    @property
    def audio(self) -> bytes:
        deltas = [event["delta"] for event in self.events if event["type"].endswith("audio.delta")]
        return b"".join(map(base64.b64decode, deltas))


@contextmanager
def calling(gateway: GatewayProcess, *, query: str = "", headers: dict[str, str] | None = None) -> Iterator[Caller]:
    url = gateway.url.replace("http", "ws", 1) + "/v1/realtime" + (f"?{query}" if query else "")
    given = {"Authorization": f"Bearer {KEY}", **(headers or {})}
    with connect(url, additional_headers=given, compression=None, max_size=None) as socket:
        caller = Caller(socket)
        caller.until("session.created")
        yield caller
