"""Takes events from many producers at once: one thread writes the log, another seals what is closed.

Producers that wait share a transaction, and with it one wait for the disk: a group is written once 64 of them wait, or
2 ms after the first; who has been alone is not kept waiting for others. A producer hears that its events are taken
after they are on the disk, never before. One that is killed or leaves in between sends them again: the log knows them.

A store that does not answer stops the sealing and no producer; the log keeps what comes, as long as its disk has room.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from headrace.clock import Clock
from headrace.errors import reason_of
from headrace.handoff.erasures import ErasedData
from headrace.inbox.events import Event
from headrace.inbox.log import EventLog, LogReader, LogUnavailable
from headrace.inbox.rules import InboxRules
from headrace.inbox.sealer import SealerOf, SealingThread
from headrace.inbox.streams import StreamProgress
from headrace.inbox.turn_rows import TurnRow

_NUM_PRODUCERS, _GROUP_SECONDS = 64, 0.002
# Of one transaction; a producer's own events are never divided.
_GROUP_EVENTS = 4_000
# Events that may wait for the writer: some seconds of its work.
_WAITING_EVENTS_MAX = 50_000
_TICK_SECONDS = 0.25
_MICROSECONDS = 1_000_000

_Answer = list[bool] | LogUnavailable


class Record(Protocol):
    """Writes what happened, with its facts, into the process's log; called from any thread."""

    def __call__(self, what: str, /, **facts: Any) -> None: ...


class IntakeFull(LogUnavailable):
    """More events wait for the log than it writes in some seconds."""


@dataclass(frozen=True, kw_only=True)
class CampaignStanding:
    """What a campaign's inbox has to do.

    Attributes:
        num_waiting: events that are taken and not sealed.
        oldest: when the first of them came in, seconds since the epoch; None: there is none.
        watermark: seconds since the epoch; None: no event came yet.
        stopped: why none of its windows is sealed any more; empty: they are.
        tenants: the same number, by tenant.
    """

    num_waiting: int = 0
    oldest: float | None = None
    watermark: float | None = None
    stopped: str = ""
    tenants: Mapping[str, int] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class _Producer:
    events: Sequence[Event]
    future: "asyncio.Future[list[bool]]"
    turns: Sequence[TurnRow] = ()
    progress: StreamProgress | None = None

    @property
    def num(self) -> int:
        return len(self.events) + len(self.turns)


