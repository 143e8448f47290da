"""What calls of one gateway say, in the store a few milliseconds later: one object for all calls' events at a time.

`rollout/<name>/turns/<writer>/<n>.json`, numbers from 1 on, by one process (`writer`), some fifty a second at most. An
object a call and event would cost a store a thousand times as many.

Who takes a call over from a process that may still live leaves a note, `turns/<writer>/taken/<call>.<epoch>`, and then
reads that writer's segments. The writer looks for notes after each segment, before anybody is told that its events are
kept: so an event that somebody was told of is in a segment that the taker reads, and one that comes later is refused.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass

from headrace.errors import HeadraceError, IllegalTransition, ObjectMissing, reason_of
from headrace.inbox.turn_rows import TurnRow
from headrace.rollout.layout import rollout_prefix
from headrace.store.chain import Chain
from headrace.store.objects import ObjectStore, new_nonce
from headrace.store.small_objects import Kind, Record
from headrace.voice.turns import TurnEvent

# Between two segments, for a store that is fast.
_SPACING_SECONDS = 0.01
_AGAIN_SECONDS = 1.0
# Who takes a call over may be reading what no call here needs any more.
_KEPT_SECONDS = 120.0
# Of a store that fails for minutes: each call is written down whole once it answers again.
_ROWS_MAX = 100_000
_REMEDY = "What was said in its calls at that moment is lost; they go on as they were kept before."
_EVENT = Record("Turn event", TurnEvent)


class CallTaken(IllegalTransition):
    """Another gateway, or another connection, has the call now."""


class CallErased(CallTaken):
    """The call was erased; its session has no further one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Rows of call, epoch, sequence, event."""

    rows: tuple[tuple[str, int, int, str], ...]


SEGMENT = Kind("Segment of turns", Segment, _REMEDY)


def event_text(event: TurnEvent) -> str:
    """JSON of what differs from an event's defaults."""
    said = {"kind": event.kind, "at": event.at}
    if event.kind == "said":
        said["by"] = event.by
    said |= {name: value for name in ("item", "text", "ms", "generation") if (value := getattr(event, name))}
    return json.dumps(said, separators=(",", ":"))


def event_of(text: str) -> TurnEvent:
    """Raises: ValueError: it is no event."""
    return _EVENT.checked(text)


def segment_chain(store: ObjectStore, service: str, writer: str) -> Chain[Segment]:
    prefix = f"{rollout_prefix(service, 'turns')}/{writer}"
    return Chain(store=store, prefix=prefix, kind=SEGMENT, may_lack="any", remedy=_REMEDY)


def writers(store: ObjectStore, service: str) -> list[str]:
    """Processes that have written segments."""
    return store.children(rollout_prefix(service, "turns"))


def leave_note(store: ObjectStore, service: str, writer: str, call: str, epoch: int) -> None:
    """Tells a writer that a call is no longer its own, as it had it in that epoch."""
    store.create(f"{notes_prefix(service, writer)}/{call}.{epoch}", b"", durable=False)


def rows_after(
    store: ObjectStore, service: str, writer: str, segment: int, call: str, epoch: int
) -> Iterator[tuple[int, str]]:
    """The numbers and texts of a call's events in that epoch, in the segments after that one."""
    chain = segment_chain(store, service, writer)
    for number in chain.made():
        if number <= segment:
            continue
        with suppress(ObjectMissing):  # no call needed it any more
            for name, of_epoch, sequence, text in chain.read(number).rows:
                if name == call and of_epoch == epoch:
                    yield sequence, text


def notes_prefix(service: str, writer: str) -> str:
    return f"{rollout_prefix(service, 'turns')}/{writer}/taken"


