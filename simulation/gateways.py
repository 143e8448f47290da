"""Simulated gateways: the real plan lease, router, pinning, prepared sets and chain, over slow engines.

Everything below and around them is simulated: store, time, threads, engines, clients. A unit's step records contain the
set of the answering engine, from the engine itself, so a unit that mixed two sets could not hide it.
"""

import asyncio
import concurrent.futures
import hashlib
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from types import SimpleNamespace
from typing import Any
from unittest import mock

from headrace.engines import chain
from headrace.engines.base import Answer, Engine, Piece, Turn
from headrace.engines.chain import Conversation
from headrace.engines.roles import EngineSettings, Role
from headrace.errors import HandoffCorrupt, HeadraceError, InvalidInput, StoreUnavailable
from headrace.rollout.plan import LivePlan
from headrace.serving import plan_lease
from headrace.serving.gateway import prepared_sets
from headrace.serving.gateway.pinning import Pinning
from headrace.serving.gateway.prepared_sets import PreparedSets
from headrace.serving.gateway.refusals import Refusal
from headrace.serving.gateway.rollout_watch import RolloutWatch
from headrace.serving.plan_lease import READ_SECONDS, PlanLease
from headrace.serving.router import Router
from headrace.serving.service import Limits, Service
from headrace.version_sets.sets import Decoding, EngineSpec, Member
from simulation.records import ShareRecord, StepRecord, UnitRecord
from simulation.scheduler import Process, Scheduler, SimulatedLoop
from simulation.world import NAME, ROLES, SESSION_SECONDS, SETS, World

NUM_KEYS = 1000
_DECODING = Decoding(temperature=0.0, top_p=1.0, max_new_tokens=8)
_BY_VERSION = {one.members[0].model_version: one.id for one in SETS}


class _Sink:
    """Records and metrics that nobody reads."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class SimulatedEngine(Engine):
    """One role of one set. Its name, which every step reports, is the set's id."""

    def __init__(self, world: World, set_id: str) -> None:
        self._world = world
        self.name = set_id

    async def answer(self, turn: Turn) -> Answer:
        await asyncio.sleep(self._seconds())
        return Answer(text=self.name, finish_reason="stop", num_prompt_tokens=1, num_output_tokens=1, replica=self.name)

    async def stream(self, turn: Turn) -> AsyncGenerator[Piece, None]:
        for _ in range(2):
            await asyncio.sleep(self._seconds())
            yield Piece(text=self.name, replica=self.name)
        yield Piece(text="", finish_reason="stop", num_prompt_tokens=1, num_output_tokens=2, replica=self.name)

    def _seconds(self) -> float:
        return self._world.chance.choice((0.01, 0.05, 0.3, 1.0))


class SimulatedThreads(concurrent.futures.Executor):
    """Threads of a simulated process."""

    def __init__(self, scheduler: Scheduler, process: Process) -> None:
        self._scheduler, self._process = scheduler, process

    def submit(self, fn: Callable[..., Any], /, *args: Any, **keywords: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **keywords))
            except Exception as error:  # noqa: BLE001 (handed to whoever waits)
                future.set_exception(error)

        self._scheduler.spawn(self._process, work)
        return future


