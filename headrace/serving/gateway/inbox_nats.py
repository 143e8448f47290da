"""Reads one campaign's stream of NATS JetStream into the inbox's log, beside the gateway's units.

What is read is by the log's own position, which changes with the events in one transaction; only then are messages
acknowledged. What is next is decided in `headrace.inbox.stream_reading`; here are a connection and time. Whatever fails
ends the connection, and the next one goes on from the position.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from headrace.clock import Clock
from headrace.errors import reason_of
from headrace.inbox.events import Event, Refused
from headrace.inbox.intake import Intake
from headrace.inbox.log import LogUnavailable
from headrace.inbox.stream_messages import Message, event_of_message
from headrace.inbox.stream_reading import Reading, StreamFacts, begun, missing
from headrace.inbox.stream_rules import NatsStream
from headrace.inbox.streams import RefusedMessage, StreamPosition, StreamProgress, StreamTables
from headrace.serving.gateway.jetstream import Delivered, JetStream, JetStreamUnavailable, connected
from headrace.serving.gateway.metrics import Metrics
from headrace.serving.gateway.records import Records

_NUM_MESSAGES = 500
_RETRY_SECONDS, _RETRY_SECONDS_MAX = 0.5, 30.0
# How long an event that has to wait is not asked for again.
_HELD_SECONDS_MAX = 5.0
# Parsing so many takes about a millisecond; then others have their turn.
_NUM_A_TURN = 50
_MICROSECONDS = 1_000_000

RefusalOf = Callable[[Event], Refused | None]


class StreamReader:
    """Belongs to the event loop in which `run` runs."""

    def __init__(
        self,
        campaign: str,
        stream: NatsStream,
        intake: Intake,
        *,
        refusal_of: RefusalOf,
        environment: Mapping[str, str],
        clock: Clock,
        records: Records,
        metrics: Metrics,
    ) -> None:
        """Args: refusal_of: why an event cannot be taken now or ever; None: it can, and counts as taken.

        Raises: InvalidInput: what the stream is opened with is not there.
        """
        self._campaign, self._stream, self._intake = campaign, stream, intake
        self._subject = stream.subject
        self._consumer = stream.consumer or f"headrace-{campaign}"
        self._login = stream.login(environment)
        self._refusal_of, self._clock, self._records, self._metrics = refusal_of, clock, records, metrics
        self._tables = StreamTables(intake.directory)
        self._position: StreamPosition | None = self._tables.position(campaign)
        self._num_refused = self._tables.num_refused(campaign)
        self._num_behind: int | None = None
        self._told: str | None = None

    def figures(self) -> dict[str, float]:
        return {
            "stream_messages": float("nan") if self._num_behind is None else float(self._num_behind),
            "stream_refused_messages": float(self._num_refused),
            "stream_reading": 1.0 if self._told == "" else 0.0,
        }

    async def run(self) -> None:
        """Until it is cancelled; what was read and not acknowledged is known to the next gateway with this log."""
        pause_seconds = _RETRY_SECONDS
        while True:
            try:
                async with connected(self._stream, self._consumer, self._login) as jetstream:
                    found = await self._begin(jetstream)
                    delivered = await self._delivered(jetstream, found)
                    self._tell("")
                    pause_seconds = _RETRY_SECONDS
                    await self._read(jetstream, found, delivered)
            except Exception as error:  # noqa: BLE001 (whatever it is, nothing was lost by it, and others go on)
                self._tell(reason_of(error))
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _RETRY_SECONDS_MAX)

    async def _begin(self, jetstream: JetStream) -> StreamFacts:
        """Finds where to go on."""
        known = self._position
        found = await jetstream.facts(known.sequence if known else 0)
        position = begun(known, found, campaign=self._campaign, begins_now=self._stream.begins == "now")
        changed = position.note if known is not None and position.note != known.note else ""
        if changed:
            self._records.event("stream has changed", campaign=self._campaign, why=changed)
        if found.first > position.sequence + 1:
            num, said = missing(position.sequence, found.first, found, subject=self._subject)
            note = f"{changed} {self._noted(said, num)}".strip() if num else position.note
            position = replace(position, sequence=found.first - 1, written_at=0, note=note)
        if position != known:
            # At once, so that a stream that begins with the next message does so however often this is killed.
            await self._take([], StreamProgress(position=position))
        self._position = position
        return found

    async def _delivered(self, jetstream: JetStream, found: StreamFacts) -> Delivered:
        """What the consumer has delivered, to whomever: that is to be read from the stream."""
        assert self._position is not None, "it was begun"
        after = self._position.sequence
        delivered = await jetstream.delivered(after=after, is_kept=found.is_kept)
        if delivered.sequence > (await jetstream.facts()).last:
            # Of a stream that lost messages: it would pass over those that get the same numbers.
            if not found.is_kept:
                raise JetStreamUnavailable(
                    f"consumer {self._consumer} has delivered up to {delivered.sequence:,}, which stream {found.name} "
                    "does not have: delete the consumer"
                )
            await jetstream.remove_consumer()
            delivered = await jetstream.delivered(after=after, is_kept=True)
        self._num_behind = delivered.num_behind
        return delivered

    async def _read(self, jetstream: JetStream, found: StreamFacts, delivered: Delivered) -> None:
        """Until the connection is gone."""
        assert self._position is not None, "it was begun"
        reading = Reading(self._position.sequence)
        await self._catch_up(jetstream, reading, delivered)
        while True:
            following: list[Message] = []
            known: list[Message] = []
            came = await jetstream.pull(_NUM_MESSAGES)
            for message in came:
                place = reading.place(message.sequence, message.delivery)
                if place == "behind a gap":
                    await self._keep(jetstream, following)
                    following = []
                    await self._catch_up(jetstream, reading, await self._delivered(jetstream, found))
                    if (place := reading.place(message.sequence, message.delivery)) != "known":
                        raise JetStreamUnavailable("the consumer knows fewer deliveries than it has made")
                (following if place == "next" else known).append(message)
            await self._keep(jetstream, following)
            await jetstream.acknowledge(known)
            if came:
                self._num_behind = came[-1].num_behind

    async def _catch_up(self, jetstream: JetStream, reading: Reading, delivered: Delivered) -> None:
        """Reads the stream itself up to what its consumer has delivered, to whomever."""
        assert self._position is not None, "it was begun"
        some: list[Message] = []
        after = self._position.sequence
        while after < delivered.sequence:
            message = await jetstream.next_stored(after)
            if message is None or message.sequence > delivered.sequence:
                break
            some.append(message)
            after = message.sequence
            if len(some) == _NUM_MESSAGES:
                await self._keep(jetstream, some)
                some = []
        await self._keep(jetstream, some)
        reading.caught_up(max(delivered.sequence, self._position.sequence), delivered.num)

    async def _keep(self, jetstream: JetStream, messages: Sequence[Message]) -> None:
        """Takes messages that follow the position, and acknowledges them. Waits for events that have to wait."""
        if not messages:
            return
        assert self._position is not None, "it was begun"
        note = await self._missing(jetstream, messages)
        taken: list[Message] = []
        refused: list[tuple[Message, str]] = []
        events: list[Event] = []
        for number, message in enumerate(messages):
            if number and number % _NUM_A_TURN == 0:
                await asyncio.sleep(0)
            event = event_of_message(message, campaign=self._campaign, tenant=self._stream.tenant)
            while isinstance(event, Event) and (refusal := self._refusal_of(event)) is not None:
                if refusal.retry_after_seconds is None:
                    event = refusal
                    break
                # What comes before it is not held back by it.
                await self._write(jetstream, taken, events, refused, note)
                taken, events, refused = [], [], []
                self._tell_held(refusal.reason)
                await asyncio.sleep(min(refusal.retry_after_seconds, _HELD_SECONDS_MAX))
            if isinstance(event, Event):
                taken.append(message)
                events.append(event)
            else:
                refused.append((message, event.reason))
        await self._write(jetstream, taken, events, refused, note)
        self._tell("")

    async def _missing(self, jetstream: JetStream, messages: Sequence[Message]) -> str:
        """The note that the position has behind these messages: on what is gone between them, if that is new."""
        assert self._position is not None, "it was begun"
        note, before, found = self._position.note, self._position.sequence, None
        for message in messages:
            if message.sequence > before + 1:
                found = found or await jetstream.facts()
                num, said = missing(before, message.sequence, found, subject=self._subject)
                note = self._noted(said, num) if num else note
            before = message.sequence
        return note

    def _noted(self, said: str, num_missing: int) -> str:
        self._metrics.inbox_missing(self._campaign, num_missing)
        self._records.event("stream lacks messages", campaign=self._campaign, why=said)
        return said

    async def _write(
        self,
        jetstream: JetStream,
        taken: Sequence[Message],
        events: list[Event],
        refused: Sequence[tuple[Message, str]],
        note: str,
    ) -> None:
        if not taken and not refused:
            return
        assert self._position is not None, "it was begun"
        last = max([*taken, *(message for message, _ in refused)], key=lambda message: message.sequence)
        position = replace(self._position, sequence=last.sequence, written_at=last.written_at, note=note)
        kept = [self._refused(message, reason) for message, reason in refused]
        is_new = await self._take(events, StreamProgress(position=position, refused=kept))
        self._position = position
        self._metrics.inbox_events(events, is_new)
        await jetstream.acknowledge(taken)
        if refused:
            self._num_refused += len(refused)
            self._records.event("messages refused", campaign=self._campaign, num=len(refused), last=last.sequence)
            await jetstream.acknowledge([message for message, _ in refused], refused=True)

    async def _take(self, events: list[Event], progress: StreamProgress) -> list[bool]:
        """Tries for as long as the log's disk takes nothing."""
        pause_seconds = _RETRY_SECONDS
        while True:
            try:
                return await self._intake.take(events, progress=progress)
            except LogUnavailable as error:
                self._tell(reason_of(error))
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _RETRY_SECONDS_MAX)

    def _refused(self, message: Message, reason: str) -> RefusedMessage:
        assert self._position is not None, "it was begun"
        return RefusedMessage(
            campaign=self._campaign,
            stream=self._position.stream,
            made_at=self._position.made_at,
            sequence=message.sequence,
            subject=message.subject,
            reason=reason,
            at=int(self._clock.now() * _MICROSECONDS),
            data=message.data,
        )

    def _tell_held(self, reason: str) -> None:
        if self._told != reason:
            self._records.event("stream waits", campaign=self._campaign, why=reason)
        self._told = reason

    def _tell(self, problem: str) -> None:
        if problem != self._told:
            event = "stream not read" if problem else "stream is read"
            more = {"why": problem} if problem else {"consumer": self._consumer}
            self._records.event(event, campaign=self._campaign, stream=self._stream.stream, **more)
        self._told = problem
