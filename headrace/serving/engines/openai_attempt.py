"""One request to one server: opened, read piece by piece, closed. What went wrong is said in the dispatcher's words."""

import asyncio
from contextlib import suppress

import aiohttp
from aiohttp import hdrs

from headrace.serving.dispatch.dispatcher import FailureKind
from headrace.serving.engines.base import Turn
from headrace.serving.engines.openai_wire import (
    AnswerBroken,
    Event,
    EventLines,
    chat_body,
    judged,
    parse_answer,
    parse_event,
    refusal_text,
    retry_after_seconds,
)

_ERROR_BYTES_MAX = 65_536
# How long the end of a stream may follow its last event.
_DRAIN_SECONDS_MAX = 0.02


class AttemptFailed(Exception):
    """`kind` None: the server refuses the turn itself, with `status`."""

    def __init__(
        self,
        kind: FailureKind | None,
        message: str,
        *,
        status: int = 0,
        retry_after_seconds: float | None = None,
        timed_out: bool = False,
        is_about_usage: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind: FailureKind | None = kind
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self.timed_out = timed_out
        self.is_about_usage = is_about_usage


class Attempt:
    """Sends at the first `read`. `close` ends the connection unless the answer was read whole."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        turn: Turn,
        model: str,
        *,
        stream: bool,
        with_usage: bool,
        secrets: tuple[str, ...],
    ) -> None:
        self._session = session
        self._url = f"{base_url}/chat/completions"
        self._body = chat_body(turn, model, stream=stream, with_usage=with_usage)
        self._unit = turn.unit
        self._secrets = secrets
        self._response: aiohttp.ClientResponse | None = None
        self._lines: EventLines | None = None
        self._last = Event()
        self._num_events = 0
        self.num_characters = 0
        self.has_ended = False

    @property
    def num_output_tokens(self) -> int:
        """As the server counts them; until it says so, a token an event."""
        return self._num_events if self._last.num_output_tokens is None else self._last.num_output_tokens

    async def read(self) -> list[Event]:
        """What came since the last read, at least one event or the end. The last event of all has the finish reason
        and the counts, and stands alone in having them.

        Raises: AttemptFailed.
        """
        try:
            if self._response is None:
                self._response = await self._opened()
                if self._response.content_type != "text/event-stream":
                    event = parse_answer(await self._response.read())
                    self._note(event)
                    return self._end([Event(text=event.text)])
                self._lines = EventLines()
            return await self._events(self._response, self._lines or EventLines())
        except aiohttp.ClientConnectorError as error:
            raise AttemptFailed("not_started", f"takes no connection ({type(error).__name__})") from error
        except aiohttp.ConnectionTimeoutError as error:
            raise AttemptFailed("not_started", "takes no connection in time", timed_out=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise AttemptFailed("broken", f"ended the connection ({type(error).__name__})") from error
        except AnswerBroken as error:
            raise AttemptFailed("failing", f"sent a broken answer: {self._told(str(error))}") from error

    def close(self) -> None:
        if self._response is not None:
            # A response that was read whole has given its connection back already: nothing is left to close.
            self._response.close()

    async def _opened(self) -> aiohttp.ClientResponse:
        response = await self._session.post(
            self._url,
            data=self._body,
            headers={hdrs.CONTENT_TYPE: "application/json", "X-Request-Id": self._unit},
            allow_redirects=False,
        )
        if response.status == 200:
            return response
        # Before its body is read, so that whatever happens the connection is not forgotten.
        self._response = response
        wish = response.headers.get(hdrs.RETRY_AFTER)
        kind = judged(response.status, with_retry_after=wish is not None)
        text = refusal_text(await response.content.read(_ERROR_BYTES_MAX), self._secrets)
        raise AttemptFailed(
            kind,
            # A refused key is not repeated, nor what a server says of it.
            f"answered {response.status}" if response.status in (401, 403) else f"answered {response.status}: {text}",
            status=response.status,
            retry_after_seconds=retry_after_seconds(wish),
            is_about_usage="stream_options" in text,
        )

    async def _events(self, response: aiohttp.ClientResponse, lines: EventLines) -> list[Event]:
        events: list[Event] = []
        while not events:
            raw = await response.content.readany()
            for data in lines.feed(raw) if raw else lines.rest():
                event = parse_event(data)
                self._note(event)
                if event.num_characters:
                    events.append(Event(text=event.text))
            if not raw or lines.is_done:
                if self._last.finish_reason is None and not lines.is_done:
                    raise AttemptFailed("broken", "ended the stream in its middle")
                if not response.content.at_eof():
                    await _drained(response)
                return self._end(events)
        return events

    def _note(self, event: Event) -> None:
        last = self._last
        if event.num_characters:
            self._num_events += 1
            self.num_characters += event.num_characters
        last.finish_reason = event.finish_reason or last.finish_reason
        if event.num_prompt_tokens is not None:
            last.num_prompt_tokens = event.num_prompt_tokens
        if event.num_output_tokens is not None:
            last.num_output_tokens = event.num_output_tokens

    def _end(self, events: list[Event]) -> list[Event]:
        self.has_ended = True
        last = self._last
        last.finish_reason = last.finish_reason or "stop"
        last.num_output_tokens = self.num_output_tokens
        return [*events, last]

    def _told(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


async def _drained(response: aiohttp.ClientResponse) -> None:
    """What follows the last event is the end of the transfer encoding; read, it lets the connection be used again."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS_MAX):
            await response.content.readany()
