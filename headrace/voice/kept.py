"""How a call outlives the process that has it: its events in the gateway's log and in segments, itself in the store.

`rollout/<name>/calls/<first two>/<sha256>/<n>.json`, a chain of small objects of which the newest counts: the call as
it was some seconds ago at most, and where what was said since can be read (`Source`): whose segments, from which on,
and in whose log. Who takes a call makes the next object with an epoch of its own, leaves a note for whoever had it
(`headrace.voice.segments`), and reads on from its sources.

An event is kept once it is on the disk in the log and in a segment. What a store that fails lacks is in the log alone:
the same gateway, started again, finds it there, another does not. Most objects may go with their machine's power, where
the store is a directory: the log forgets an event only once an object is made that stays.
"""

import asyncio
import hashlib
import random
import threading
from collections.abc import Awaitable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Protocol

from annotated_types import Ge

from headrace.clock import Clock
from headrace.errors import HeadraceError
from headrace.handoff.erasures import Erasures
from headrace.inbox.turn_rows import TurnRow
from headrace.rollout.layout import rollout_prefix
from headrace.store.chain import Chain
from headrace.store.listings import by_prefix
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Kind
from headrace.voice.segments import (
    CallTaken,
    SegmentWriter,
    erased_call,
    event_of,
    event_text,
    leave_note,
    rows_after,
)
from headrace.voice.turns import CallState, TurnEvent, applied

KEPT_SECONDS = 24 * 3600.0
"""How long a call stays after its session could still come back."""
# A client waits for an event to be kept; after this the log alone has to do.
_STORE_SECONDS = 1.0
# How much of a call is in segments alone: who takes it over reads them all.
_CHECKPOINT_SECONDS = 15.0
# Between two objects of a call that outlive the machine's power: the log has what came since.
_DURABLE_SECONDS = 60.0
_NUM_TRIES = 8
_REMEDY = "The call begins anew; delete the objects of its directory if that says nothing to anybody."


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a call's events are: in `writer`'s segments after that one, and in the log of that nonce, in that epoch."""

    writer: str
    segment: Annotated[int, Ge(0)]
    log: str
    epoch: Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptCall:
    """A call as it was when this was written.

    Attributes:
        sources: what has been said since, in order; the last one is of whoever has it.
        at: when it was written, seconds since the epoch.
        key: the name of its client's API key; empty: an earlier release began it.
    """

    at: float
    state: CallState
    sources: tuple[Source, ...]
    key: str = ""

    @property
    def epoch(self) -> int:
        """Grows with whoever takes the call."""
        return self.sources[-1].epoch


KEPT_CALL = Kind("Call", KeptCall, _REMEDY)


class Log(Protocol):
    """The gateway's log."""

    @property
    def nonce(self) -> str: ...
    def keep(self, turns: Sequence[TurnRow]) -> Awaitable[object]: ...
    def forget(self, call: str, epoch: int, sequence: int) -> None: ...


class Turns(Protocol):
    """Reads the log."""

    def turns(self, call: str, epoch: int) -> list[tuple[int, str]]: ...