class Gateway:
    """One gateway process, from its start to its kill."""

    def __init__(self, world: World, name: str, service: Service) -> None:
        self.world, self.name = world, name
        self.process = world.start(name)
        scheduler = world.scheduler
        self.loop = SimulatedLoop(scheduler, self.process)
        store, clock = world.store(), world.clock()
        sink: Any = _Sink()
        self.sets = PreparedSets(service, store, self._open_engine, records=sink, metrics=sink, clock=clock)
        self.lease = PlanLease(store, NAME, world.plan.ranking_salt, monotonic=lambda: scheduler.now, clock=clock)
        self.lease._reads.threads = SimulatedThreads(scheduler, self.process)  # pyright: ignore[reportAttributeAccessIssue]
        self.router = Router(
            store=store,
            service=service,
            lease=self.lease,
            gateway=f"{name}-{scheduler.now}",
            clock=clock,
            is_loaded=lambda version_set: self.sets.get(version_set) is not None,
            draw=map(f"draw {{}} of {name}-{scheduler.now}".format, count()).__next__,
        )
        self.pinning = Pinning(service, router=self.router, lease=self.lease, sets=self.sets)
        watch = RolloutWatch(store, self.lease, self.sets, node=name, records=sink, clock=clock)
        scheduler.spawn(self.process, self._poll)
        scheduler.spawn(self.process, lambda: self._again_and_again(self.router.replenish, 0.15))
        scheduler.spawn(self.process, lambda: self._again_and_again(self.router.pin_remembered, 0.5))
        self.tasks = [self.loop.create_task(watch.run())]

    def _table(self, word: str) -> str | None:
        table = self.lease.table()
        return getattr(table, word) if table else None

    @property
    def is_ready(self) -> bool:
        stable = self._table("stable")
        return stable is not None and self.sets.get(stable) is not None

    def _poll(self) -> None:
        scheduler = self.world.scheduler
        while True:
            began = scheduler.now
            self.lease.poll()
            scheduler.sleep(max(0.0, began + READ_SECONDS - scheduler.now))

    def _again_and_again(self, work: Callable[[], None], pause: float) -> None:
        while True:
            with suppress(StoreUnavailable):
                work()
            self.world.scheduler.sleep(pause)

    def _open_engine(self, member: Member, spec: EngineSpec) -> SimulatedEngine:
        self.world.scheduler.sleep(self.world.chance.uniform(0.01, 0.3))
        set_id = _BY_VERSION[member.model_version]
        if set_id in self.world.damaged and member.role == ROLES[1]:
            raise HandoffCorrupt(f"simulated: the weights of {member.role} do not have the digest that the set names.")
        return SimulatedEngine(self.world, set_id)

    def ask_for_shares(self) -> None:
        """Many distinct keys at one moment: through the router without a cap, otherwise by what the plan says."""
        table = self.lease.table()
        if table is None or table.candidate is None or not self.lease.fresh():
            return
        if self.sets.get(table.candidate) is None:
            # Until the candidate is loaded here, this gateway gives its units to the stable set.
            return
        keys = [f"share {number}" for number in range(NUM_KEYS)]
        if table.cap is None:
            sets = [self.router.resolve(key).version_set for key in keys]
        else:
            sets = [table.wanted(key) for key in keys]
        self.world.log.shares.append(ShareRecord(table.head, len(keys), sets.count(table.candidate)))

    def send(self, unit: str, session: str | None, override: str | None, *, streamed: bool) -> None:
        self.tasks.append(self.loop.create_task(self._serve(unit, session, override, streamed)))

    async def _serve(self, unit: str, session: str | None, override: str | None, streamed: bool) -> None:
        log, scheduler = self.world.log, self.world.scheduler
        digest = hashlib.sha256(session.encode()).hexdigest() if session else None
        record = UnitRecord(self.name, session or unit, scheduler.now, digest)
        record.registry = self.world.registry.mode()
        try:
            pin, loaded = await self.pinning.pin(session or unit, session=session, override=override, is_drawn=False)
        except InvalidInput:
            # The set is unknown: the client's mistake, or a set that was retired meanwhile.
            return
        except (Refusal, HeadraceError) as error:
            if override is not None:
                # A set that this gateway has not loaded (yet) cannot be requested from it.
                return
            record.failure, record.started_at = f"{type(error).__name__}: {error}", scheduler.now
            log.units.append(record)
            return
        record.version_set, record.entry = pin.version_set, pin.entry
        record.reason, record.trial = pin.reason, pin.trial
        record.is_pinned, record.started_at = bool(pin.is_pinned), scheduler.now
        candidate = self._table("candidate")
        record.has_candidate = candidate is not None and self.sets.get(candidate) is not None
        log.units.append(record)
        self.world.say(
            self.name, f"{record.unit} on {record.version_set[:8]} by entry {record.entry} ({record.reason})"
        )

        def report(step: chain.Step) -> None:
            record.steps.append(StepRecord(step.role, step.replica, scheduler.now))

        loaded.num_units += 1
        try:
            served = loaded.chain
            assert isinstance(served, chain.RoleChain), "the simulated service writes"
            if streamed:
                async for _ in served.stream(Conversation.of("hello"), unit=unit, seed=1, report=report):
                    pass
            else:
                await served.answer(Conversation.of("hello"), unit=unit, seed=1, report=report)
        except HeadraceError as error:
            record.failure = f"{type(error).__name__}: {error}"
        finally:
            loaded.num_units -= 1


