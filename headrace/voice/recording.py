"""Records the calls of one gateway: turn events stay in the log until a call ends, then the call goes to its inbox.

The log forgets a turn once the store has the call as it is after it (`headrace.voice.kept`) and the call is recorded: a
call whose end the store did not take goes on from the log, and one that only the store has would never be recorded.

The event of a call is named by call and epoch, and the log takes an event of one name once: whoever is killed between
taking it and forgetting the turns makes the same one again. What a killed gateway had begun is recorded when one starts
again with its log, as it was then; a call that went on elsewhere is recorded there from where it went on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from headrace.clock import Clock
from headrace.errors import HeadraceError
from headrace.inbox.events import Event
from headrace.inbox.turn_rows import TurnRow
from headrace.voice.audio import AudioWriter
from headrace.voice.recorded import Caller, begun, recorded_call
from headrace.voice.segments import CallTaken, event_of
from headrace.voice.turns import CallState, TurnEvent

Keep = Callable[[Sequence[TurnEvent], CallState], Awaitable[None]]


class Log(Protocol):
    """The gateway's log."""

    @property
    def nonce(self) -> str: ...
    def keep(self, turns: Sequence[TurnRow]) -> Awaitable[object]: ...
    def forget(self, call: str, epoch: int, sequence: int) -> None: ...
    async def take(self, events: Sequence[Event]) -> list[bool]: ...


class Begun(Protocol):
    """Reads the log."""

    def calls(self) -> list[tuple[str, int, int]]: ...
    def turns(self, call: str, epoch: int) -> list[tuple[int, str]]: ...


class LogUntilRecorded:
    """The gateway's log as those see it that keep calls, and those that record them. In the event loop."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.nonce = log.nonce
        # Call → the epoch and number of its last event that the store has, and that is recorded.
        self._kept: dict[str, tuple[int, int]] = {}
        self._recorded: dict[str, tuple[int, int]] = {}

    def keep(self, turns: Sequence[TurnRow]) -> Awaitable[object]:
        return self._log.keep(turns)

    async def take(self, events: Sequence[Event]) -> list[bool]:
        return await self._log.take(events)

    def forget(self, call: str, epoch: int, sequence: int) -> None:
        """The store has it."""
        self._kept[call] = (epoch, sequence)
        self._forget(call)

    def recorded(self, call: str, epoch: int, sequence: int) -> None:
        self._recorded[call] = (epoch, sequence)
        self._forget(call)

    def _forget(self, call: str) -> None:
        kept, recorded = self._kept.get(call), self._recorded.get(call)
        if kept is None or recorded is None:
            return
        self._log.forget(call, *min(kept, recorded))
        if kept == recorded:
            del self._kept[call], self._recorded[call]


@dataclass(kw_only=True, eq=False)
class CallRecorder:
    """Attributes:
    feed: the log's inbox of calls.
    audio: None: texts and times alone.
    told: gets what could not be done.
    has_recovered: everything that was begun before is recorded, so that turns may be forgotten.
    """

    log: LogUntilRecorded
    reader: Begun
    feed: str
    audio: AudioWriter | None
    clock: Clock
    told: Callable[[str], None]
    has_recovered: bool = False

    def begin(self, call: str, epoch: int, keep: Keep) -> "CallRecording":
        """Records a call that was taken; `keep` as `TakenCall` has it."""
        return CallRecording(recorder=self, call=call, epoch=epoch, keeps=keep)

    async def recover(self) -> int:
        """Records what was begun when the log's last process ended, and was not recorded. Before any call is taken.
        Returns how many calls.

        Raises: LogUnavailable: nothing more is recorded now; the log has it.
        """
        num = 0
        for call, epoch, last in await asyncio.to_thread(self.reader.calls):
            rows = await asyncio.to_thread(self.reader.turns, call, epoch)
            try:
                recorded = recorded_call(call, epoch, [event_of(text) for _, text in rows])
            except ValueError as error:
                self.told(f"call {call[:12]} cannot be read: {error}")
                continue
            if recorded is not None:
                num += sum(await self.log.take([recorded.event(self.feed)]))
            self.log.recorded(call, epoch, last)
        self.has_recovered = True
        return num


@dataclass(kw_only=True, eq=False)
class CallRecording:
    """One call while it is here. In the event loop."""

    recorder: CallRecorder
    call: str
    epoch: int
    keeps: Keep
    _events: list[TurnEvent] = field(default_factory=list)
    _sequence: int = 0
    # What is being kept.
    _keeping: set[asyncio.Future[None]] = field(default_factory=set)
    # Those from here on are whoever's took the call.
    _num_own: int | None = None

    def first(self, caller: Caller, state: CallState) -> TurnEvent:
        """What happens first in it. Args: state: as it was taken."""
        answer = state.answer
        return begun(caller, generation=state.generation, kept_ms=answer.ms if answer else 0)

    def keep(self, events: Sequence[TurnEvent], state: CallState) -> Awaitable[None]:
        """As `TakenCall.keep`."""
        kept, place = asyncio.ensure_future(self.keeps(events, state)), len(self._events)

        def note(done: "asyncio.Future[None]") -> None:
            self._keeping.discard(done)
            if not done.cancelled() and isinstance(done.exception(), CallTaken):
                self._num_own = place if self._num_own is None else min(place, self._num_own)

        self._keeping.add(kept)
        kept.add_done_callback(note)
        self._events += events
        self._sequence = state.sequence
        return kept

    def audio(self, item: str, pcm: bytes, ms: int, *, generation: int = 0) -> TurnEvent:
        """What is to happen together with what these samples are of."""
        audio = self.recorder.audio
        place = audio.put(self.call, self.epoch, pcm) if audio else ""
        return TurnEvent(kind="recorded", item=item, text=place, ms=ms, generation=generation)

    async def end(self) -> None:
        """Records it. What fails is recorded when the log is opened again."""
        recorder = self.recorder
        # Only then it is known how much of it was here.
        await asyncio.gather(*self._keeping, return_exceptions=True)
        if recorder.audio is not None:
            await recorder.audio.end(self.call, self.epoch)
        try:
            own = self._events[: self._num_own]
            recorded = recorded_call(self.call, self.epoch, own, ended_at=recorder.clock.now())
            if recorded is not None:
                await recorder.log.take([recorded.event(recorder.feed)])
        except (HeadraceError, ValueError) as error:
            recorder.told(f"call {self.call[:12]} is recorded later: {error}")
            return
        # That forgets its earlier epochs, too.
        if recorder.has_recovered:
            recorder.log.recorded(self.call, self.epoch, self._sequence - 1)
