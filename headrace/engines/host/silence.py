"""A host that was stopped, or that hangs, closes no connection and answers nothing: who waits for it looks whether it
still does, and tells what it waits for.

A batch may take hours, so its time says nothing. A host answers a look at once, whatever its models do.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import aiohttp

from headrace.engines.host.address import HostAddress
from headrace.unix_sockets import listener_pid

ALIVE = "/alive"
# Looks while somebody waits, in this share of the time that a host may be silent; at most so long after the last one,
# since a run that waits for seconds says what for.
_LOOK_SHARE, _LOOK_SECONDS_MAX = 0.25, 5.0


class Watch:
    """Looks while one of its blocks is entered, and then ends the session's requests if the host is silent.

    Used on one event loop.
    """

    def __init__(self, session: aiohttp.ClientSession, host: HostAddress, look: Callable[[], Awaitable[None]]) -> None:
        """Args: look: awaited at each look at which the host answers."""
        self._session, self._host, self._look_closer = session, host, look
        self._num_waiting = 0
        self._task: asyncio.Task[None] | None = None
        # Why the requests were ended; empty: they were not.
        self.why = ""

    def __enter__(self) -> None:
        self._num_waiting += 1
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._look(), name="engine host's silence")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._num_waiting -= 1
        if not self._num_waiting and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _look(self) -> None:
        seconds = self._host.silent_seconds
        while True:
            await asyncio.sleep(min(seconds * _LOOK_SHARE, _LOOK_SECONDS_MAX))
            try:
                async with asyncio.timeout(seconds), self._session.get(f"http://engine-host{ALIVE}"):
                    pass
            except TimeoutError:
                self.why = silent(self._host.socket_file, seconds)
                with suppress(Exception):
                    # Who waits sees its connection end.
                    await self._session.close()
                return
            except (aiohttp.ClientError, OSError):
                # It is gone: who waits sees that too.
                continue
            await self._look_closer()


def silent(socket_file: Path, seconds: float) -> str:
    """A sentence about a host that answers nothing."""
    pid = listener_pid(socket_file)
    named, whose = (f" (process {pid})", f" {pid}") if pid else ("", "")
    return (
        f"The engine host at {socket_file}{named} has answered nothing for {seconds:g} s: it was stopped, or hangs. "
        f"Let it go on (kill -CONT{whose}) or end it (kill -KILL{whose}); then try again."
    )
