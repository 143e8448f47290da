"""A live service's floor: models that a host must not give up for bulk work, as long as this process says so.

One request whose body never ends, a line for each renewal: a killed process's connection ends, and one that was stopped
sends no more lines, so in either case its floor goes.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from dataclasses import dataclass

import aiohttp

from headrace.engines.host.address import HostAddress
from headrace.store.objects import canonical_json
from headrace.store.small_objects import Record
from headrace.unix_sockets import is_listened_on

FLOOR = "/floor"
# A floor that was not renewed for so long is gone. A busy gateway's loop is late by seconds at most.
FLOOR_SECONDS = 30.0
_RENEW_SECONDS = 5.0
_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class FloorLine:
    """`keys`: the models that are to stay, in place of those of the line before."""

    keys: tuple[str, ...]


FLOOR_LINE = Record("Line of a floor", FloorLine)


class Floor:
    """Used on one event loop."""

    def __init__(self, host: HostAddress) -> None:
        self._host = host
        self._keys: tuple[str, ...] = ()
        self._changed = asyncio.Event()

    def hold(self, keys: Collection[str]) -> None:
        """The models that are to stay from now on; `run` tells the host."""
        if (wanted := tuple(sorted(keys))) != self._keys:
            self._keys = wanted
            self._changed.set()

    async def run(self) -> None:
        """Runs until cancelled. A host that is lost is told again once another one listens."""
        while True:
            if not self._keys:
                await self._changed.wait()
            if is_listened_on(self._host.socket_file):
                with suppress(aiohttp.ClientError, OSError):
                    await self._told()
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _told(self) -> None:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(path=str(self._host.socket_file)),
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
            ) as session,
            session.post(f"http://engine-host{FLOOR}", data=self._lines()) as response,
        ):
            await response.read()

    async def _lines(self) -> AsyncIterator[bytes]:
        while True:
            self._changed.clear()
            yield canonical_json({"keys": list(self._keys)}) + b"\n"
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _RENEW_SECONDS)