@dataclass(frozen=True, kw_only=True)
class CallStore:
    """A service's calls. `log`, `reader`, `segments`: this gateway's. `threads`: where the store is asked."""

    store: ObjectStore
    service: str
    log: Log
    reader: Turns
    segments: SegmentWriter
    threads: Executor
    clock: Clock
    _reading: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def _erasures(self) -> Erasures:
        return Erasures(self.store)

    async def take(self, call: str, key: str = "") -> "TakenCall":
        """Takes a call from whoever has it, as it was left; a new one is empty.

        Args:
            call: its name among all calls.
            key: the name of its client's API key.

        Raises:
            CallErased: it was erased.
            StoreUnavailable: nobody can tell.
            HandoffCorrupt: what is kept of it is damaged.
            CallTaken: others take it at the same time.
        """
        loop = asyncio.get_running_loop()
        number, kept = await loop.run_in_executor(self.threads, self._take, call, key)
        return TakenCall(self, call, number, kept)

    def _take(self, call: str, key: str) -> tuple[int, KeptCall]:
        chain = self.chain(call)
        for _ in range(_NUM_TRIES):
            head = chain.head()
            if head.damage:
                raise head.damage
            before = head.value or KeptCall(at=0.0, state=CallState(), sources=())
            epoch = before.epoch + 1 if before.sources else 1
            mine = Source(writer=self.segments.writer, segment=self.segments.number, log=self.log.nonce, epoch=epoch)
            # What was said meanwhile is not in it yet: whoever takes the call from here reads all sources again.
            taken = replace(before, at=self.clock.now(), sources=(*before.sources, mine), key=key or before.key)
            if not chain.create(head.number + 1, taken, is_listed=True).won:
                continue
            # Now that it is there: an erasure is seen here, or comes later and finds it.
            if self._erasures.all().has("call", call):
                chain.sweep(chain.made())
                raise erased_call()
            state = before.state
            for source in before.sources:
                leave_note(self.store, self.service, source.writer, call, source.epoch)
                state = self._said(call, source, state)
            whole = replace(taken, state=state, sources=(mine,))
            if state == before.state and len(before.sources) == 0:
                return head.number + 1, whole
            if chain.create(head.number + 2, whole, is_listed=True).won:
                chain.sweep(number for number in chain.made() if number <= head.number)
                return head.number + 2, whole
        raise CallTaken("Others take this call at the same time; call again.")

    def _said(self, call: str, source: Source, state: CallState) -> CallState:
        """The call with what a source has of it."""
        rows = dict(rows_after(self.store, self.service, source.writer, source.segment, call, source.epoch))
        if source.log == self.log.nonce:
            with self._reading:
                rows |= dict(self.reader.turns(call, source.epoch))
        while (text := rows.get(state.sequence)) is not None:
            state = applied(state, [event_of(text)])
        return state

    def chain(self, call: str) -> Chain[KeptCall]:
        return call_chain(self.store, self.service, call)

    def sweep(self, *, session_seconds: float) -> int:
        """Deletes calls whose sessions ended a day ago, and what ended gateways left. Returns how many calls."""
        num, before = 0, self.clock.now() - session_seconds - KEPT_SECONDS
        root = rollout_prefix(self.service, "calls")
        for shard in self.store.children(root):
            entries = by_prefix(self.store.entries(f"{root}/{shard}"), depth=root.count("/") + 3)
            for prefix, found in entries.items():
                if max(entry.modified_at for entry in found) < before:
                    _chain_below(self.store, prefix).sweep(_chain_below(self.store, prefix).made())
                    num += 1
        for entry in list(self.store.entries(rollout_prefix(self.service, "turns"))):
            if entry.modified_at < before:
                self.store.delete(entry.key)
        return num


