"""`turns`: a thousand calls whose turn events are kept."""

import asyncio
import gc
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC
from itertools import count
from pathlib import Path

import uvloop

from benchmarks.inbox.systems import PEERS, serving
from benchmarks.measuring import at_least, at_most, in_turns, print_table, progress, rounded
from benchmarks.parts import Outcome
from benchmarks.programs import find_program
from benchmarks.voice.options import VoiceOptions
from benchmarks.voice.turns_jetstream import connected
from headrace.clock import SystemClock
from headrace.cycles import look_for_cycles_rarely
from headrace.inbox.intake import Intake
from headrace.inbox.sealing import Sealer
from headrace.serving.daemon_threads import DaemonThreads
from headrace.store.local import LocalStore
from headrace.voice.kept import CallStore, call_name
from headrace.voice.segments import SegmentWriter, event_text
from headrace.voice.turns import CallState, TurnEvent, applied

_NUM_CALLS, _NUM_THREADS = 1_000, 8
# A little more is offered than must be kept: the last ones are kept after the time.
_EVENTS_A_SECOND, _RATE_MIN, _ADDED_MS_MAX = 2_100.0, 2_000.0, 25.0
_WARM_UP_SECONDS = 2.0
_OURS, _SINGLY, _TOGETHER = "Headrace", "JetStream, singly", "JetStream, what waits as one batch"

Keep = Callable[[TurnEvent, CallState], Awaitable[object]]


@dataclass(frozen=True, kw_only=True)
class _Round:
    """`capacity`: events a second, as fast as they go. `added`: seconds of each event at the rate that was offered;
    empty: that is beyond the capacity. `rate`: what was kept a second then."""

    capacity: float
    rate: float
    added: list[float]


def measure_turns(options: VoiceOptions, directory: Path) -> Outcome:
    # As a gateway's process is set: threads give way soon, and looks for cycles are rare.
    gc.freeze()
    look_for_cycles_rarely()
    sys.setswitchinterval(0.0005)
    program = find_program(PEERS["jetstream"], ())
    if program is None:
        print("JetStream is not installed (make bench-setup): left out.", file=sys.stderr)
    found: dict[str, list[_Round]] = {name: [] for name in ((_OURS, _SINGLY, _TOGETHER) if program else (_OURS,))}
    for run, name in in_turns("turns", options.rounds, [*found]):
        where = directory / f"{run}-{len(found[name])}-{name[:3]}{len(name)}"
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            if name == _OURS:
                one = runner.run(_ours(where, options.seconds))
            else:
                assert program is not None
                with serving(PEERS["jetstream"], program, where) as server:
                    one = runner.run(_peer(server.port, options.seconds, together=name == _TOGETHER))
        found[name].append(one)
        p50, p99 = (_shown(_at(one.added, share)) for share in (0.5, 0.99))
        progress.print(f"  {name}: {one.capacity:,.0f}/s, at the rate {p50}, p99 {p99} ms")
    rows = [
        [name, f"{_capacity(rounds):,.0f}", *(_shown(_added_ms(rounds, share)) for share in (0.5, 0.99))]
        for name, rounds in found.items()
    ]
    columns = ("1,000 calls", "as fast as they go, events/s", f"at {_EVENTS_A_SECOND:,.0f}/s: added ms p50", "p99")
    print_table("Turn events, each on the disk", columns, rows)
    ours = found[_OURS]
    return Outcome(
        body={
            name: {
                "events_a_second": rounded(_capacity(rounds)),
                "added_ms_p50": rounded(_added_ms(rounds, 0.5)),
                "added_ms_p99": rounded(_added_ms(rounds, 0.99)),
            }
            for name, rounds in found.items()
        },
        bars={
            "turn_events_a_second": at_least(rounded(statistics.median(one.rate for one in ours)), _RATE_MIN),
            "turn_added_ms_p99": at_most(rounded(_added_ms(ours, 0.99)), _ADDED_MS_MAX),
        },
    )


def _capacity(rounds: list[_Round]) -> float:
    return statistics.median(one.capacity for one in rounds)


def _added_ms(rounds: list[_Round], share: float) -> float:
    """The median round's; 0: beyond the capacity."""
    return statistics.median(_at(one.added, share) for one in rounds)


def _shown(milliseconds: float) -> str:
    return f"{milliseconds:.1f}" if milliseconds else "–"


async def _ours(directory: Path, seconds: float) -> _Round:
    async with _gateway(directory) as keeps:
        return await _measured([_Talk(keep) for keep in keeps], seconds, is_offered=True)


async def _peer(port: int, seconds: float, *, together: bool) -> _Round:
    async with connected(port, together=together) as log:

        def keep(event: TurnEvent, state: CallState) -> Awaitable[object]:
            return log.keep(event_text(event).encode())

        return await _measured([_Talk(keep) for _ in range(_NUM_CALLS)], seconds, is_offered=False)


async def _measured(talks: "list[_Talk]", seconds: float, *, is_offered: bool) -> _Round:
    """Args: is_offered: the rate, even if it is beyond the capacity."""
    await _paced(talks, _WARM_UP_SECONDS) if is_offered else await _flat_out(talks, _WARM_UP_SECONDS)
    added, took = await _flat_out(talks, seconds)
    capacity = len(added) / took
    if not is_offered and capacity < _EVENTS_A_SECOND:
        return _Round(capacity=capacity, rate=capacity, added=[])
    added, took = await _paced(talks, seconds)
    return _Round(capacity=capacity, rate=len(added) / took, added=added)


@asynccontextmanager
async def _gateway(directory: Path) -> AsyncIterator[list[Keep]]:
    """What a gateway keeps its calls with: a log and a store, both in the directory."""
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
        yield [lambda event, state, one=one: one.keep((event,), state) for one in taken]
        await asyncio.gather(*(one.close() for one in taken))


class _Talk:
    """One call: a conversation without end."""

    def __init__(self, keep: Keep) -> None:
        self._keep, self._events = keep, _conversation()
        self._state = CallState()
        self._turn = asyncio.Lock()

    async def next(self, added: list[float]) -> None:
        begun = time.perf_counter()
        async with self._turn:
            event = next(self._events)
            self._state = applied(self._state, (event,))
            await self._keep(event, self._state)
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


async def _paced(talks: list[_Talk], seconds: float) -> tuple[list[float], float]:
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


async def _flat_out(talks: list[_Talk], seconds: float) -> tuple[list[float], float]:
    added: list[float] = []
    begun = time.perf_counter()

    async def one(talk: _Talk) -> None:
        while time.perf_counter() - begun < seconds:
            await talk.next(added)

    await asyncio.gather(*(one(talk) for talk in talks))
    return added, time.perf_counter() - begun


def _at(values: list[float], share: float) -> float:
    """Milliseconds; 0: there are none."""
    return sorted(values)[int(len(values) * share)] * 1000 if values else 0.0
