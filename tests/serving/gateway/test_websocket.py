"""The socket of a call, and clients that want it to hold what costs them nothing."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from headrace.serving.gateway.realtime.websocket import Socket


class Wire:
    """A connection whose client reads as it likes."""

    def __init__(self) -> None:
        self.is_stalled = self.is_paused = False
        self.sent: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self) -> None: ...

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    async def drain(self) -> None:
        self.is_stalled = False


def frame(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


def in_a_call(scenario: Callable[[Socket, Wire], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        client, wire = ClientProtocol(parse_uri("ws://gateway/v1/realtime")), Wire()
        client.send_request(client.connect())
        socket = Socket(wire, message_bytes_max=1_000_000)
        assert socket.open(b"".join(client.data_to_send()), b"")
        wire.sent.clear()
        try:
            await scenario(socket, wire)
        finally:
            socket.lost()

    asyncio.run(run())


def test_pings_of_a_client_that_reads_nothing_leave_one_answer() -> None:
    async def scenario(socket: Socket, wire: Wire) -> None:
        socket.received(frame(Opcode.PING, b"first"))
        assert wire.sent == [Frame(Opcode.PONG, b"first").serialize(mask=False)]
        wire.is_stalled = True
        for number in range(1_000):
            socket.received(frame(Opcode.PING, b"%d" % number) * 10)
        assert len(wire.sent) == 1
        await socket.send(b"{}")
        pongs = [data for data in wire.sent[1:] if data[0] & 0x0F == Opcode.PONG]
        assert pongs == [Frame(Opcode.PONG, b"999").serialize(mask=False)]

    in_a_call(scenario)


def test_a_message_in_pieces_is_whole_and_empty_pieces_are_nothing() -> None:
    async def scenario(socket: Socket, wire: Wire) -> None:
        socket.received(frame(Opcode.TEXT, b"{", fin=False) + frame(Opcode.CONT, fin=False) * 10_000)
        socket.received(frame(Opcode.CONT, b"}"))
        assert await anext(socket.messages()) == "{}"

    in_a_call(scenario)


def test_a_client_that_sends_empty_messages_without_end_is_not_read_on() -> None:
    async def scenario(socket: Socket, wire: Wire) -> None:
        num_messages = 20_000
        socket.received(frame(Opcode.TEXT) * num_messages)
        assert wire.is_paused
        messages = socket.messages()
        for _ in range(num_messages):
            assert await anext(messages) == ""
        assert not wire.is_paused

    in_a_call(scenario)
