"""A model's process, from the host's side: started, asked whether it has loaded, measured, ended."""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import aiohttp
import psutil

from headrace.engines.host.lines import SLEEP, WAKE
from headrace.engines.host.outcomes import error_in, error_of
from headrace.engines.host.wanted import FACTS, Facts, Place, Wanted, environment_at
from headrace.errors import EngineUnavailable, HeadraceError
from headrace.marked_processes import kill_marked
from headrace.this_machine import Held, MemoryLooks, descendants, is_stopped
from headrace.unix_sockets import listen_on_file

_log = logging.getLogger(__name__)
# A model that has answered its last turn frees itself at once; one that does not is not waited for.
_LEAVE_SECONDS = 5.0
_REPORT_BYTES_MAX = 2**20
_NOTE_SECONDS = 2.0
MARKER = "HEADRACE_ENGINE_HOST_MODEL"
"""Set in every process of a model in an engine host, in any session: the host's process id, and the model's socket."""
# An engine that takes longer to free its model hangs, and who asks for that model would wait with it. Freeing is quick.
_SLEEP_SECONDS_MAX = 60.0


class ChildProcess:
    """One process; used on one event loop."""

    def __init__(
        self, wanted: Wanted, place: Place, file: Path, *, sleep_seconds_max: float = _SLEEP_SECONDS_MAX
    ) -> None:
        """Starts nothing yet.

        Args:
            place: the one of those wanted.
            file: where its socket is to be.
            sleep_seconds_max: to free its model in.
        """
        self._wanted, self._place, self._file = wanted, place, file
        self._marker = f"{os.getpid()} {file}"
        self._sleep_seconds_max = sleep_seconds_max
        self._process: asyncio.subprocess.Process | None = None
        self._session: aiohttp.ClientSession | None = None
        self._looks = MemoryLooks()
        self._is_to_end = False
        self._stopped_since: float | None = None
        # Why it was ended in its work; empty: it was not.
        self._why = ""
        # Set once the host has taken note of its end.
        self.is_gone = asyncio.Event()

    @property
    def pid(self) -> int:
        """0: it has not been started."""
        return self._process.pid if self._process else 0

    @property
    def was_killed(self) -> bool:
        """By a signal of somebody else."""
        return self._process is not None and (self._process.returncode or 0) < 0 and not self._is_to_end

    @property
    def session(self) -> aiohttp.ClientSession:
        """For requests to it, whatever host their address names.

        Raises: aiohttp.ClientConnectionError: it has ended.
        """
        if self._session is not None and self._session.closed:
            raise aiohttp.ClientConnectionError("it has ended")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(path=str(self._file), limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                # There are none, and a jar is looked through for each request.
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            )
        return self._session

    async def opened(self) -> Facts:
        """Starts it, and waits until its model is loaded.

        Raises: HeadraceError: it cannot be; the process has ended or is about to.
        """
        listener = listen_on_file(self._file, "An engine host")
        # Not a pipe of the process's transport: its end would wait for all who hold the pipe.
        said, report = os.pipe()
        try:
            descriptor = listener.fileno()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "headrace.engines.host.child",
                str(os.getpid()),
                str(descriptor),
                stdin=asyncio.subprocess.PIPE,
                stdout=report,
                pass_fds=[descriptor],
                env={**environment_at(self._place, os.environ), MARKER: self._marker},
                # What it starts itself can then be ended with it.
                start_new_session=True,
            )
        except BaseException:
            os.close(said)
            raise
        finally:
            listener.close()
            os.close(report)
        if self._is_to_end:
            # Told so while the process was being made.
            self._signal(signal.SIGKILL)
        async with _lines_of(said) as lines:
            assert self._process.stdin
            with suppress(BrokenPipeError, ConnectionResetError):
                self._process.stdin.write(json.dumps(asdict(self._wanted)).encode())
                await self._process.stdin.drain()
                self._process.stdin.close()
            line = await self._report(lines)
        try:
            told = json.loads(line)
            if "facts" in told:
                return FACTS.checked(json.dumps(told["facts"]))
        except ValueError:
            raise EngineUnavailable(
                f"The process of {self._wanted.label} ended while it loaded ({await self.ended()}). The engine host's "
                "log has its last lines."
            ) from None
        raise error_of(told)

    async def _report(self, lines: asyncio.StreamReader) -> bytes:
        """Its line; empty: it has ended without one, though what it started may hold the pipe still."""
        reading = asyncio.ensure_future(lines.readline())
        ending = asyncio.ensure_future(self.ended())
        try:
            await asyncio.wait((reading, ending), return_when=asyncio.FIRST_COMPLETED)
            # What was written before the end is there.
            async with asyncio.timeout(_NOTE_SECONDS if not reading.done() else None):
                return await reading
        except TimeoutError:
            return b""
        finally:
            reading.cancel()
            ending.cancel()

    async def ended(self) -> str:
        """Waits until it has ended, and frees what it leaves; how it ended, for people."""
        process = self._process
        if process is None:
            return "not started"
        code = await process.wait()
        with suppress(ProcessLookupError, PermissionError):
            # What it started itself, if it could not end that any more; and what of that has left its session.
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.to_thread(kill_marked, MARKER, self._marker.__eq__)
        if self._session is not None:
            await self._session.close()
        self._file.unlink(missing_ok=True)
        if self._why:
            return self._why
        if code >= 0:
            return f"exit code {code}"
        with suppress(ValueError):
            return signal.Signals(-code).name
        return f"signal {-code}"

    async def wait_until_gone(self) -> None:
        """Of a process that answers no more: until its end was noted, or for a moment if it lives all the same."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.is_gone.wait(), _NOTE_SECONDS)

    async def sleep(self) -> None:
        """Has it let its weights go, and live on.

        Raises: HeadraceError, aiohttp.ClientError, OSError: it does not, or not in time; end it.
        """
        try:
            async with asyncio.timeout(self._sleep_seconds_max):
                await self._told(SLEEP)
        except TimeoutError:
            raise EngineUnavailable(f"it has not freed its model within {self._sleep_seconds_max:g} s") from None

    async def wake(self) -> None:
        """Has it bring its weights again. Raises: as `sleep`."""
        await self._told(WAKE)

    async def _told(self, word: str) -> None:
        async with self.session.post(f"http://model{word}") as answer:
            if answer.status != 200:
                raise error_in(await answer.read())

    def stopped_seconds(self, now: float) -> float:
        """For how long it has been found stopped, itself or a process that it has started, at each look.

        Args: now: monotonic seconds.
        """
        if not (self.pid and any(map(is_stopped, [self.pid, *descendants(self.pid)]))):
            self._stopped_since = None
            return 0.0
        self._stopped_since = now if self._stopped_since is None else self._stopped_since
        return now - self._stopped_since

    async def stop(self, *, at_once: bool = False, why: str = "") -> None:
        """Ends it, or has it end as soon as it is made; what it is doing is lost. Args: why: what `ended` says then."""
        self._is_to_end = True
        if self._process is None or self._process.returncode is not None:
            return
        self._why = self._why or why
        if not at_once:
            self._signal(signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), _LEAVE_SECONDS)
                return
        self._signal(signal.SIGKILL)

    def held(self) -> Held:
        """What it holds now of the machine's memory, with the processes that it has started."""
        return self._looks.at([self.pid, *descendants(self.pid)])

    def begin_looks(self) -> None:
        """From now on `held` tells the most anew. Call it while it does nothing."""
        self._looks.begin([self.pid, *descendants(self.pid)])

    def _signal(self, number: signal.Signals) -> None:
        assert self._process
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                # The process that was not waited for yet keeps its number.
                os.killpg(self._process.pid, number)


