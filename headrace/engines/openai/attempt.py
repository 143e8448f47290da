"""One request to one server: opened, read piece by piece, closed. Failures are named as in `meaning`'s table.

Every answer of a server, for bulk and live, enters here. It leaves this module bounded (in bytes; its caller bounds the
time), with the right types, encodable as UTF-8, and without our secrets. Errors leave without the library's own as
their cause, which would repeat headers, addresses and lines of the answer.
"""

import asyncio
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass

import aiohttp
from aiohttp import hdrs

from headrace.engines.openai.body import BoundedBody, answer_bytes_max
from headrace.engines.openai.meaning import FailureKind, characters_max, judged, retry_after_seconds
from headrace.engines.openai.wire import (
    AnswerBroken,
    Event,
    EventLines,
    Halves,
    is_event_stream,
    is_policy,
    parse_answer,
    parse_event,
    refusal_text,
)
from headrace.masking import Mask, MaskedPieces

_ERROR_BYTES_MAX = 65_536
# As many bytes as decide whether this is an event stream.
_FIRST_BYTES = 6
# How long to wait for the stream's end after its last event.
_DRAIN_SECONDS_MAX = 0.02
# Most notes on one answer: a stream could add one with each event.
_NUM_NOTES_MAX = 4


@dataclass(eq=False, repr=False)
class AttemptFailed(Exception):
    """`kind` None: the server refuses the turn itself, with `status`.

    `is_made`: the server made an answer, but an invalid one, and would charge for another. `by_policy`: as in
    `TurnRefused`.
    """

    kind: FailureKind | None
    message: str
    _: KW_ONLY
    status: int = 0
    retry_after_seconds: float | None = None
    timed_out: bool = False
    is_about_usage: bool = False
    is_made: bool = False
    by_policy: bool = False

    def __post_init__(self) -> None:
        super().__init__(self.message)


