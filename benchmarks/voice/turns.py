"""`turns`: a thousand calls whose turn events are kept."""

import asyncio
import gc
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC
from itertools import count
from pathlib import Path

import uvloop

from benchmarks.measuring import at_least, at_most, print_table, rounded
from benchmarks.parts import Outcome
from benchmarks.voice.options import VoiceOptions
from headrace.clock import SystemClock
from headrace.cycles import look_for_cycles_rarely
from headrace.inbox.intake import Intake
from headrace.inbox.sealing import Sealer
from headrace.serving.daemon_threads import DaemonThreads
from headrace.store.local import LocalStore
from headrace.voice.kept import CallStore, TakenCall, call_name
from headrace.voice.segments import SegmentWriter
from headrace.voice.turns import CallState, TurnEvent, applied

_NUM_CALLS, _NUM_THREADS = 1_000, 8
_EVENTS_A_SECOND = 2_500.0
_RATE_MIN, _ADDED_MS_MAX = 2_000, 25.0
_WARM_UP_SECONDS = 2.0


def measure_turns(options: VoiceOptions, directory: Path) -> Outcome:
    # As a gateway's process is set: threads give way soon, and looks for cycles are rare.
    gc.freeze()
    look_for_cycles_rarely()
    sys.setswitchinterval(0.0005)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        paced, flat_out = runner.run(_measured(options.seconds, directory))
    rows = [
        [name, f"{len(added) / seconds:,.0f}", f"{_at(added, 0.5):.1f}", f"{_at(added, 0.99):.1f}"]
        for name, (added, seconds) in (("at 2,500 a second", paced), ("as fast as they go", flat_out))
    ]
    columns = ("1,000 calls, kept in log and store", "events/s", "added ms p50", "added ms p99")
    print_table("Turn events of calls", columns, rows)
    rate, added = len(flat_out[0]) / flat_out[1], _at(paced[0], 0.99)
    paced_rate = len(paced[0]) / paced[1]
    return Outcome(
        body={
            "paced": {"events_a_second": rounded(paced_rate), "added_ms_p99": rounded(added)},
            "flat_out": {"events_a_second": rounded(rate), "added_ms_p99": rounded(_at(flat_out[0], 0.99))},
        },
        bars={
            "turn_events_a_second": at_least(rounded(paced_rate), _RATE_MIN),
            "turn_added_ms_p99": at_most(rounded(added), _ADDED_MS_MAX),
        },
    )


Measured = tuple[list[float], float]


async def _measured(seconds: float, directory: Path) -> tuple[Measured, Measured]:
    clock, store = SystemClock(), LocalStore(directory / "store")
    with closing(
        Intake(
            directory / "log",
            {},
            lambda nonce: Sealer(store, nonce, UTC, clock),
            clock=clock,
            record=lambda what, /, **facts: print(what, facts),
        )
    ) as intake:
        intake.start()
        calls = CallStore(
            store=store,
            service="voices",
            log=intake,
            reader=intake.reader(),
            segments=SegmentWriter(store, "voices", threads=DaemonThreads(1, "segments")),
            threads=DaemonThreads(_NUM_THREADS, "calls"),
            clock=clock,
        )
        taken = [await calls.take(call_name("key", f"call {number}")) for number in range(_NUM_CALLS)]
        talks = [_Talk(one) for one in taken]
        await _paced(talks, _WARM_UP_SECONDS)
        paced = await _paced(talks, seconds)
        flat_out = await _flat_out(talks, seconds)
        await asyncio.gather(*(one.close() for one in taken))
        return paced, flat_out


class _Talk:
    """One call: a conversation without end."""

    def __init__(self, taken: TakenCall) -> None:
        self._taken, self._events = taken, _conversation()
        self._state: CallState = taken.state
        self._turn = asyncio.Lock()

    async def next(self, added: list[float]) -> None:
        begun = time.perf_counter()
        async with self._turn:
            event = next(self._events)
            self._state = applied(self._state, (event,))
            await self._taken.keep((event,), self._state)
        added.append(time.perf_counter() - begun)


def _conversation() -> Iterator[TurnEvent]:
    for turn in count(1):
        if turn > 4:
            # As a call's limit on its items would.
            yield TurnEvent(kind="removed", item=f"u{turn - 4}")
            yield TurnEvent(kind="removed", item=f"a{turn - 4}")
        yield TurnEvent(kind="speech_started", ms=turn * 8000)
        yield TurnEvent(kind="speech_stopped", ms=turn * 8000 + 3000)
        yield TurnEvent(kind="said", item=f"u{turn}", text="And what does the old mill by the river grind today?")
        yield TurnEvent(kind="answering", item=f"a{turn}", generation=turn, ms=1)
        text = "It grinds wheat and rye, as it has for two hundred years."
        for _ in range(3):
            yield TurnEvent(kind="sentence", item=f"a{turn}", text=text, ms=4000, generation=turn)
        if turn % 3:
            yield TurnEvent(kind="answered", generation=turn)
        else:
            yield TurnEvent(kind="cut", generation=turn)
            yield TurnEvent(kind="played", item=f"a{turn}", ms=5000)


async def _paced(talks: list[_Talk], seconds: float) -> Measured:
    added: list[float] = []
    tasks: set[asyncio.Task[None]] = set()
    begun, at = time.perf_counter(), 0
    while (ago := time.perf_counter() - begun) < seconds:
        while at <= ago * _EVENTS_A_SECOND:
            task = asyncio.ensure_future(talks[at % len(talks)].next(added))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            at += 1
        await asyncio.sleep(0.001)
    while tasks:
        await asyncio.wait(tasks)
    return added, time.perf_counter() - begun


async def _flat_out(talks: list[_Talk], seconds: float) -> Measured:
    added: list[float] = []
    begun = time.perf_counter()

    async def one(talk: _Talk) -> None:
        while time.perf_counter() - begun < seconds:
            await talk.next(added)

    await asyncio.gather(*(one(talk) for talk in talks))
    return added, time.perf_counter() - begun


def _at(values: list[float], share: float) -> float:
    """Milliseconds."""
    return sorted(values)[int(len(values) * share)] * 1000
