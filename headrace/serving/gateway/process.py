"""The gateway process: the order of its start, and its end.

It listens at once, and is ready when the sets in use are loaded. On SIGTERM or SIGINT `/readyz` returns 503. New units
are accepted for `notice_seconds` more (a load balancer needs a moment to notice), then refused. Running units may
finish within the service's `drain_seconds`; then they are cut off and their clients told. A second signal cuts them off
at once. SIGHUP reads the API keys again and reopens the log.
"""

import asyncio
import ctypes
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, cast

import uvicorn

from headrace.cycles import look_for_cycles_rarely
from headrace.errors import HeadraceError, InvalidInput, reason_of
from headrace.serving.daemon_threads import DaemonThreads
from headrace.serving.gateway.assembly import Parts, Settings, assemble
from headrace.serving.gateway.http_protocol import GatewayProtocol
from headrace.serving.gateway.keys import ApiKeys
from headrace.serving.gateway.listening import leave, listen, num_connections_for
from headrace.serving.gateway.records import Records
from headrace.serving.service import load_service
from headrace.unix_sockets import BACKLOG, identity

# How often evidence goes to the store; a killed gateway loses at most this much of it.
_EVIDENCE_SECONDS = 2.0
_READY_LOOK_SECONDS = 0.1
_DRAIN_LOOK_SECONDS = 0.02
# Time for the window that is being sealed; what is not sealed is by the next gateway with this log.
_SEALED_SECONDS = 5.0
# Time for cut-off units to tell their clients.
_CUT_OFF_SECONDS = 1.0
# How long a background thread may keep Python's lock while requests wait. Default: 5 ms.
_SWITCH_SECONDS = 0.0005

# Of glibc's malloc.h.
_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES = -3, 128 * 1024


def _return_large_blocks() -> None:
    """Makes glibc return every freed block of 128 KiB and more to the system.

    By itself it raises that limit with each such block, up to 32 MiB. The texts of long streams then lie in the heap,
    where one small object behind them keeps their pages: after a burst a gateway held several MB more, for good. A
    service that hears does without: Whisper takes and frees 200 MB a turn, and as much again of pages that are fetched
    anew each time costs 0.2 s of CPU beside its 0.5 s.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # another C library has no such limit
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)


async def run_gateway(settings: Settings) -> None:
    """Serves until a signal ends it.

    Raises:
        InvalidInput: the service file, the keys, the log or the address cannot be used.
    """
    service = load_service(settings.service)
    if not service.hears:
        _return_large_blocks()
    num_connections = num_connections_for(service.limits)
    listener = listen(host=settings.host, port=settings.port, uds=settings.uds, reuse_port=settings.reuse_port)
    socket_file = identity(settings.uds)
    port = listener.getsockname()[1] if settings.uds is None else None
    parts = assemble(settings, service, port=port, num_connections=num_connections)
    server = _Server(
        uvicorn.Config(
            parts.app,
            http=cast(
                "Any", partial(GatewayProtocol, connections=parts.connections, takers=parts.calls, whole=parts.app)
            ),
            ws="none",
            lifespan="off",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            log_level="warning",
            backlog=BACKLOG,
            timeout_graceful_shutdown=2,
        )
    )
    serving = asyncio.create_task(server.serve([listener]), name="server")
    parts.lease.start()
    parts.router.start()
    background = [
        asyncio.create_task(parts.watch.run(), name="rollout-watch"),
        asyncio.create_task(_flush_evidence(parts), name="evidence"),
        asyncio.create_task(parts.connections.keep_looking(), name="connections"),
    ]
    if parts.floor:
        background.append(asyncio.create_task(parts.floor.run(), name="floor"))
    if parts.calls:
        parts.calls.start()
    if parts.intake:
        parts.intake.start()
    if parts.inbox:
        background += [asyncio.create_task(work, name="inbox") for work in parts.inbox.background()]
    if parts.erasures:
        background.append(asyncio.create_task(parts.erasures.run(), name="erasures"))
    if parts.batches:
        background.append(asyncio.create_task(parts.batches.run(), name="batches"))
    if num_connections < service.limits.num_connections_max:
        parts.records.event("fewer connections", num_max=num_connections, why="descriptors (ulimit -n)")
    for task in background:
        task.add_done_callback(partial(_tell_end, parts.records))
    parts.records.event("listening", address=_address(settings, listener), node=parts.node, pid=os.getpid())
    try:
        await _until_told(parts, settings, serving)
        await _drain(parts, settings)
    finally:
        server.should_exit = True
        with suppress(Exception):
            await serving
        leave(listener, settings.uds, socket_file)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await _close(parts)


def _tell_end(records: Records, task: asyncio.Task[None]) -> None:
    """What ends by an error of ours stops only itself until the next start, and nobody would know."""
    if not task.cancelled() and isinstance(error := task.exception(), Exception):
        records.unforeseen(error, stopped=task.get_name())


async def _until_told(parts: Parts, settings: Settings, serving: asyncio.Task[None]) -> None:
    """Returns at the first SIGTERM or SIGINT, or when the server ends by itself."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    loop.add_signal_handler(signal.SIGHUP, partial(_read_again, parts, settings))
    # Existing objects live as long as the process, so the collector need not look at them.
    gc.collect()
    gc.freeze()
    look_for_cycles_rarely()
    sys.setswitchinterval(_SWITCH_SECONDS)
    waiting = asyncio.create_task(told.wait())
    was_ready = False
    while not told.is_set() and not serving.done():
        await asyncio.wait([waiting, serving], timeout=_READY_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if parts.readiness.is_ready != was_ready:
            was_ready = not was_ready
            parts.records.event("ready" if was_ready else "not ready", reasons=parts.readiness.answer()[1]["reasons"])
    waiting.cancel()


async def _drain(parts: Parts, settings: Settings) -> None:
    """Waits until no unit runs, the service's drain time is over, or a second signal comes."""
    loop = asyncio.get_running_loop()
    again = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, again.set)
    parts.readiness.is_draining = True
    parts.records.event("draining", units=parts.units.num_under_way)
    with suppress(TimeoutError):
        await asyncio.wait_for(again.wait(), settings.notice_seconds)
    parts.units.refuse_new()
    if parts.inbox:
        parts.inbox.results.end()
    if parts.calls:
        parts.calls.refuse_new()
    ends = loop.time() + parts.service.limits.drain_seconds
    while parts.units.num_under_way and not again.is_set() and loop.time() < ends:
        await asyncio.sleep(_DRAIN_LOOK_SECONDS)
    if parts.units.num_under_way:
        parts.records.event("cut off", units=parts.units.num_under_way)
        parts.units.cut_off()
        # Telling their clients takes one turn of the loop each.
        ends = loop.time() + _CUT_OFF_SECONDS
        while parts.units.num_under_way and loop.time() < ends:
            await asyncio.sleep(_DRAIN_LOOK_SECONDS)


