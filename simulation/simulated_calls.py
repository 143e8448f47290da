"""Calls in simulated time: the gateway's own code from a call's socket to the store, killed at any moment, by a seed.

Two gateways with logs of their own share a store; clients (`simulation.talking`) speak and write, cut answers, lose
their connections and come back to either gateway, also while the other one believes that it has the call. Simulated are
time, disk, store, network, models, and what the ears report; conversation, answers, segments of the store, and who
takes a call from whom are the product's. One seed is one order of events.

The intervals at which a call is written down are seconds here, so that calls of some seconds live through several.
"""

import asyncio
import gc
import random
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock
from urllib.parse import parse_qs

import numpy as np

from headrace.engines import chain
from headrace.engines.base import Answer, Engine, Piece, Turn
from headrace.engines.chain import LoadedRole, RoleChain
from headrace.engines.hearing import HearingEngine, HearingTurn
from headrace.engines.media import MediaAnswer, MediaEngine, MediaTurn
from headrace.engines.media_bytes import MediaFacts
from headrace.engines.media_chain import LoadedMaker
from headrace.engines.roles import EngineSettings, Role
from headrace.engines.sound_samples import wav_of
from headrace.engines.spoken_chain import LoadedListener, SpokenChain
from headrace.errors import HeadraceError
from headrace.inbox.turn_rows import TurnRow
from headrace.serving.gateway.realtime import answers
from headrace.serving.gateway.realtime.answers import AnswerParts
from headrace.serving.gateway.realtime.call import Call
from headrace.serving.gateway.realtime.server_events import ServerEvents
from headrace.serving.gateway.realtime.talk import Talk
from headrace.serving.gateway.realtime.websocket import SocketClosed
from headrace.serving.gateway.refusals import refusal_of
from headrace.version_sets.media_settings import Hearing, Speech
from headrace.version_sets.sets import Decoding
from headrace.voice import kept, segments
from headrace.voice.hearing import Heard
from headrace.voice.kept import CallStore, call_name
from headrace.voice.segments import SegmentWriter
from simulation.call_lines import Line
from simulation.disk import Disk
from simulation.gateways import SimulatedThreads
from simulation.scheduler import Process, Scheduler, SimulatedClock, SimulatedLoop, undisturbed
from simulation.servers.calls import SAMPLE_RATE
from simulation.stores import SimulatedStore
from simulation.talking import (
    NUM_SENTENCES,
    Client,
    Connection,
    Found,
    Habits,
    look_at_questions,
    num_samples_of,
    sentence_of,
)

_NUM_CALLS, _NUM_TURNS = 2, 4
# Simulated; a call of such turns takes some ten.
_SECONDS_MAX = 400.0
_TICK_SECONDS = 0.005
# A quick voice: a sentence is five pieces of audio.
_CHARACTERS_A_SECOND = 56
# A schedule leaves a few megabytes.
_COLLECTED_EVERY = 20
_SERVICE, _KEY = "voices", "key"