class SegmentWriter:
    """Writes one process's segments. In the event loop; `writer`: its name. `number`: of the last one.

    `told`: why the store takes none for now; empty: it does.
    """

    def __init__(self, store: ObjectStore, service: str, *, threads: Executor) -> None:
        self.writer = new_nonce()
        self.number, self.told = 0, ""
        self._store, self._service, self._threads = store, service, threads
        self._chain = segment_chain(store, service, self.writer)
        self._rows: list[TurnRow] = []
        self._waiting: list[tuple[TurnRow, asyncio.Future[None]]] = []
        self._some = asyncio.Event()
        # Call → the last epoch in which it was this process's own.
        self._taken: dict[str, int] = {}
        self._erased: set[str] = set()
        self._under_way: list[TurnRow] = []
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._written: list[tuple[int, float]] = []
        self._task = asyncio.get_running_loop().create_task(self._always(), name="segments")

    def put(self, rows: Sequence[TurnRow], *, waits: bool) -> "asyncio.Future[None] | None":
        """Takes a call's events. What it returns is done once they are kept; None: nobody is to wait for them.

        Raises: CallTaken; what it returns raises that, too.
        """
        last = rows[-1]
        if last.epoch <= self._taken.get(last.call, 0):
            raise _taken()
        self._rows += rows
        self._some.set()
        if not waits or self.told:
            return None
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((last, future))
        return future

    async def erase(self, is_erased: Callable[[str], bool]) -> None:
        """Forgets what waits of erased calls, which say nothing more: it returns once nothing of them is written."""
        self._erased.update(row.call for row in (*self._rows, *self._under_way) if is_erased(row.call))
        self._rows = [row for row in self._rows if row.call not in self._erased]
        for row, future in self._waiting:
            if row.call in self._erased and not future.done():
                future.set_exception(erased_call())
        await self._is_idle.wait()

    async def drop_before(self, segment: int) -> None:
        """Deletes what no call of this process needs, once nobody can be reading it any more."""
        old = [number for number, at in self._written if number <= segment and at < time.monotonic() - _KEPT_SECONDS]
        if old:
            self._written = [one for one in self._written if one[0] > old[-1]]
            with suppress(HeadraceError):
                await asyncio.get_running_loop().run_in_executor(self._threads, self._chain.sweep, old)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _always(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._some.wait()
            self._some.clear()
            rows, self._rows = self._rows, []
            waiting, self._waiting = self._waiting, []
            begun = time.monotonic()
            if not rows:
                continue  # they were erased
            self._under_way = rows
            self._is_idle.clear()
            try:
                self.number, notes = await loop.run_in_executor(self._threads, self._write, self.number + 1, rows)
            except (HeadraceError, OSError) as error:
                # The log has them. Nobody waits for the store meanwhile; it gets them when it answers again.
                self.told = reason_of(error)
                self._rows = [row for row in rows + self._rows if row.call not in self._erased][-_ROWS_MAX:]
                for _, future in waiting:
                    if not future.done():
                        future.set_result(None)
                self._is_idle.set()
                await asyncio.sleep(_AGAIN_SECONDS)
                self._some.set()
                continue
            self._is_idle.set()
            self.told = ""
            self._written.append((self.number, begun))
            self._taken |= notes
            for row, future in waiting:
                if future.done():
                    continue
                if row.epoch <= self._taken.get(row.call, 0):
                    future.set_exception(_taken())
                else:
                    future.set_result(None)
            await asyncio.sleep(max(0.0, begun + _SPACING_SECONDS - time.monotonic()))

    def _write(self, number: int, rows: Sequence[TurnRow]) -> tuple[int, dict[str, int]]:
        """In a thread. Returns the segment's number, and the notes that were left: call → epoch."""
        fields = {"rows": [(row.call, row.epoch, row.sequence, row.event) for row in rows]}
        while not self._chain.create(number, fields, is_listed=True, durable=False).won:
            # An attempt whose reply was lost made it, of fewer rows.
            number += 1
        prefix = notes_prefix(self._service, self.writer)
        notes: dict[str, int] = {}
        for name in self._store.children(prefix):
            call, _, epoch = name.rpartition(".")
            if epoch.isdigit():
                notes[call] = max(int(epoch), notes.get(call, 0))
                self._store.delete(f"{prefix}/{name}", durable=False)
        return number, notes


def erased_call() -> CallErased:
    return CallErased("This call was erased from the store, and its session has no further one: begin another session.")


def _taken() -> CallTaken:
    return CallTaken("The call goes on elsewhere: somebody came back with its session.")