async def _close(parts: Parts) -> None:
    if parts.calls:
        await parts.calls.close()
    if parts.intake:
        await asyncio.get_running_loop().run_in_executor(None, parts.intake.close, _SEALED_SECONDS)
    if parts.judging:
        await parts.judging.close()
    await parts.shadow.close()
    await parts.sets.close()
    # If the store hangs, it lacks the last seconds' evidence.
    with suppress(TimeoutError, HeadraceError, OSError):
        await asyncio.wait_for(_in_daemon_thread(parts.evidence.flush), _EVIDENCE_SECONDS)
    parts.router.close()
    parts.lease.close()
    parts.records.event("ended")
    parts.records.close()


async def _flush_evidence(parts: Parts) -> None:
    """Flushes in a separate thread: a flush that hangs only stops later flushes."""
    thread = DaemonThreads(1, "evidence")
    loop = asyncio.get_running_loop()
    error = ""
    while True:
        await asyncio.sleep(_EVIDENCE_SECONDS)
        try:
            await loop.run_in_executor(thread, parts.evidence.flush)
            error = ""
        except Exception as failure:  # noqa: BLE001 (what is not kept now is by the next flush)
            if reason_of(failure) != error:
                error = reason_of(failure)
                parts.records.event("evidence not kept", error=error)


async def _in_daemon_thread(work: Callable[[], None]) -> None:
    await asyncio.get_running_loop().run_in_executor(DaemonThreads(1, "closing"), work)


def _read_again(parts: Parts, settings: Settings) -> None:
    parts.records.reopen()
    if settings.api_keys is None:
        return
    try:
        parts.units.keys = ApiKeys.read(settings.api_keys)
        parts.records.event("keys read", num_keys=parts.units.keys.num_keys)
    except InvalidInput as error:
        parts.records.event("keys not read", error=str(error))


def _address(settings: Settings, listener: socket.socket) -> str:
    if settings.uds is not None:
        return f"unix:{settings.uds}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would close connections of streams that may still finish."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