class World:
    """One schedule. `asked`: the writer's requests, in the form of bodies."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.scheduler = Scheduler()
        self.disk = Disk()
        self.asked: list[dict[str, Any]] = []
        # Log → (call, epoch) → sequence → text: what is on a gateway's disk, whoever runs there.
        self.logs: dict[str, dict[tuple[str, int], dict[int, str]]] = {}

    def pause(self, most: float) -> float:
        return self.chance.uniform(0.0, most)


class SimulatedLog:
    """A gateway's log: groups of events, one after the other, each on the disk before it is acknowledged."""

    def __init__(self, world: World, loop: SimulatedLoop, name: str) -> None:
        self.nonce = name
        self._world, self._loop = world, loop
        self._rows = world.logs.setdefault(name, {})
        self._waiting: list[tuple[Sequence[TurnRow], asyncio.Future[object]]] = []
        self._is_writing = False

    def keep(self, turns: Sequence[TurnRow]) -> "asyncio.Future[object]":
        future = self._loop.create_future()
        self._waiting.append((turns, future))
        if not self._is_writing:
            self._is_writing = True
            self._loop.call_later(0.002, self._begin)
        return future

    def forget(self, call: str, epoch: int, sequence: int) -> None:
        for number in [one for one in self._rows.get((call, epoch), {}) if one <= sequence]:
            del self._rows[call, epoch][number]

    def turns(self, call: str, epoch: int) -> list[tuple[int, str]]:
        return sorted(self._rows.get((call, epoch), {}).items())

    def _begin(self) -> None:
        group, self._waiting = self._waiting, []
        self._loop.call_later(self._world.pause(0.01), self._write, group)

    def _write(self, group: "list[tuple[Sequence[TurnRow], asyncio.Future[object]]]") -> None:
        for turns, _ in group:
            for row in turns:
                self._rows.setdefault((row.call, row.epoch), {})[row.sequence] = row.event
        # On the disk, and nobody knows yet.
        self._loop.call_later(self._world.pause(0.005), self._tell, group)

    def _tell(self, group: "list[tuple[Sequence[TurnRow], asyncio.Future[object]]]") -> None:
        for _, future in group:
            if not future.done():
                future.set_result(None)
        self._is_writing = bool(self._waiting)
        if self._waiting:
            self._begin()


class _Model:
    name = "simulated"

    def __init__(self, world: World) -> None:
        self.world = world


class _Ears(_Model, HearingEngine):
    async def hear(self, turn: HearingTurn) -> Answer:
        await asyncio.sleep(self.world.pause(0.1))
        return Answer(text=turn.pcm.decode().strip(), finish_reason="stop", replica=self.name)


class SimulatedWriter(_Model, Engine):
    async def answer(self, turn: Turn) -> Answer:
        raise NotImplementedError("calls take answers in pieces")

    async def stream(self, turn: Turn) -> AsyncGenerator[Piece, None]:
        # On its way, a question may be lost with who asks.
        await asyncio.sleep(self.world.pause(0.02))
        messages = [{"role": message.role, "content": message.content} for message in turn.messages]
        self.world.asked.append({"messages": messages})
        for number in range(NUM_SENTENCES):
            await asyncio.sleep(self.world.pause(0.06))
            yield Piece(text=sentence_of(turn.messages[-1].content, number) + " ", replica=self.name)
        yield Piece(text="", finish_reason="stop", replica=self.name)


class _Voice(_Model, MediaEngine):
    async def make(self, turn: MediaTurn) -> MediaAnswer:
        await asyncio.sleep(self.world.pause(0.06))
        silence = np.zeros(num_samples_of(turn.text, _CHARACTERS_A_SECOND))
        return MediaAnswer(content=wav_of(silence, SAMPLE_RATE), replica=self.name)


def _chain(world: World) -> SpokenChain:
    decoding = Decoding(temperature=0.0, top_p=1.0, max_new_tokens=400)
    hows: dict[str, Any] = {
        "listener": {"hearing": Hearing()},
        "writer": {"decoding": decoding},
        "speaker": {"speech": Speech(sample_rate=SAMPLE_RATE)},
    }
    members = {
        name: Role(model=name, version="1", registered=False, engine=EngineSettings("echo"), **how).member(
            name, None, engine=None
        )
        for name, how in hows.items()
    }
    return SpokenChain(
        id="set",
        listener=LoadedListener(member=members["listener"], engine=_Ears(world)),
        writers=RoleChain(id="set", roles=(LoadedRole(member=members["writer"], engine=SimulatedWriter(world)),)),
        speaker=LoadedMaker(member=members["speaker"], engine=_Voice(world), facts=MediaFacts(media_type="audio/wav")),
    )


