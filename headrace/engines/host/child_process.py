"""A model's process, from the host's side: started, asked whether it has loaded, measured, ended."""

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import aiohttp

from headrace.engines.host.lines import SLEEP, WAKE
from headrace.engines.host.outcomes import error_in, error_of
from headrace.engines.host.wanted import FACTS, Facts, Place, Wanted, environment_at
from headrace.errors import EngineUnavailable, HeadraceError
from headrace.this_machine import Held, MemoryLooks, descendants, is_stopped
from headrace.unix_sockets import listen_on_file

# A model that has answered its last turn frees itself at once; one that does not is not waited for.
_LEAVE_SECONDS = 5.0
_REPORT_BYTES_MAX = 2**20
_NOTE_SECONDS = 2.0
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
        try:
            descriptor = listener.fileno()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "headrace.engines.host.child",
                str(os.getpid()),
                str(descriptor),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                pass_fds=[descriptor],
                env=environment_at(self._place, os.environ),
                # What it starts itself can then be ended with it.
                start_new_session=True,
                limit=_REPORT_BYTES_MAX,
            )
        finally:
            listener.close()
        if self._is_to_end:
            # Told so while the process was being made.
            self._signal(signal.SIGKILL)
        assert self._process.stdin
        assert self._process.stdout
        with suppress(BrokenPipeError, ConnectionResetError):
            self._process.stdin.write(json.dumps(asdict(self._wanted)).encode())
            await self._process.stdin.drain()
            self._process.stdin.close()
        line = await self._process.stdout.readline()
        try:
            said = json.loads(line)
            if "facts" in said:
                return FACTS.checked(json.dumps(said["facts"]))
        except ValueError:
            raise EngineUnavailable(
                f"The process of {self._wanted.label} ended while it loaded ({await self.ended()}). The engine host's "
                "log has its last lines."
            ) from None
        raise error_of(said)

    async def ended(self) -> str:
        """Waits until it has ended, and frees what it leaves; how it ended, for people."""
        process = self._process
        if process is None:
            return "not started"
        code = await process.wait()
        with suppress(ProcessLookupError, PermissionError):
            # What it started itself, if it could not end that any more.
            os.killpg(process.pid, signal.SIGKILL)
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

    def _signal(self, number: signal.Signals) -> None:
        assert self._process
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                # The process that was not waited for yet keeps its number.
                os.killpg(self._process.pid, number)


def told_of(error: BaseException, wanted: Wanted) -> HeadraceError:
    """What clients are told if a model's process could not be started."""
    if isinstance(error, HeadraceError):
        return error
    return EngineUnavailable(f"The process of {wanted.label} cannot be started: {error}")