class Intake:
    """One gateway's log and its threads. `take` is called in the event loop that `start` was called in.

    Attributes:
        standings: by campaign, as of the last quarter of a second.
        log: the log's nonce.
        erased: numbers of the store's erasures that the log has carried out.
    """

    def __init__(
        self,
        directory: Path,
        rules: Mapping[str, InboxRules],
        sealer_of: SealerOf,
        *,
        clock: Clock,
        record: Record,
        sealed_waiting: Callable[[str], Mapping[str, int]] = lambda _: {},
    ) -> None:
        """Args:
            directory: the log's; made if there is none.
            sealer_of: makes the sealer of a log, by its nonce.
            sealed_waiting: as for `EventLog`; called from the log's thread.

        Raises:
            InvalidInput, StoreRefused: the log cannot be written by this process.
            OtherLog: a campaign's windows are another log's.
            StoreUnavailable: nobody can tell, for now.
        """
        self._log = EventLog(directory, rules, sealed_waiting)
        try:
            sealer = sealer_of(self._log.nonce)
            for campaign, windows in self._log.windows.items():
                sealer.claim(campaign, windows.standing.next_number - 1)
            self._sealing = SealingThread(sealer, self._log.reader(), record)
        except BaseException:
            self._log.close()
            raise
        self._clock, self._record = clock, record
        self._changed = threading.Condition()
        self._producers: deque[_Producer] = deque()
        self._num_events = self._num_queued = self._num_written = 0
        self._is_alone = True
        # Call → the epoch and number of its last event that the store has.
        self._sealed_turns: dict[str, tuple[int, int]] = {}
        self._is_closing = False
        self.directory, self.nonce, self.erased = directory, self._log.nonce, self._log.erased()
        self._to_erase: deque[tuple[int, ErasedData, Future[int], int]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="inbox-log", daemon=True)
        self._look()

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._sealing.start()
        self._thread.start()

    async def take(self, events: Sequence[Event], *, progress: StreamProgress | None = None) -> list[bool]:
        """Returns once all of them are on the disk. False: that one was taken before.

        Args:
            progress: of the stream that they are from, kept in the same transaction.

        Raises:
            LogUnavailable: none was taken.
        """
        return await self.begin(events, progress=progress)

    def begin(self, events: Sequence[Event], *, progress: StreamProgress | None = None) -> "asyncio.Future[list[bool]]":
        """As `take`, for who does something else until then."""
        return self._wait(_Producer(events, self._new_future(), progress=progress))

    def keep(self, turns: Sequence[TurnRow]) -> "asyncio.Future[list[bool]]":
        """Takes turn events; what it returns is done once they are on the disk. In the order in which it is called.

        Raises: LogUnavailable: none was taken; what it returns raises that, too.
        """
        return self._wait(_Producer((), self._new_future(), turns))

    def forget(self, call: str, epoch: int, sequence: int) -> None:
        """The store has a call as it is after this event of it; the log forgets that and those before, soon."""
        with self._changed:
            self._sealed_turns[call] = epoch, sequence

    def reader(self) -> LogReader:
        """Reads what is kept, from another thread."""
        return self._log.reader()

    def _new_future(self) -> "asyncio.Future[list[bool]]":
        assert self._loop is not None, "the intake was not started"
        return self._loop.create_future()

    def _wait(self, producer: _Producer) -> "asyncio.Future[list[bool]]":
        with self._changed:
            if self._is_closing:
                raise LogUnavailable("The inbox's log is being closed.")
            if self._num_events + producer.num > _WAITING_EVENTS_MAX:
                raise IntakeFull(f"{self._num_events:,} events wait for the inbox's log already.")
            self._producers.append(producer)
            self._num_events += producer.num
            self._num_queued += 1
            # The writer waits for the first, then until there are enough for a group.
            if len(self._producers) in (1, _NUM_PRODUCERS) or self._num_events >= _GROUP_EVENTS:
                self._changed.notify()
        return producer.future

    def erase(self, number: int, data: ErasedData) -> "Future[int]":
        """As `EventLog.erase`, by the writer; called from any thread."""
        future: Future[int] = Future()
        with self._changed:
            # What waits now is written before.
            self._to_erase.append((number, data, future, self._num_queued))
            self._changed.notify()
        return future

    def wait_for_sealing(self) -> None:
        """Returns once no window is being sealed of events as they were before; the store may take its time."""
        self._sealing.wait_for_attempt()

    def close(self, timeout_seconds: float | None = None) -> None:
        """Writes what waits and ends both threads. What is not sealed is by the next process with this log.

        Args:
            timeout_seconds: a store that hangs is left after it.
        """
        self._sealing.close(timeout_seconds)
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()
        self._log.close()

    def _run(self) -> None:
        next_tick, has_more = 0.0, True
        unmarked: list[int] = []
        while True:
            group, is_closing = self._next_group(0.0 if has_more else next_tick - time.monotonic())
            if group:
                self._write(group)
                self._num_written += len(group)
            self._erase()
            try:
                unmarked += self._sealing.take_sealed()
                if unmarked:
                    self._log.mark_sealed(unmarked)
                    unmarked, has_more = [], True
                has_more = has_more and self._log.forget_sealed()
                if time.monotonic() >= next_tick:
                    next_tick = time.monotonic() + _TICK_SECONDS
                    self._log.tick(self._now())
                    self._forget_turns()
                    self._look()
            except LogUnavailable as error:
                # Kept for the next round: a full disk costs nothing that was taken.
                has_more = False
                self._record("inbox not kept", error=str(error))
            self._sealing.put(self._log.take_closed())
            if is_closing and not group:
                return

    def _next_group(self, seconds: float) -> tuple[list[_Producer], bool]:
        """Producers whose events make one transaction, perhaps none after so many seconds; and whether to end."""
        with self._changed:
            if not (self._producers or self._to_erase or self._is_closing) and seconds > 0:
                self._changed.wait(seconds)
            if self._producers and not self._is_alone:
                ends = time.monotonic() + _GROUP_SECONDS
                while len(self._producers) < _NUM_PRODUCERS and self._num_events < _GROUP_EVENTS:
                    if self._is_closing or (left := ends - time.monotonic()) <= 0:
                        break
                    self._changed.wait(left)
            group: list[_Producer] = []
            num_events = 0
            while self._producers and (not group or num_events + self._producers[0].num <= _GROUP_EVENTS):
                group.append(self._producers.popleft())
                num_events += group[-1].num
            self._num_events -= num_events
            return group, self._is_closing

    def _erase(self) -> None:
        while self._to_erase and self._to_erase[0][3] <= self._num_written:
            number, data, future, _ = self._to_erase.popleft()
            try:
                num_events = self._log.erase(number, data)
            except Exception as error:  # noqa: BLE001 (who asked is told, and the writer goes on)
                future.set_exception(error)
            else:
                self.erased = self._log.erased()
                future.set_result(num_events)

    def _write(self, group: list[_Producer]) -> None:
        events = [event for producer in group for event in producer.events]
        turns = [turn for producer in group for turn in producer.turns]
        progress = [producer.progress for producer in group if producer.progress is not None]
        answers: list[_Answer] = []
        try:
            taken = self._log.append(events, self._now(), turns=turns, progress=progress)
            at = 0
            for producer in group:
                answers.append(taken[at : at + len(producer.events)])
                at += len(producer.events)
        except Exception as error:  # noqa: BLE001 (every producer is told, and the writer goes on)
            self._record("inbox not written", error=reason_of(error), num_events=len(events) + len(turns))
            told = error if isinstance(error, LogUnavailable) else LogUnavailable("The inbox's log failed.")
            answers = [told] * len(group)
        with self._changed:
            # Before it is told: who came during the write and who was in it belong into one group, not two by turns.
            self._is_alone = len(group) == 1 and not self._producers
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop has ended, and every producer with it
            self._loop.call_soon_threadsafe(_tell, group, answers)

    def _forget_turns(self) -> None:
        """Raises: LogUnavailable: they are forgotten at another time."""
        with self._changed:
            sealed, self._sealed_turns = self._sealed_turns, {}
        try:
            self._log.forget_turns(sealed)
        except LogUnavailable:
            with self._changed:
                self._sealed_turns = {**sealed, **self._sealed_turns}
            raise

    def _look(self) -> None:
        """Makes the campaigns' standings anew."""
        to_seal = self._sealing.waiting()
        made: dict[str, CampaignStanding] = {}
        for campaign, windows in self._log.windows.items():
            parts = [*windows.open_parts, *to_seal.get(campaign, ())]
            oldest = min((part.opened_at for part in parts), default=None)
            watermark = windows.standing.watermark
            made[campaign] = CampaignStanding(
                num_waiting=sum(part.num_events for part in parts),
                oldest=None if oldest is None else oldest / _MICROSECONDS,
                watermark=None if watermark is None else watermark / _MICROSECONDS,
                stopped=self._sealing.stopped.get(campaign, ""),
                tenants=dict(self._log.tenants.of(campaign)),
            )
        self.standings = made

    def _now(self) -> int:
        return int(self._clock.now() * _MICROSECONDS)


def _tell(group: Sequence[_Producer], answers: Sequence[_Answer]) -> None:
    """In the event loop. A producer that left is not told."""
    for producer, answer in zip(group, answers, strict=True):
        if producer.future.done():
            continue
        if isinstance(answer, LogUnavailable):
            producer.future.set_exception(answer)
        else:
            producer.future.set_result(answer)
