"""How a call outlives the process that has it: its events in the gateway's log, and the call after them in the store.

`rollout/<name>/calls/<first two>/<sha256>/<n>.json`, a chain of small objects of which the newest counts: the whole
conversation, and the epoch of who has the call. Who takes a call makes the next object, with an epoch of its own; from
then on the one before it makes no further one, and learns so that the call was taken. An event is kept once it is on
the disk in the log and the store has the call after it; several that come meanwhile make one object. What a store that
does not answer in time lacks is in the log alone: the same gateway, started again, finds it there, another does not.

Most objects may go with their machine's power, where the store is a directory: the log forgets an event only once an
object is made that stays.
"""

import asyncio
import hashlib
import json
import threading
from collections.abc import Awaitable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Protocol

from annotated_types import Ge

from headrace.clock import Clock
from headrace.errors import HeadraceError, IllegalTransition, ObjectMissing, reason_of
from headrace.inbox.log import TurnRow
from headrace.rollout.layout import rollout_prefix
from headrace.store.chain import Chain
from headrace.store.listings import by_prefix
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Damaged, Kind, Record
from headrace.voice.turns import CallState, TurnEvent, applied

KEPT_SECONDS = 24 * 3600.0
"""How long a call stays after its session could still come back."""
# A client waits for an event to be kept; after this the log alone has to do.
_STORE_SECONDS = 1.0
_AGAIN_SECONDS = 1.0
# Between two objects of a call that outlive the machine's power: the log has what came since.
_DURABLE_SECONDS = 5.0
# Of a chain; older objects of a call are deleted as it goes on.
_NUM_OBJECTS_KEPT = 4
_NUM_TRIES = 8
_REMEDY = "The call begins anew; delete the objects of its directory if that says nothing to anybody."


