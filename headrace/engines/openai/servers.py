"""One or several servers of the same model that speak OpenAI's protocol: all that is asked of them, chats or vectors,
goes through here.

A request is sent again only as the dispatcher allows: nothing was given out, and the previous attempt's connection is
closed, which makes servers drop the work. So callers need not retry. Time limits exist for connecting, for the first
piece (and silence between pieces), the attempt, and the whole request.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from typing import Any

import aiohttp

from headrace.engines.asker import asker_now
from headrace.engines.base import EngineBusy, EngineFailed, TurnRefused
from headrace.engines.deployment import Deployment
from headrace.engines.dispatch.dispatcher import Dispatcher
from headrace.engines.dispatch.health import Standing
from headrace.engines.dispatch.replica import Ticket, TurnState
from headrace.engines.openai.address import check_address
from headrace.engines.openai.attempt import Attempt, AttemptFailed
from headrace.engines.openai.coming import LIST_BYTES_MAX, come_seconds_in
from headrace.engines.openai.wire import Event
from headrace.masking import Mask, secrets_in, without_credentials

_log = logging.getLogger(__name__)

_CONNECT_SECONDS_MAX = 3.0
_PROBE_SECONDS_MAX = 1.0
# Of an answer whose client does not read, twice this is read ahead, in pieces of some hundred bytes. aiohttp's default
# of 256 KiB makes a few dozen such clients cost a gateway tens of MB.
_BUFFER_BYTES = 16 * 1024
# Servers drop idle connections, uvicorn after 5 s, and would lose a request sent at that moment.
_IDLE_SECONDS_MAX = 4.0
# How often to check silence, slowness, probes and waiting turns, while there are any.
_TICK_SECONDS = 0.05
# How old may be what a replica says of its model, and that it says nothing of it.
_COME_SECONDS_AGE_MAX = 1.0
_NOT_SAID_SECONDS = 60.0
# How many different notes on answers are logged.
_NUM_NOTES_MAX = 100


class ServerClient:
    """Asks servers, each request of one that the dispatcher chooses. Belongs to the event loop of its first request."""

    # What is asked, in messages.
    asked = "turn"

    def __init__(self, *, model: str, base_urls: Sequence[str], deployment: Deployment | None = None) -> None:
        """Does not connect yet.

        Raises: InvalidInput: no base URL, a duplicate, an invalid address, or a key that cannot be sent.
        """
        self._model = model
        self._urls = [url.rstrip("/") for url in base_urls]
        self._deployment = deployment or Deployment()
        self._api_key = api_key = self._deployment.api_key
        for url in self._urls:
            check_address(url, api_key)
        # Hides the servers' secrets in everything that they send back.
        self._mask = Mask([api_key, *(secret for url in self._urls for secret in secrets_in(url))])
        names = [without_credentials(url) for url in self._urls]
        self._dispatcher = Dispatcher(names, time.monotonic, self._deployment.dispatch)
        self._noted: set[tuple[str, str]] = set()
        # Replicas that reject `stream_options`.
        self._without_usage: set[int] = set()
        self._session: aiohttp.ClientSession | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._waiting: dict[Ticket, asyncio.Future[None]] = {}
        self._scopes: dict[Ticket, asyncio.Timeout] = {}
        self._probes: set[asyncio.Task[Any]] = set()
        # When each replica is asked how soon it could answer.
        self._listed_at = [float("-inf")] * len(self._urls)
        self._is_closed = False

    @property
    def dispatcher(self) -> Dispatcher:
        """For metrics: the knowledge about each replica."""
        return self._dispatcher

    async def close(self) -> None:
        """Fails the turns under way."""
        self._end_turns()
        tasks = [*self._probes, *([self._ticker] if self._ticker else [])]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        if self._session is not None:
            await self._session.close()

    def _end_turns(self) -> None:
        self._is_closed = True
        for scope in list(self._scopes.values()):
            scope.reschedule(0.0)
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)

    # --- a request ---

    async def _asked(
        self,
        ask: Callable[[Ticket], Attempt],
        num_tokens_max: int,
        *,
        stream: bool,
        give_out: bool,
        num_prompt_characters: int = 0,
    ) -> AsyncGenerator[tuple[Event, str], None]:
        """Events of the attempt that succeeds: with `give_out` as they come, else one with all of the text. The last
        has a finish reason.

        Args: ask: makes an attempt at the ticket's replica. num_prompt_characters: 0: they do not matter.
        """
        ends_at = time.monotonic() + self._deployment.turn_seconds_max
        ticket = self._dispatcher.enter(
            num_tokens_max,
            num_prompt_characters=num_prompt_characters,
            is_in_pieces=stream,
            asker=asker_now(self._deployment.asker),
        )
        self._keep_ticking()
        try:
            while True:
                if ticket.state is not TurnState.LIVE:
                    await self._until_live(ticket, ends_at)
                if self._is_closed:
                    raise EngineFailed(f"The engine of {self._model} is being closed.", may_be_the_turn=False)
                replica = self._dispatcher.replicas[ticket.replica].name
                attempt = ask(ticket)
                try:
                    async with aclosing(
                        self._events(attempt, ticket, ends_at, stream=stream, give_out=give_out)
                    ) as events:
                        async for event in events:
                            self._note(replica, event)
                            yield event, replica
                except AttemptFailed as failure:
                    self._after_failure(ticket, failure)
                    continue
                if ticket.state is TurnState.DONE:
                    return
                # The dispatcher took it off its replica; the connection is closed.
                self._dispatcher.closed(ticket)
                self._let_go()
        finally:
            if ticket.state is not TurnState.DONE and ticket.state is not TurnState.GIVEN_UP:
                self._dispatcher.left(ticket)
            self._let_go()

    async def _events(
        self, attempt: Attempt, ticket: Ticket, ends_at: float, *, stream: bool, give_out: bool
    ) -> AsyncGenerator[Event, None]:
        """Runs one attempt and closes it in any case. Yields only outside of time limits, so a slow client's reading
        time does not count against the replica."""
        texts: list[str] = []
        attempt_seconds = self._deployment.attempt_seconds_max
        attempt_ends_at = min(ends_at, time.monotonic() + attempt_seconds)
        # A whole answer is silent until its end.
        silence_max = self._deployment.first_piece_seconds_max if stream else attempt_seconds
        try:
            while True:
                now = time.monotonic()
                limit = min(attempt_ends_at, now + silence_max)
                try:
                    async with asyncio.timeout_at(asyncio.get_running_loop().time() + limit - now) as scope:
                        self._scopes[ticket] = scope
                        events = await attempt.read()
                except TimeoutError:
                    if ticket.state is TurnState.LEAVING:
                        return
                    raise AttemptFailed(
                        "broken",
                        f"was not done in {attempt_seconds:g} s"
                        if limit == attempt_ends_at < ends_at
                        else f"sent nothing for {silence_max:g} s"
                        if limit < ends_at
                        else "was not done in time",
                        timed_out=True,
                    ) from None
                finally:
                    self._scopes.pop(ticket, None)
                if ticket.state is TurnState.LEAVING:
                    return
                if attempt.has_ended:
                    # Reported before anything is given out: the replica is done, whatever the client does.
                    self._dispatcher.answered(ticket, attempt.num_output_tokens)
                    self._let_go()
                elif events:
                    self._dispatcher.heard(ticket, attempt.num_characters)
                    if give_out and any(event.text for event in events):
                        self._dispatcher.give_out(ticket)
                if give_out:
                    for event in events:
                        yield event
                else:
                    texts += [event.text for event in events]
                    if attempt.has_ended:
                        last = events[-1]
                        last.text = "".join(texts)
                        yield last
                if attempt.has_ended:
                    return
        finally:
            if attempt.ends_soon and not self._is_closed:
                self._begin(attempt.drained())
            else:
                attempt.close()

    def _note(self, replica: str, event: Event) -> None:
        """Logs an answer's invalid fields, once for each replica and note."""
        for note in event.notes:
            if (replica, note) not in self._noted and len(self._noted) < _NUM_NOTES_MAX:
                self._noted.add((replica, note))
                _log.warning("replica %s: %s", replica, note)

    def _after_failure(self, ticket: Ticket, failure: AttemptFailed) -> None:
        """Returns if the turn may be tried again. Raises: TurnRefused, EngineFailed."""
        replica = self._dispatcher.replicas[ticket.replica].name
        why = f"{replica} {failure}"
        if failure.kind is None and not ticket.is_given_out:
            if failure.is_about_usage and ticket.replica not in self._without_usage:
                self._without_usage.add(ticket.replica)
                self._dispatcher.failed(ticket, "busy", why, retry_after_seconds=0.0)
                return
            self._dispatcher.refused(ticket)
            raise TurnRefused(
                f"The engine refuses this {self.asked}: {why}.", status=failure.status, by_policy=failure.by_policy
            )
        # Once a part was given out, the turn can no longer be refused.
        kind = failure.kind or "failing"
        state = self._dispatcher.failed(
            ticket, kind, why, retry_after_seconds=failure.retry_after_seconds, is_paid=failure.is_made
        )
        self._let_go()
        if state is TurnState.GIVEN_UP:
            advice = f" Check base_url, the API key, and the model {self._model!r}." if kind == "unusable" else ""
            raise EngineFailed(
                f"The {self.asked} failed at every attempt; the last: {why}.{advice}", timed_out=failure.timed_out
            )

    async def _until_live(self, ticket: Ticket, ends_at: float) -> None:
        """Raises: EngineBusy, EngineFailed: no replica takes the turn in time."""
        self._let_go()
        if ticket.state is TurnState.HELD:
            future = self._waiting[ticket] = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(max(0.0, ends_at - time.monotonic())):
                    await future
            except TimeoutError:
                raise EngineFailed(
                    f"No server had room in time{_last(ticket)}.", timed_out=True, may_be_the_turn=False
                ) from None
            finally:
                self._waiting.pop(ticket, None)
        if ticket.state is TurnState.GIVEN_UP:
            if ticket.retry_after_seconds is not None:
                raise EngineBusy(
                    f"Every server is busy{_last(ticket)}.", retry_after_seconds=ticket.retry_after_seconds
                )
            raise EngineFailed(f"No server answers{_last(ticket)}.", may_be_the_turn=False)

    # --- what happens beside the turns ---

    def _let_go(self) -> None:
        """Wakes the waiting turns that can be sent now."""
        for ticket in self._dispatcher.assign():
            future = self._waiting.get(ticket)
            if future is not None and not future.done():
                future.set_result(None)

    def _keep_ticking(self) -> None:
        if self._ticker is None or self._ticker.done():
            self._ticker = asyncio.get_running_loop().create_task(self._tick())

    async def _tick(self) -> None:
        while not self._dispatcher.is_idle:
            # Pending reads run first, so that an attempt whose answer has arrived is not abandoned.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for ticket in self._dispatcher.to_abandon():
                scope = self._scopes.get(ticket)
                if scope is not None:
                    scope.reschedule(asyncio.get_running_loop().time())
            for index in self._dispatcher.probes_due():
                self._begin(self._probe(index))
            self._ask_for_come_seconds()
            self._let_go()
            for ticket in self._dispatcher.to_give_up():
                future = self._waiting.get(ticket)
                if future is not None and not future.done():
                    future.set_result(None)
            await asyncio.sleep(_TICK_SECONDS)

    def _begin(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    def _ask_for_come_seconds(self) -> None:
        """Of whom turns could go to, where there is a choice."""
        now = time.monotonic()
        for index, replica in enumerate(self._dispatcher.replicas if len(self._urls) > 1 else ()):
            if now >= self._listed_at[index] and replica.health.standing is not Standing.AWAY:
                self._listed_at[index] = now + _COME_SECONDS_AGE_MAX
                self._begin(self._list_models(index))

    async def _list_models(self, index: int) -> int | None:
        """The status of the server's list of models, if it answers; notes how long the model takes to come."""
        try:
            async with self._open_session().get(
                f"{self._urls[index]}/models",
                timeout=aiohttp.ClientTimeout(total=_PROBE_SECONDS_MAX),
                # The key is only for this server.
                allow_redirects=False,
            ) as response:
                raw = await _beginning(response.content) if response.status == 200 else b""
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None
        seconds = come_seconds_in(raw, self._model)
        if seconds is None:
            self._listed_at[index] = time.monotonic() + _NOT_SAID_SECONDS
        self._dispatcher.told(index, seconds or 0.0)
        return response.status

    async def _probe(self, index: int) -> None:
        """Any answer but a server error is a sign of life: the server need not know this path."""
        is_alive = False
        try:
            status = await self._list_models(index)
            is_alive = status is not None and status < 500
        finally:
            self._dispatcher.probed(index, is_alive=is_alive)
        if is_alive:
            _log.info("replica %s answers again", self._dispatcher.replicas[index].name)
        self._let_go()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # The dispatcher limits connections; a limit here would hide turns from it.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS_MAX),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS_MAX),
                headers={"Authorization": f"Bearer {self._api_key}"} if self._api_key else {},
                cookie_jar=aiohttp.DummyCookieJar(),
                # The attempt decompresses, and counts the bytes.
                auto_decompress=False,
                read_bufsize=_BUFFER_BYTES,
            )
        return self._session


async def _beginning(content: aiohttp.StreamReader) -> bytes:
    found = b""
    while len(found) < LIST_BYTES_MAX and (raw := await content.readany()):
        found += raw
    return found


def _last(ticket: Ticket) -> str:
    return f"; the last attempt: {ticket.last_failure}" if ticket.last_failure else ""
