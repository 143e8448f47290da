"""A response's head and its body in one write."""

import asyncio


class HeadWithBody:
    """A transport with the methods that uvicorn and `GatewayProtocol` use. uvicorn writes a response's head before its
    body, and each write is a system call: a tenth of a short answer's cost.
    """

    __slots__ = ("_head", "_holds", "_transport", "abort", "can_write_eof", "is_closing")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self._holds = False
        self.abort = transport.abort
        self.can_write_eof = transport.can_write_eof
        self.is_closing = transport.is_closing

    def hold(self) -> None:
        self._holds = True

    def write(self, data: bytes) -> None:
        if self._holds:
            self._head, self._holds = data, False
            return
        if self._head:
            data, self._head = self._head + data, b""
        self._transport.write(data)

    def write_eof(self) -> None:
        self.flush()
        self._transport.write_eof()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        if self._head:
            self.write(b"")