class CallTaken(IllegalTransition):
    """Another gateway, or another connection, has the call now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptCall:
    """A call as its events made it.

    Attributes:
        epoch: grows with whoever takes the call.
        log: the nonce of the log with its latest events.
        at: when it was written, seconds since the epoch.
    """

    epoch: Annotated[int, Ge(1)]
    log: str
    at: float
    state: CallState


KEPT_CALL = Kind("Call", KeptCall, _REMEDY)
_EVENT = Record("Turn event", TurnEvent)


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
    """A service's calls. `log`, `reader`: this gateway's. `threads`: where the store is asked."""

    store: ObjectStore
    service: str
    log: Log
    reader: Turns
    threads: Executor
    clock: Clock
    _reading: threading.Lock = field(default_factory=threading.Lock)

    async def take(self, call: str) -> "TakenCall":
        """Takes a call from whoever has it, as it was left; a new one is empty. Args: call: its name among all calls.

        Raises:
            StoreUnavailable: nobody can tell.
            HandoffCorrupt: what is kept of it is damaged.
            CallTaken: others take it at the same time.
        """
        loop = asyncio.get_running_loop()
        number, kept = await loop.run_in_executor(self.threads, self._take, call)
        return TakenCall(self, call, number, kept)

    def _take(self, call: str) -> tuple[int, KeptCall]:
        chain = self.chain(call)
        for _ in range(_NUM_TRIES):
            head = chain.head()
            if head.damage:
                raise head.damage
            before = head.value
            state = CallState() if before is None else self._recovered(call, before)
            mine = KeptCall(
                epoch=before.epoch + 1 if before else 1, log=self.log.nonce, at=self.clock.now(), state=state
            )
            made = chain.create(head.number + 1, mine, is_listed=True)
            if made.won:
                return head.number + 1, mine
        raise CallTaken("Others take this call at the same time; call again.")

    def _recovered(self, call: str, kept: KeptCall) -> CallState:
        """The call with what this log has of it and the store does not."""
        if kept.log != self.log.nonce:
            return kept.state
        state = kept.state
        with self._reading:
            found = self.reader.turns(call, kept.epoch)
        for sequence, text in found:
            if sequence == state.sequence:
                state = applied(state, [_EVENT.checked(text)])
        return state

    def chain(self, call: str) -> Chain[KeptCall]:
        return _chain_below(self.store, f"{rollout_prefix(self.service, 'calls')}/{call[:2]}/{call}")

    def sweep(self, *, session_seconds: float, damaged: Damaged = lambda _: None) -> int:
        """Deletes calls whose sessions ended a day ago. Returns how many."""
        num, before = 0, self.clock.now() - session_seconds - KEPT_SECONDS
        root = rollout_prefix(self.service, "calls")
        for shard in self.store.children(root):
            entries = by_prefix(self.store.entries(f"{root}/{shard}"), depth=root.count("/") + 3)
            for prefix, found in entries.items():
                chain = _chain_below(self.store, prefix)
                written = {entry.key: entry.modified_at for entry in found}
                numbers = chain.made(key.rpartition("/")[2] for key in written)
                if numbers and written[chain.key(numbers[-1])] < before:
                    chain.sweep(numbers)
                    num += 1
        return num


class TakenCall:
    """A call that this gateway has. In the event loop. Attributes: state: as it was when it was taken."""

    def __init__(self, calls: CallStore, call: str, number: int, kept: KeptCall) -> None:
        self._calls, self._call, self._number, self._kept = calls, call, number, kept
        self._numbers = [number]
        self._durable_at = kept.at
        self.state = kept.state
        self._newest = kept.state
        self._changed = asyncio.Event()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._taken: CallTaken | None = None
        self._sealing = asyncio.get_running_loop().create_task(self._seal_always(), name="call in the store")
        self.told = ""

    def keep(self, events: Sequence[TurnEvent], state: CallState) -> Awaitable[None]:
        """Takes the events that made `state` of the state before. What it returns waits until they are kept.

        Raises: CallTaken; LogUnavailable: the log cannot keep anything now.
        """
        if self._taken is not None:
            raise self._taken
        first = state.sequence - len(events)
        epoch = self._kept.epoch
        rows = [
            TurnRow(self._call, epoch, first + place, json.dumps(asdict(event), separators=(",", ":")))
            for place, event in enumerate(events)
        ]
        logged = self._calls.log.keep(rows) if rows else None
        is_said = replace(state, sequence=0) != replace(self._newest, sequence=0)
        self._newest = state
        loop = asyncio.get_running_loop()
        sealed: asyncio.Future[None] | None = None
        if is_said:
            self._changed.set()
        if is_said and not self.told:
            sealed = loop.create_future()
            self._waiting.append((state.sequence, sealed))
        waiting = loop.create_task(_kept(logged, sealed))
        # Who was cut while it waited asks for it no more.
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
        return waiting

    async def close(self) -> None:
        """Seals what is not sealed yet, if the store answers in time."""
        self._sealing.cancel()
        await asyncio.gather(self._sealing, return_exceptions=True)
        with suppress(TimeoutError, HeadraceError):
            if self._taken is None and self._newest.sequence:
                await asyncio.wait_for(self._seal(is_last=True), _STORE_SECONDS)

    async def _seal_always(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._seal()
                self.told = ""
            except CallTaken as taken:
                self._taken = taken
                self._answer(None, taken)
                return
            except (HeadraceError, OSError) as error:
                # The log has it; the store gets it with the next event, or in a while.
                self.told = reason_of(error)
                await asyncio.sleep(_AGAIN_SECONDS)
                self._changed.set()

    async def _seal(self, *, is_last: bool = False) -> None:
        state = self._newest
        kept = KeptCall(epoch=self._kept.epoch, log=self._kept.log, at=self._calls.clock.now(), state=state)
        await asyncio.get_running_loop().run_in_executor(self._calls.threads, self._write, kept, is_last)
        self._kept = kept
        self._answer(state.sequence, None)

    def _write(self, kept: KeptCall, is_last: bool) -> None:
        """Raises: CallTaken; as `Chain.create`."""
        chain = self._calls.chain(self._call)
        is_durable = kept.at - self._durable_at > _DURABLE_SECONDS or is_last
        if not chain.create(self._number + 1, kept, is_listed=True, durable=is_durable).won:
            raise CallTaken("The call goes on elsewhere: somebody came back with its session.")
        self._number += 1
        self._numbers.append(self._number)
        if is_durable:
            self._durable_at = kept.at
            self._calls.log.forget(self._call, kept.epoch, kept.state.sequence - 1)
        while len(self._numbers) > _NUM_OBJECTS_KEPT:
            with suppress(ObjectMissing):
                self._calls.store.delete(chain.key(self._numbers[0]), durable=False)
            self._numbers.pop(0)

    def _answer(self, sequence: int | None, error: Exception | None) -> None:
        """Tells who waits for events up to that one, or everybody."""
        left: list[tuple[int, asyncio.Future[None]]] = []
        for upto, future in self._waiting:
            if sequence is not None and upto > sequence:
                left.append((upto, future))
            elif not future.done():
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)
        self._waiting = left


async def _kept(logged: Awaitable[object] | None, sealed: "asyncio.Future[None] | None") -> None:
    if logged is not None:
        await logged
    if sealed is not None:
        done, _ = await asyncio.wait({sealed}, timeout=_STORE_SECONDS)
        if done:
            sealed.result()


def call_name(key: str, session: str) -> str:
    """A call's name among all: nobody finds another key's calls by their sessions' names."""
    digest = hashlib.sha256(key.encode())
    digest.update(b"\0" + session.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _chain_below(store: ObjectStore, prefix: str) -> Chain[KeptCall]:
    return Chain(store=store, prefix=prefix, kind=KEPT_CALL, may_lack="any", remedy=_REMEDY)