class Gateway:
    """One process, from its start to its kill; `slot` names its disk."""

    def __init__(self, world: World, slot: int, number: int) -> None:
        self.world, self.process = world, Process(f"gateway-{slot}-{number}")
        self.loop = SimulatedLoop(world.scheduler, self.process)
        self.lines: list[Line] = []
        self._slot = slot
        self._calls: CallStore | None = None
        self._held: dict[str, asyncio.Task[None]] = {}
        self._chain = _chain(world)
        self.loop.call_soon(self._start)
        if world.chance.random() < 0.3:
            self.process.calls_to_live = world.chance.randint(1, 300)
            self.process.killed_after = world.chance.random() < 0.5

    def _start(self) -> None:
        world = self.world
        store = SimulatedStore(world.disk, world.scheduler, world.chance, [])
        log = SimulatedLog(world, self.loop, f"log-{self._slot}")
        threads = SimulatedThreads(world.scheduler, self.process)
        self._calls = CallStore(
            store=store,
            service=_SERVICE,
            log=log,
            reader=log,
            segments=SegmentWriter(store, _SERVICE, threads=threads),
            threads=threads,
            clock=SimulatedClock(world.scheduler),
        )

    @property
    def is_ready(self) -> bool:
        return self.process.alive and self._calls is not None

    def accept(self, line: Line, query: str) -> None:
        given = {name: values[0] for name, values in parse_qs(query).items()}
        self.lines.append(line)
        received = given.get("received_ms")
        self.loop.call_soon(self._begin, line.server, given["session"], None if received is None else int(received))

    def _begin(self, socket: Any, session: str, received_ms: int | None) -> None:
        if (other := self._held.pop(session, None)) is not None:
            other.cancel()
        self._held[session] = self.loop.create_task(self._hold(socket, session, received_ms))

    async def _hold(self, socket: Any, session: str, received_ms: int | None) -> None:
        """As `headrace.serving.gateway.realtime.calls.Calls` holds a call."""
        assert self._calls is not None
        events, taken = ServerEvents(is_beta=False), None
        try:
            taken = await self._calls.take(call_name(_KEY, session))
            parts = AnswerParts(
                name=session,
                chain=self._chain,
                enter=self._enter,
                leave=lambda seconds: None,
                told=lambda told: None,
                received_ms=received_ms,
            )
            talk = Talk(taken.state, taken.keep, clock=self._calls.clock, num_items_max=64, characters_max=100_000)
            call = Call(socket, events, talk, parts, model=_SERVICE, voice="simulated")
            socket.hears = lambda event: call.tap.tell(self._heard(event))
            await call.run()
        except SocketClosed:
            pass
        except HeadraceError as error:
            if socket.is_open:
                await socket.send(events.error(refusal_of(error)))
        finally:
            socket.close(1000, "")
            if taken is not None:
                await taken.close()

    async def _enter(self) -> None:
        await asyncio.sleep(self.world.pause(0.002))

    def _heard(self, event: dict[str, Any]) -> Heard:
        ms, text = int(self.world.scheduler.now * 1000), str(event.get("text", "")).encode()
        return Heard(what=event["what"], ms=ms, pcm=text + b" " * (len(text) % 2))