@asynccontextmanager
async def _lines_of(descriptor: int) -> AsyncIterator[asyncio.StreamReader]:
    """What comes through a pipe, which is closed afterwards."""
    reader = asyncio.StreamReader(limit=_REPORT_BYTES_MAX)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    try:
        yield reader
    finally:
        transport.close()


def remove_leftovers(socket_file: Path) -> None:
    """What a host that was killed has left: its models' sockets, and processes that they had started. Call it once the
    host's own socket is listened on, and before it has models."""
    for file in socket_file.parent.glob(f"{socket_file.name}.*"):
        if file.name.rpartition(".")[2].isdigit():
            with suppress(OSError):
                os.unlink(file)  # noqa: PTH108 (a socket, not a path of ours)

    def is_left(marker: str) -> bool:
        host, _, file = marker.partition(" ")
        is_ours = file.rpartition(".")[0] == str(socket_file) and host.isdecimal()
        return is_ours and (int(host) == os.getpid() or not psutil.pid_exists(int(host)))

    if killed := kill_marked(MARKER, is_left):
        _log.warning("processes that models of an earlier host had started were ended: %s", ", ".join(map(str, killed)))


def told_of(error: BaseException, wanted: Wanted) -> HeadraceError:
    """What clients are told if a model's process could not be started."""
    if isinstance(error, HeadraceError):
        return error
    return EngineUnavailable(f"The process of {wanted.label} cannot be started: {error}")