class Attempt:
    """Sends the request at the first `read`. `close` ends the connection unless the answer was read whole."""

    path = "/chat/completions"
    # Whether a refusal may be an outcome of its own (`by_policy`): text has no such rows.
    tells_policy = False

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        body: bytes,
        *,
        stream: bool,
        num_tokens_max: int,
        mask: Mask,
        request_id: str = "",
    ) -> None:
        """Args:
        stream: whether `body` asks for a stream. Servers may answer otherwise.
        num_tokens_max: as in `body`; limits the bytes that are read.
        mask: hides the secrets that the server knows.
        """
        self._session = session
        self._url = f"{base_url}{self.path}"
        self._body = body
        self._headers: dict[str, str] = {hdrs.CONTENT_TYPE: "application/json", hdrs.ACCEPT_ENCODING: "identity"}
        if request_id:
            self._headers["X-Request-Id"] = request_id
        self._whole_bytes_max = answer_bytes_max(num_tokens_max, stream=False)
        self._bytes_max = answer_bytes_max(num_tokens_max, stream=stream)
        self._characters_max = characters_max(num_tokens_max)
        self._num_tokens_max = num_tokens_max
        self._mask = mask
        self._written = mask.of_written
        self._response: aiohttp.ClientResponse | None = None
        self._bounded: BoundedBody | None = None
        self._lines: EventLines | None = None
        self._unread = b""
        self._halves = Halves()
        self._pieces = MaskedPieces(self._written)
        self._last = Event()
        self._num_events = 0
        self.num_characters = 0
        self.has_ended = False

    @property
    def num_output_tokens(self) -> int:
        """The server's count, or until it sends one, a token for each event."""
        return self._num_events if self._last.num_output_tokens is None else self._last.num_output_tokens

    async def read(self) -> list[Event]:
        """The events since the last read; at least one, or the end. Only the very last event has the finish reason and
        the counts.

        Raises: AttemptFailed.
        """
        try:
            if self._response is None:
                self._response = await self._opened()
                encoding = self._response.headers.get(hdrs.CONTENT_ENCODING)
                self._bounded = BoundedBody(encoding, self._bytes_max)
                self._lines = EventLines() if await self._is_events() else None
            return await (self._whole() if self._lines is None else self._events(self._lines))
        except AttemptFailed as error:
            failure = error
        except aiohttp.ClientConnectorError as error:
            failure = AttemptFailed("not_started", f"takes no connection ({type(error).__name__})")
        except aiohttp.ConnectionTimeoutError:
            failure = AttemptFailed("not_started", "takes no connection in time", timed_out=True)
        except (aiohttp.ClientError, OSError) as error:
            failure = AttemptFailed("broken", f"ended the connection ({type(error).__name__})")
        except ValueError as error:
            # aiohttp's parser raises it for some header lines.
            failure = AttemptFailed("broken", f"sent what is no HTTP ({type(error).__name__})")
        except AnswerBroken as error:
            failure = self._broken(error)
        raise failure.with_traceback(None)

    @property
    def ends_soon(self) -> bool:
        """The answer is whole, but for the transfer encoding's end: nobody needs to wait for that."""
        return self.has_ended and self._response is not None and not self._response.content.at_eof()

    async def drained(self) -> None:
        """Reads that end, so that the connection can be used again, and closes."""
        assert self._response is not None
        try:
            with suppress(TimeoutError, aiohttp.ClientError, OSError):
                async with asyncio.timeout(_DRAIN_SECONDS_MAX):
                    await self._response.content.readany()
        finally:
            self.close()

    def close(self) -> None:
        if self._response is not None:
            # A response that was read whole has returned its connection: nothing is left to close.
            self._response.close()

    async def _opened(self) -> aiohttp.ClientResponse:
        response = await self._session.post(self._url, data=self._body, headers=self._headers, allow_redirects=False)
        if response.status == 200:
            return response
        # Stored before its body is read, so that the connection is closed in any case.
        self._response = response
        wish = response.headers.get(hdrs.RETRY_AFTER)
        raw = await self._refusal(response)
        text = self._refusal_text(raw)
        raise AttemptFailed(
            judged(response.status, with_retry_after=wish is not None),
            # After 401 and 403 the server's text is left out: it may contain the key.
            f"answered {response.status}" if response.status in (401, 403) else f"answered {response.status}: {text}",
            status=response.status,
            retry_after_seconds=retry_after_seconds(wish, response.headers.get(hdrs.DATE)),
            is_about_usage="stream_options" in text,
            by_policy=self.tells_policy and is_policy(raw),
        )

    def _refusal_text(self, raw: bytes) -> str:
        return refusal_text(raw, self._mask)

    async def _refusal(self, response: aiohttp.ClientResponse) -> bytes:
        """The beginning of a refusal's body. If it breaks off or its encoding is broken, the rest is ignored: the
        status is enough."""
        found = b""
        with suppress(aiohttp.ClientError, OSError, AnswerBroken):
            bounded = BoundedBody(response.headers.get(hdrs.CONTENT_ENCODING), 16 * _ERROR_BYTES_MAX)
            while len(found) < _ERROR_BYTES_MAX and (raw := await response.content.readany()):
                found += bounded.feed(raw)
        return found[:_ERROR_BYTES_MAX]

    def _broken(self, error: AnswerBroken) -> AttemptFailed:
        said = self._mask(str(error))
        if error.status is None:
            return AttemptFailed("failing", f"sent a broken answer: {said}", is_made=True)
        kind = judged(error.status, with_retry_after=False)
        told = f"answered 200, and in it {error.status}: {said}"
        return AttemptFailed(
            kind, told, status=error.status, by_policy=kind is None and self.tells_policy and error.by_policy
        )

    async def _plain(self) -> bytes:
        """The next bytes of the answer; empty at its end."""
        assert self._response is not None
        assert self._bounded is not None
        if self._unread:
            raw, self._unread = self._unread, b""
            return raw
        while raw := await self._response.content.readany():
            if plain := self._bounded.feed(raw):
                return plain
        return b""

    async def _is_events(self) -> bool:
        """Decides by the answer's first bytes, since its content type may be wrong."""
        first = b""
        while len(first.lstrip()) < _FIRST_BYTES and (raw := await self._plain()):
            first += raw
        self._unread = first
        return is_event_stream(first)

    async def _whole(self) -> list[Event]:
        event = parse_answer(await self._all_bytes(), self._mask)
        event.text = self._written(event.text)
        self._note(event)
        return self._end([Event(text=event.text)])

    async def _all_bytes(self) -> bytes:
        assert self._bounded is not None
        self._bounded.num_bytes_max = self._whole_bytes_max
        parts: list[bytes] = []
        while raw := await self._plain():
            parts.append(raw)
        return b"".join(parts)

    async def _events(self, lines: EventLines) -> list[Event]:
        """Reads until there is an event, or the end."""
        while True:
            raw = await self._plain()
            events = [
                Event(text=text)
                for data in (lines.feed(raw) if raw else lines.rest())
                if (text := self._taken(parse_event(data, self._mask))) is not None
            ]
            if lines.num_bytes_kept > self._whole_bytes_max:
                raise AnswerBroken(f"an event of it is longer than {self._whole_bytes_max} bytes")
            if not raw or lines.is_done:
                if self._last.finish_reason is None and not lines.is_done:
                    raise AttemptFailed("broken", "ended the stream in its middle")
                self._halves.end()
                if rest := self._pieces.rest():
                    events.append(Event(text=rest))
                return self._end(events)
            if events:
                return events

    def _taken(self, event: Event) -> str | None:
        """The event's text that may be given out; None: the event made nothing."""
        text = self._halves.feed(event.text)
        self._note(event)
        return self._pieces.feed(text) if event.num_characters else None

    def _note(self, event: Event) -> None:
        last = self._last
        if event.num_characters:
            self._num_events += 1
            self.num_characters += event.num_characters
            if self.num_characters > self._characters_max:
                tokens = f"{self._num_tokens_max} tokens"
                raise AnswerBroken(f"it is longer than {self._characters_max} characters, more than {tokens} can be")
        last.finish_reason = event.finish_reason or last.finish_reason
        if event.num_prompt_tokens is not None:
            last.num_prompt_tokens = event.num_prompt_tokens
        if event.num_output_tokens is not None:
            last.num_output_tokens = event.num_output_tokens
        last.notes += [note for note in event.notes if note not in last.notes][: _NUM_NOTES_MAX - len(last.notes)]

    def _end(self, events: list[Event]) -> list[Event]:
        self.has_ended = True
        last = self._last
        last.finish_reason = last.finish_reason or "stop"
        last.notes = [self._mask(note) for note in last.notes]
        if self._lines is not None and not last.notes:
            # A server without counts is assumed to send one token for each event.
            last.num_output_tokens = self.num_output_tokens
        return [*events, last]
