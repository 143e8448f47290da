"""A client's connection to an engine host: finds or starts it, has it bring a model, and asks the model.

A host or a model's process may be killed at any point. Nothing of a turn is kept there, so what was asked is asked
again, of a host that is started anew if need be; a turn gives the same bytes whoever makes it. A host that was stopped
is waited for as long as one may be silent; then whoever asks is told.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from headrace.clock import SystemClock, iso
from headrace.engines.asker import Asker, asker_now
from headrace.engines.base import EngineFailed
from headrace.engines.event_loop import LoopThread
from headrace.engines.host.address import HostAddress
from headrace.engines.host.asker_headers import headers_of
from headrace.engines.host.copies import State
from headrace.engines.host.lines import METRICS, MODELS
from headrace.engines.host.outcomes import ModelLost, error_in
from headrace.engines.host.silence import Watch, silent
from headrace.engines.host.starting import found_or_started
from headrace.engines.host.table_view import TABLE, Table
from headrace.engines.host.wanted import FACTS, Facts, Wanted
from headrace.errors import EngineUnavailable, text_of
from headrace.owners import owner_name

_log = logging.getLogger(__name__)
# How often a request is sent before it fails: a model that a turn kills would else be brought forever.
_NUM_TRIES = 3
# A connection that rests tells the host that there is still a client.
_KEEPALIVE_SECONDS = 86_400.0
_LOST = (aiohttp.ClientError, OSError)
# Who looks at the table sits before a terminal.
_TABLE_SECONDS_MAX = 30.0
# Of a table or its figures: a coordinator reads one at each look. A row has half a kilobyte.
_PAGE_BYTES_MAX = 4 * 2**20
# Who scrapes has a limit of its own.
_PAGE_SECONDS_MAX = 2.0


class Connection:
    """To one model of one host. The methods that ask belong to the event loop of their first call."""

    def __init__(self, host: HostAddress, wanted: Wanted, asker: Asker) -> None:
        """Does not connect yet. Args: asker: where nobody says for whom is asked."""
        self._host, self._wanted, self._asker = host, wanted, asker
        self._session: aiohttp.ClientSession | None = None
        self._watch: Watch | None = None
        self._is_closed = False
        # The state in which the model was found last that keeps it from work; empty: none.
        self._away = ""

    @property
    def model(self) -> str:
        """The model's name at the host."""
        return self._wanted.key

    def brought(self) -> Facts | None:
        """Blocks until the model is in memory; what it is. None: there is no host.

        Raises: HeadraceError: it cannot come, as if it had been opened here; EngineUnavailable: the host was lost again
            and again, or is silent.
        """
        return _run(self._brought())

    async def asked(self, path: str, body: bytes) -> bytes:
        """The whole answer to a request.

        Raises: HeadraceError: what it tells; EngineFailed: the host was lost again and again, or is silent.
        """
        for number in range(1, _NUM_TRIES + 1):
            try:
                async with self._answered(path, body) as response:
                    return await response.read()
            except (*_LOST, ModelLost) as error:
                await self._bring_again(error, is_last=number == _NUM_TRIES)
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def streamed(self, path: str, body: bytes, unit: str) -> AsyncIterator[aiohttp.StreamReader]:
        """The answer to a request as it comes. A host that is lost before it began is asked again.

        Raises: HeadraceError: what it tells; EngineFailed: the host was lost, or is silent.
        """
        for number in range(1, _NUM_TRIES + 1):
            has_begun = False
            try:
                async with self._answered(path, body, {"X-Request-Id": unit}) as response:
                    has_begun = True
                    yield response.content
                    return
            except (*_LOST, ModelLost) as error:
                await self._bring_again(error, is_last=has_begun or number == _NUM_TRIES)

    async def close(self) -> None:
        self._is_closed = True
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def _answered(
        self, path: str, body: bytes, headers: dict[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Raises: HeadraceError: what an answer of another status than 200 tells."""
        if self._is_closed:
            raise EngineFailed(f"The engine of {self._wanted.label} is closed.", may_be_the_turn=False)
        if self._session is None or self._watch is None or self._watch.why:
            # One that was silent may go on again.
            self._session = _session(self._host.socket_file)
            self._watch = Watch(self._session, self._host, self._tell_if_away)
        watch, address = self._watch, _url(f"/models/{self.model}{path}")
        headers = {**headers_of(asker_now(self._asker)), **(headers or {})}
        try:
            with watch:
                async with self._session.post(address, data=body, headers=headers) as response:
                    if response.status != 200:
                        raise error_in(await response.read())
                    yield response
        except _LOST:
            if not watch.why:
                raise
            raise EngineFailed(watch.why, may_be_the_turn=False) from None

    async def _bring_again(self, lost: Exception, *, is_last: bool) -> None:
        """Raises: EngineFailed: it was the last try, or there is no host any more. HeadraceError: it cannot come."""
        if not is_last and not self._is_closed:
            self._tell_lost("answered", lost)
        if is_last or self._is_closed or await self._brought() is None:
            raise EngineFailed(
                f"The engine host was lost while {self._wanted.label} answered: {lost}", may_be_the_turn=False
            ) from None

    async def _brought(self) -> Facts | None:
        """As `brought`. Whoever gives up waiting leaves nothing that waits on, or its process could not end."""
        lost: Exception | None = None
        for _ in range(_NUM_TRIES):
            if lost is not None:
                self._tell_lost("came", lost)
            # In a thread: a host that is started takes a second or two, and a minute at most.
            if not await asyncio.to_thread(found_or_started, self._host):
                return None
            try:
                return await self._put()
            except (*_LOST, ModelLost) as error:
                lost = error
        raise EngineUnavailable(f"The engine host was lost while it loaded {self._wanted.label}: {lost}") from lost

    async def _put(self) -> Facts:
        body = json.dumps(asdict(self._wanted)).encode()
        async with _session(self._host.socket_file) as session:
            watch = Watch(session, self._host, self._tell_if_away)
            try:
                with watch:
                    told = headers_of(asker_now(self._asker))
                    async with session.put(_url(f"/models/{self.model}"), data=body, headers=told) as response:
                        raw = await response.read()
            except _LOST:
                if not watch.why:
                    raise
                raise EngineUnavailable(watch.why) from None
            if response.status != 200:
                raise error_in(raw)
        try:
            return FACTS.checked(raw)
        except ValueError as error:
            raise EngineUnavailable(f"The engine host answered what cannot be read: {error}.") from None

    async def _tell_if_away(self) -> None:
        """Says once of each state that the model is in instead of working."""
        try:
            table = TABLE.checked(await _page(self._host.socket_file, MODELS))
        except ValueError:
            return
        copies = [row for row in table.data if row.id == self.model]
        if not copies or any(row.state == State.ON_DEVICE.value for row in copies):
            self._away = ""
            return
        row = min(copies, key=lambda one: one.state_seconds)
        if row.state != self._away:
            self._away = row.state
            _log.warning(
                "%s is not in the memory of the engine host at %s yet: it is %s since %s, and what it is asked waits.",
                *(self._wanted.label, self._host.socket_file, row.state, iso(SystemClock().now() - row.state_seconds)),
            )

    def _tell_lost(self, what: str, lost: Exception) -> None:
        label, host = self._wanted.label, f"engine host at {self._host.socket_file}"
        who = f"The process of {label} in the {host}" if isinstance(lost, ModelLost) else f"The {host}"
        it = "it" if isinstance(lost, ModelLost) else label
        _log.warning(
            "%s was lost while %s %s: %s. It is brought anew, and what was asked of it is asked again.",
            *(who, it, what, text_of(lost).rstrip(".")),
        )


def table_of(socket_file: Path, *, seconds_max: float = _TABLE_SECONDS_MAX) -> Table | None:
    """What a host holds; None: nobody listens there.

    Args: seconds_max: how long it is waited for.

    Raises: EngineUnavailable: what listens there is no engine host, does not answer in time, or is somebody else's.
    """
    return _asked_once(socket_file, "GET", MODELS, seconds_max)


def empty_place(socket_file: Path, place: str, *, seconds_max: float = _TABLE_SECONDS_MAX) -> Table | None:
    """Has what nobody uses at a place leave; returns the table as it begins to. Args, raises: as `table_of`."""
    return _asked_once(socket_file, "DELETE", f"/places/{quote(place, safe='')}/models", seconds_max)


def _asked_once(socket_file: Path, method: str, path: str, seconds_max: float) -> Table | None:
    async def got() -> bytes:
        async with (
            asyncio.timeout(seconds_max),
            _session(socket_file) as session,
            session.request(method, _url(path)) as response,
        ):
            return await _whole(response)

    try:
        return TABLE.checked(_run(got()))
    except TimeoutError:
        raise EngineUnavailable(silent(socket_file, seconds_max)) from None
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, PermissionError):
            raise EngineUnavailable(
                f"You may not ask the engine host at {socket_file}: permission denied, it belongs to "
                f"{owner_name(socket_file)}. Call this as that user."
            ) from None
        return None
    except (FileNotFoundError, aiohttp.ServerDisconnectedError):
        return None
    except (ValueError, *_LOST) as error:
        raise EngineUnavailable(f"What listens on {socket_file} is no engine host of this release: {error}") from None


async def come_seconds_of(socket_file: Path, keys: Collection[str]) -> float | None:
    """Until a host's models could work, as its table says; None: nobody knows, there is no host, or it is silent."""
    try:
        return TABLE.checked(await _page(socket_file, MODELS)).come_seconds(keys)
    except ValueError:
        return None


async def metrics_of(socket_file: Path) -> bytes:
    """A host's figures in Prometheus's text form; empty: there is no host, or it is silent."""
    return await _page(socket_file, METRICS)


async def _page(socket_file: Path, path: str) -> bytes:
    """Empty: there is no host, or it is silent."""
    try:
        async with (
            asyncio.timeout(_PAGE_SECONDS_MAX),
            _session(socket_file) as session,
            session.get(_url(path)) as response,
        ):
            return await _whole(response) if response.status == 200 else b""
    except (TimeoutError, ValueError, *_LOST):
        return b""


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    """Raises: ValueError: it is longer than a host's answer; only one that is no host, or lies, says more."""
    raw = bytearray()
    async for piece in response.content.iter_any():
        raw += piece
        if len(raw) > _PAGE_BYTES_MAX:
            raise ValueError(f"it answers more than {_PAGE_BYTES_MAX:,} bytes")
    return bytes(raw)


def _session(socket_file: Path) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(path=str(socket_file), limit=0, keepalive_timeout=_KEEPALIVE_SECONDS),
        # A model may wait for another's memory, and a batch for a slow model: as long as in this process.
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _url(path: str) -> str:
    return f"http://engine-host{path}"


def _run(work: Any) -> Any:
    # On a loop of its own: the caller may already run one.
    loop = LoopThread()
    try:
        return loop.run(work)
    finally:
        loop.close()