class Gateways:
    """Two slots, in each of which a gateway is killed and started again, until `end`."""

    def __init__(self, world: World, clients: SimulatedLoop, found: Found) -> None:
        self._world, self._clients, self._found = world, clients, found
        # Kept to the end: otherwise Python would unwind, and run, a dead one's remains when it collects them.
        self._all: list[Gateway] = []
        self._present: list[Gateway | None] = [None, None]
        for slot in (0, 1):
            self._start(slot)
        for _ in range(world.chance.randint(0, 2)):
            world.scheduler.at(world.chance.uniform(0.2, 6.0), self._kill_one)
        self._look()

    async def connect(self, query: str) -> Connection:
        while True:
            await asyncio.sleep(self._world.pause(0.05))
            ready = [one for one in self._present if one is not None and one.is_ready]
            if ready:
                gateway = self._world.chance.choice(ready)
                line = Line(self._world, self._clients, gateway.loop, gateway.process)
                gateway.accept(line, query)
                return line

    def _start(self, slot: int) -> None:
        self._present[slot] = Gateway(self._world, slot, len(self._all))
        self._all.append(self._present[slot])  # pyright: ignore[reportArgumentType]

    def _kill_one(self) -> None:
        living = [one for one in self._present if one is not None and one.process.alive]
        if living:
            self._world.scheduler.kill(self._world.chance.choice(living).process)

    def _look(self) -> None:
        """Ends the connections of who was killed, and starts it again soon."""
        scheduler = self._world.scheduler
        for slot, gateway in enumerate(self._present):
            if gateway is not None and not gateway.process.alive:
                self._found.num_kills += 1
                self._present[slot] = None
                for line in gateway.lines:
                    line.killed()
                scheduler.at(scheduler.now + self._world.pause(1.5), lambda slot=slot: self._start(slot))
        scheduler.at(scheduler.now + _TICK_SECONDS, self._look)


def talk_through(seeds: Iterable[int], *, enough: int | None = None) -> Found:
    """Schedules, one after another. Args: enough: it ends after so many faults."""
    found = Found()
    with undisturbed():
        for number, seed in enumerate(seeds, 1):
            # Kept until nothing of it can run any more.
            world = World(seed)
            _talk(world, seed, found)
            if number % _COLLECTED_EVERY == 0:
                gc.collect()
            if enough is not None and len(found.faults) >= enough:
                break
    return found


def _talk(world: World, seed: int, found: Found) -> None:
    """Calls, to their ends. Adds to `found` what its clients and the writer's questions show."""
    loop = SimulatedLoop(world.scheduler, Process("clients"))
    chance = world.chance
    habits = Habits(
        cuts=chance.choice((0.3, 0.7, 1.0)),
        speaks=chance.choice((0.0, 0.5, 1.0)),
        drops=0.2,
        num_events=50,
        pause_seconds=0.2,
        characters_a_second=_CHARACTERS_A_SECOND,
    )
    with _simulated_time(world):
        gateways = Gateways(world, loop, found)
        clients = [
            Client(
                gateways.connect,
                f"s{seed}c{place}",
                found,
                seed=seed * _NUM_CALLS + place,
                num_turns=_NUM_TURNS,
                habits=habits,
            )
            for place in range(_NUM_CALLS)
        ]
        tasks: list[asyncio.Task[None]] = []
        loop.call_soon(lambda: tasks.extend(loop.create_task(client.run()) for client in clients))
        while world.scheduler.now < _SECONDS_MAX and not (tasks and all(task.done() for task in tasks)):
            world.scheduler.run(world.scheduler.now + 1.0)
        found.lost += [f"seed {seed}: a call did not end" for task in tasks if not task.done()]
        errors = [task.exception() for task in tasks if task.done()]
        look_at_questions(world.asked, clients, found)
        world.scheduler.finish()
    for where, error in [*(("a client", error) for error in errors if error), *world.scheduler.failures]:
        raise AssertionError(f"seed {seed}: {where} failed") from error


@contextmanager
def _simulated_time(world: World) -> Iterator[None]:
    """Replaces clocks, draws and intervals that the library takes from Python itself or from its own constants."""
    simulated = SimpleNamespace(monotonic=lambda: world.scheduler.now)
    with (
        mock.patch.object(chain, "time", simulated),
        mock.patch.object(answers, "time", simulated),
        mock.patch.object(segments, "time", simulated),
        mock.patch.object(kept, "random", world.chance),
        mock.patch.object(kept, "_CHECKPOINT_SECONDS", world.chance.uniform(0.2, 3.0)),
        mock.patch.object(kept, "_DURABLE_SECONDS", world.chance.uniform(0.2, 6.0)),
    ):
        yield
