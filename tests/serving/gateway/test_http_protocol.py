"""The protocol in a server of this process, where one can look at what it leaves behind."""

import asyncio
import gc
import socket
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

import pytest
import uvicorn
import uvloop

from headrace.serving.gateway.assembly import Settings, assemble
from headrace.serving.gateway.connections import Connections
from headrace.serving.gateway.http_protocol import GatewayProtocol
from headrace.serving.service import Limits
from simulation.servers.gateway_site import Site

GET = b"GET / HTTP/1.1\r\nHost: g\r\n\r\n"
Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body, then answers; `/endless` without end."""
    while (message := await receive()).get("more_body"):
        pass
    if message["type"] == "http.disconnect":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while scope["path"] == "/endless":
        await send({"type": "http.response.body", "body": b"a" * 100_000, "more_body": True})
        if scope["extensions"]["headrace.connection"].cut_reason:
            return
    await send({"type": "http.response.body", "body": b"done"})


async def hostile_clients(connections: Connections, client: Client, *, number: int, app: Any = echo) -> None:
    """`number` of them, one after the other, at a server of their own."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=cast("Any", partial(GatewayProtocol, connections=connections)),
        ws="none",
        lifespan="off",
        log_config=None,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    looking = asyncio.create_task(connections.keep_looking())
    while not server.started:
        await asyncio.sleep(0.01)
    for _ in range(number):
        reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
        await client(reader, writer)
        writer.transport.abort()
    ends = time.monotonic() + 60
    while connections.num_open and time.monotonic() < ends:
        await asyncio.sleep(0.02)
    looking.cancel()
    server.should_exit = True
    await serving


async def _asks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(GET * 3)
    await reader.readuntil(b"done")


async def _goes_in_its_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(GET[:10])
    await asyncio.sleep(0.02)


async def _goes_in_its_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(GET.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 9\r\n\r\nabc"))
    await asyncio.sleep(0.02)


async def _sends_too_much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000)
    await reader.readuntil(b"431")


async def _offers_another_protocol(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"))
    await reader.readuntil(b"done")


async def _never_reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reader._transport.pause_reading()  # pyright: ignore[reportAttributeAccessIssue]
    writer.write(GET.replace(b"/ ", b"/endless "))
    await asyncio.sleep(0.6)


def connections_of(limits: Limits) -> Connections:
    return Connections(limits, num_max=100, clock=time.monotonic, event=lambda *_, **__: None, count=lambda _: None)


def circles(clients: Coroutine[Any, Any, None]) -> list[GatewayProtocol]:
    """Connections that only Python's collector would find after these clients."""
    gc.disable()
    gc.freeze()  # what was there before is not looked at
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(clients)
        gc.collect()
        return [one for one in gc.garbage if isinstance(one, GatewayProtocol)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize(
    "client",
    [_asks, _goes_in_its_head, _goes_in_its_body, _sends_too_much, _offers_another_protocol, _never_reads],
    ids=lambda client: client.__name__,
)
def test_a_connection_leaves_no_circle_behind_that_only_pythons_collector_would_find(client: Client) -> None:
    """A gateway's collector looks seldom, so that it takes no time from requests; circles would wait for it."""
    connections = connections_of(Limits(stalled_seconds_max=0.2))
    assert circles(hostile_clients(connections, client, number=3)) == []
    assert connections.num_open == 0


async def _has_no_key(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(
        GET.replace(b"GET / ", b"POST /v1/chat/completions ").replace(b"\r\n\r\n", b"\r\nContent-Length: 9\r\n\r\nabc")
    )
    await reader.readuntil(b"invalid_api_key")


async def _asks_for_what_is_not_there(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(GET)
    await reader.readuntil(b"There is no")


@pytest.mark.parametrize("client", [_has_no_key, _asks_for_what_is_not_there], ids=lambda client: client.__name__)
def test_a_refusal_leaves_no_circle_behind_either(client: Client, make_site: Callable[..., Site]) -> None:
    site = make_site()
    settings = Settings(service=site.service_file, store=site.store.url, api_keys=site.keys)
    parts = assemble(settings, site.service, port=None, num_connections=100)
    assert circles(hostile_clients(parts.connections, client, number=3, app=parts.app)) == []
    assert parts.connections.num_open == 0