class Gateways:
    """All gateways of a world, and their clients."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.present: dict[str, Gateway] = {}
        # Kept to the end: otherwise Python would unwind, and run, a dead gateway's remains when it collects them.
        self._all: list[Gateway] = []
        self._sending = True
        self._count = 0
        self.service = make_service(world)

    def start(self, name: str) -> None:
        self.present[name] = Gateway(self.world, name, self.service)
        self._all.append(self.present[name])

    def send_traffic(self) -> None:
        world = self.world
        pause = world.chance.choice((0.06, 0.12, 0.3)) if not world.is_dense else 0.06
        num_sessions = world.chance.choice((1, 4, 12)) if not world.is_dense else 12

        def send() -> None:
            if not self._sending:
                return
            self._send_one(num_sessions)
            world.scheduler.at(world.scheduler.now + world.chance.expovariate(1 / pause), send)

        world.scheduler.at(0.5, send)
        for _ in range(3):
            world.scheduler.at(world.chance.uniform(1.0, world.seconds), self._ask_for_shares)

    def end_traffic(self) -> None:
        self._sending = False

    def _ready(self) -> list[Gateway]:
        return [one for one in self.present.values() if one.process.alive and one.is_ready]

    def _send_one(self, num_sessions: int) -> None:
        chance, ready = self.world.chance, self._ready()
        if not ready:
            return
        self._count += 1
        session = f"session {chance.randrange(num_sessions)}" if chance.random() < 0.35 else None
        unit = f"key {chance.randrange(16)}" if chance.random() < 0.5 else f"unit {self._count}"
        override = None
        if chance.random() < 0.12:
            override = chance.choice(("stable", "candidate", "candidate", chance.choice(SETS).id, "no such set"))
        chance.choice(ready).send(unit, session, override, streamed=chance.random() < 0.3)

    def _ask_for_shares(self) -> None:
        for gateway in self._ready()[:1]:
            gateway.ask_for_shares()


def make_service(world: World) -> Service:
    roles = {
        role: Role(model=f"model-{role}", decoding=_DECODING, engine=EngineSettings(name="echo")) for role in ROLES
    }
    plan = world.plan
    return Service(
        name=NAME,
        roles=roles,
        chain=ROLES,
        session_seconds=SESSION_SECONDS,
        limits=Limits(waiting_seconds_max=60.0),
        rollout=LivePlan(salt=plan.salt, evict_sessions=plan.evict_sessions),
    )


@contextmanager
def simulated_time(scheduler: Scheduler) -> Iterator[None]:
    """Replaces clocks and waits that the library takes from Python itself, until its block ends."""
    simulated = SimpleNamespace(monotonic=lambda: scheduler.now)

    def wait(futures: Any, timeout: float | None = None, return_when: str = concurrent.futures.ALL_COMPLETED) -> Any:
        ends = scheduler.now + (timeout if timeout is not None else float("inf"))
        while True:
            done = {future for future in futures if future.done()}
            if (done and return_when == concurrent.futures.FIRST_COMPLETED) or len(done) == len(futures):
                break
            if scheduler.now >= ends:
                break
            scheduler.sleep(min(0.008, ends - scheduler.now))
        return done, set(futures) - done

    with (
        mock.patch.object(chain, "time", simulated),
        mock.patch.object(prepared_sets, "time", simulated),
        mock.patch.object(plan_lease, "wait", wait),
    ):
        yield