class TakenCall:
    """A call that this gateway has. In the event loop. Attributes: state: as it was when it was taken."""

    def __init__(self, calls: CallStore, call: str, number: int, kept: KeptCall) -> None:
        self._calls, self._call, self._number, self._kept = calls, call, number, kept
        self.state = kept.state
        self._durable_at, self._durable_number = kept.at, number
        self._durable_sequence = kept.state.sequence
        self._newest = kept.state
        self._failed: CallTaken | None = None
        self._is_erased = False
        self._writing: asyncio.Future[None] | None = None
        self._checkpoints = asyncio.get_running_loop().create_task(self._keep_checkpoints(), name="checkpoints")

    @property
    def is_erased(self) -> bool:
        """Whether it belongs to an erasure, so that nothing more of it may be kept anywhere."""
        return self._is_erased

    @property
    def epoch(self) -> int:
        return self._kept.epoch

    @property
    def segment(self) -> int:
        """The last segment that nobody needs for this call."""
        is_whole = self._newest.sequence == self._kept.state.sequence
        return self._calls.segments.number if is_whole else self._kept.sources[-1].segment

    def keep(self, events: Sequence[TurnEvent], state: CallState) -> Awaitable[None]:
        """Takes the events that made `state` of the state before. What it returns waits until they are kept.

        Raises: CallTaken; LogUnavailable: the log cannot keep anything now.
        """
        if self._failed is not None:
            raise self._failed
        first, epoch = state.sequence - len(events), self._kept.epoch
        rows = [TurnRow(self._call, epoch, first + place, event_text(event)) for place, event in enumerate(events)]
        is_said = replace(state, sequence=0) != replace(self._newest, sequence=0)
        self._newest = state
        loop = asyncio.get_running_loop()
        if not rows:
            return _done(loop)
        # Nobody waits for the store to know that somebody began to speak. Before the log: who took the call reads this
        # gateway's, too, and must not find there what was refused.
        written = self._calls.segments.put(rows, waits=is_said)
        logged = self._calls.log.keep(rows)
        waiting = loop.create_task(_kept(logged, written))
        # Who was cut while it waited asks for it no more.
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
        return waiting

    async def erase(self) -> None:
        """Keeps nothing more of the call: it returns once nothing of it is being written down."""
        self._failed, self._is_erased = erased_call(), True
        self._checkpoints.cancel()
        await self._written()

    async def close(self) -> None:
        """Keeps the call as it is now, if the store answers in time."""
        self._checkpoints.cancel()
        await asyncio.gather(self._checkpoints, return_exceptions=True)
        with suppress(TimeoutError, HeadraceError, OSError):
            if self._newest.sequence != self._durable_sequence and not self._is_erased:
                await asyncio.wait_for(self._checkpoint(is_last=True), _STORE_SECONDS)

    async def _keep_checkpoints(self) -> None:
        # Calls that came together are not written down together.
        await asyncio.sleep(_CHECKPOINT_SECONDS * random.random())
        while True:
            await asyncio.sleep(_CHECKPOINT_SECONDS)
            # One in which nothing is said any more, too: the log forgets its last events, and those near them.
            is_due = self._calls.clock.now() - self._durable_at > _DURABLE_SECONDS
            if self._newest.sequence == (self._durable_sequence if is_due else self._kept.state.sequence):
                continue
            try:
                await self._checkpoint()
            except CallTaken as taken:
                self._failed = taken
                return
            except (HeadraceError, OSError):
                continue  # the next one has it all

    async def _checkpoint(self, *, is_last: bool = False) -> None:
        # That of a task that was cancelled goes on.
        await self._written()
        calls = self._calls
        (mine,) = self._kept.sources
        source = replace(mine, segment=calls.segments.number)
        kept = replace(self._kept, at=calls.clock.now(), state=self._newest, sources=(source,))
        is_durable = is_last or kept.at - self._durable_at > _DURABLE_SECONDS
        self._writing = asyncio.get_running_loop().run_in_executor(calls.threads, self._write, kept, is_durable)
        self._writing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._writing)
        self._kept = kept
        if is_durable:
            self._durable_at, self._durable_sequence = kept.at, kept.state.sequence
            calls.log.forget(self._call, mine.epoch, kept.state.sequence - 1)

    async def _written(self) -> None:
        """Returns once no thread is writing the call down."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    def _write(self, kept: KeptCall, is_durable: bool) -> None:
        """In a thread. Raises: CallTaken; as `Chain.create`."""
        if self._is_erased:
            raise erased_call()
        chain = self._calls.chain(self._call)
        if not chain.create(self._number + 1, kept, is_listed=True, durable=is_durable).won:
            raise CallTaken("The call goes on elsewhere: somebody came back with its session.")
        before, self._number = self._number, self._number + 1
        # The last one that stays is kept beside the newest one.
        if is_durable and before != self._durable_number:
            self._calls.store.delete(chain.key(self._durable_number), durable=False)
        if is_durable or before != self._durable_number:
            self._calls.store.delete(chain.key(before), durable=False)
        if is_durable:
            self._durable_number = self._number


async def _kept(logged: Awaitable[object], written: "asyncio.Future[None] | None") -> None:
    await logged
    if written is not None:
        done, _ = await asyncio.wait({written}, timeout=_STORE_SECONDS)
        if done:
            written.result()


def _done(loop: asyncio.AbstractEventLoop) -> "asyncio.Future[None]":
    done: asyncio.Future[None] = loop.create_future()
    done.set_result(None)
    return done


def call_name(key: str, session: str) -> str:
    """A call's name among all: nobody finds another key's calls by their sessions' names."""
    digest = hashlib.sha256(key.encode())
    digest.update(b"\0" + session.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def call_chain(store: ObjectStore, service: str, call: str) -> Chain[KeptCall]:
    return _chain_below(store, f"{rollout_prefix(service, 'calls')}/{call[:2]}/{call}")


def _chain_below(store: ObjectStore, prefix: str) -> Chain[KeptCall]:
    return Chain(store=store, prefix=prefix, kind=KEPT_CALL, may_lack="any", remedy=_REMEDY)
