"""Routers, sessions and controllers in simulated time, on a store that is slow, refuses and loses replies.

Every unit is checked when it starts, against the journal as the disk has it at that moment; sessions and caps also at
the end. Real code runs unchanged; threads are fibres of `simulation.scheduler`.
"""

import asyncio
import concurrent.futures
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from headrace.errors import HeadraceError, InvalidInput, StoreUnavailable
from headrace.rollout.assignment import salted_rank
from headrace.rollout.journal import Entry, Journal
from headrace.rollout.routing import Pin
from headrace.rollout.states import RolloutState, after, fold
from headrace.serving.plan_lease import LEASE_SECONDS, READ_SECONDS, PlanLease, PlanUnknown
from headrace.serving.router import Router
from headrace.serving.sessions import SessionPin
from simulation.disk import Disk, Trouble
from simulation.scheduler import EPOCH, Process, Scheduler, SimulatedClock, SimulatedLoop
from simulation.stores import SimulatedStore
from tests.serving.builders import SERVICE, Plans, make_service

SESSION_SECONDS = 8.0
# Within a tenth of a session's lease, as documented.
SKEWS = (0.0, 0.0, 0.35, -0.35)
SETS = tuple(str(number) * 64 for number in range(1, 9))
_EPSILON = 1e-6


class Broken(AssertionError):
    """An invariant does not hold; the text says which."""


class Threads(concurrent.futures.Executor):
    """Threads of a simulated process."""

    def __init__(self, scheduler: Scheduler, process: Process) -> None:
        self._scheduler, self._process = scheduler, process

    def submit(self, fn: Callable[..., Any], /, *args: Any, **keywords: Any) -> concurrent.futures.Future[Any]:
        raise AssertionError("The simulated loop runs everything itself.")


def _entry(body: dict) -> Entry:
    return Entry(**{field.name: body[field.name] for field in fields(Entry)})


class Truth:
    """The journal as the disk has it, with the moments at which entries came to be."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.states: list[tuple[float, RolloutState]] = []

    def read(self) -> None:
        while (key := f"rollout/{SERVICE}/journal/{len(self.states) + 1:08d}.json") in self._disk.objects:
            state = self.states[-1][1] if self.states else None
            self.states.append((self._disk.objects[key].at, after(state, _entry(self._disk.json(key)))))

    def of(self, entry: int) -> RolloutState:
        return self.states[entry - 1][1]

    def replaced_at(self, entry: int) -> float:
        return self.states[entry][0] if entry < len(self.states) else float("inf")

    def aborted_at(self, version_set: str) -> float:
        return next((at for at, state in self.states if version_set in state.aborted), float("inf"))

    def evicted_at(self, version_set: str) -> float:
        return next((at for at, state in self.states if version_set in state.evicted), float("inf"))

    def cap_within(self, trial: int, begin: float) -> float:
        """The highest cap of a trial that was in force since `begin`."""
        caps = [
            float("inf") if state.cap is None else state.cap
            for number, (_, state) in enumerate(self.states, 1)
            if state.trial == trial and self.replaced_at(number) >= begin
        ]
        return max(caps, default=float("inf"))


class Gateway:
    """One gateway process, from its start to its kill."""

    def __init__(self, world: "World", name: str) -> None:
        scheduler, chance = world.scheduler, world.chance
        self.name = f"{name} of {scheduler.now:.3f}"
        self.world = world
        self.process = Process(name)
        self.born = scheduler.now
        self.newest_entry = 0
        self.loop = SimulatedLoop(scheduler, self.process)
        self.clock = SimulatedClock(scheduler, chance.choice(SKEWS))
        store = world.store()
        self.lease = PlanLease(store, SERVICE, SERVICE, monotonic=lambda: scheduler.now, clock=self.clock)
        self.router = Router(
            store=store,
            service=make_service(session_seconds=SESSION_SECONDS),
            lease=self.lease,
            gateway=self.name,
            clock=self.clock,
            threads=Threads(scheduler, self.process),
            draw=map(f"draw {{}} of {self.name}".format, count()).__next__,
        )
        self.tasks: list[asyncio.Task[None]] = []
        for work, pause in (
            (self.lease.poll, READ_SECONDS),
            (self.router.replenish, 0.1),
            (self.router.pin_remembered, 0.5),
            (self.router.sweep, 5.0),
        ):
            scheduler.spawn(self.process, partial(self._again_and_again, work, pause))

    def _again_and_again(self, work: Callable[[], object], pause: float) -> None:
        while True:
            with suppress(StoreUnavailable):
                work()
            self.world.scheduler.sleep(pause)

    def unit(self, key: str, override: str | None) -> None:
        with suppress(PlanUnknown, InvalidInput):
            self.world.check_unit(self, key, self.router.resolve(key, override=override), override)

    def turn(self, session: str, override: str | None) -> None:
        self.tasks.append(self.loop.create_task(self._turn(session, override)))

    async def _turn(self, session: str, override: str | None) -> None:
        begun_at = self.world.scheduler.now
        with suppress(PlanUnknown, InvalidInput):
            pinned = await self.router.resolve_session(session, override=override)
            self.world.check_turn(self, session, pinned, begun_at)


class World:
    """One seed's world. `run` raises Broken at the first unit that breaks an invariant."""

    def __init__(self, seed: int, directory: Path) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.scheduler = Scheduler()
        self.disk = Disk(directory)
        self.truth = Truth(self.disk)
        self.seconds = self.chance.uniform(10.0, 30.0)
        self.troubles: list[Trouble] = []
        self.gateways: dict[str, Gateway] = {}
        self.counts: Counter[str] = Counter()
        self.trace: list[str] = []
        self.refused = 0
        # Trial → units that started on its candidate.
        self.started: dict[int, int] = defaultdict(int)
        self.begun_turns: set[tuple[str, str, int]] = set()
        # Session → what its last pinned turn ran on, until when its lease runs, and when the turn began.
        self.last_turns: dict[str, tuple[str, float, float]] = {}
        self._has_controllers = True
        self._has_traffic = True

    def store(self) -> Any:
        return SimulatedStore(self.disk, self.scheduler, self.chance, self.troubles)

    def run(self) -> None:
        chance, scheduler = self.chance, self.scheduler
        try:
            Plans(self.store()).initialize(SETS[0])
            for number in range(chance.choice((1, 2, 3))):
                self._start(f"gateway-{number}")
            self._make_troubles()
            for number in range(chance.choice((1, 2))):
                process = Process(f"controller-{number}")
                scheduler.spawn(process, partial(self._control, process))
            scheduler.at(0.5, partial(self._send, chance.choice((0.03, 0.1)), chance.choice((2, 6, 30))))
            scheduler.run(self.seconds)
            self._come_to_rest()
        finally:
            scheduler.finish()
            self.disk.close()
        if scheduler.failures:
            raise scheduler.failures[0][1]

    # What happens

    def _start(self, name: str) -> None:
        gateway = self.gateways[name] = Gateway(self, name)
        if self.chance.random() < 0.5:
            gateway.process.calls_to_live = self.chance.randint(5, 200)
            gateway.process.killed_after = self.chance.random() < 0.5
            self._revive(name)

    def _revive(self, name: str) -> None:
        def look() -> None:
            if self._has_traffic and not self.gateways[name].process.alive:
                self.counts["killed"] += 1
                self._start(name)
            elif self._has_traffic:
                self.scheduler.at(self.scheduler.now + 0.5, look)

        self.scheduler.at(self.scheduler.now + 0.5, look)

    def _make_troubles(self) -> None:
        for _ in range(self.chance.choice((0, 1, 2, 3))):
            begin = self.chance.uniform(0.5, self.seconds)
            self.troubles.append(
                Trouble(
                    kind=self.chance.choice(("down", "slow", "losing replies")),
                    begin=begin,
                    end=begin + self.chance.choice((0.3, 1.5, 4.0)),
                    process=self.chance.choice((None, *self.gateways)),
                )
            )

    def _control(self, process: Process) -> None:
        """A controller that is now and then so slow that others have written meanwhile."""
        plans = Plans(self.store(), clock=SimulatedClock(self.scheduler, self.chance.choice((0.0, -7200.0))))
        while self._has_controllers:
            self.scheduler.sleep(self.chance.choice((0.2, 0.8, 2.0)))
            with suppress(StoreUnavailable):
                state = fold(plans.journal.entries())
                assert state is not None
                event = self._event(state)
                if self.chance.random() < 0.3:
                    self.scheduler.sleep(self.chance.choice((0.1, 1.0)))
                if event is not None and plans.add_at(state.head, event.pop("event"), **event) is None:
                    self.refused += 1

    def _event(self, state: RolloutState) -> dict[str, Any] | None:
        chance = self.chance
        if state.candidate is None:
            new = next((one for one in SETS if one not in state.considered), None)
            cap = chance.choice((None, 1, 5, 30))
            started = {"event": "started", "version_set": new, "weights_digest": new, "step": 0, "num_rows": 0}
            return {**started, "weight": chance.choice((0.1, 0.5, 1.0)), "cap": cap} if new else None
        named = {"version_set": state.candidate}
        events = ["advanced", "reweighted", "reweighted", "promoted", "aborted", "paused"]
        event = "resumed" if state.paused else chance.choice(events)
        cap = state.cap if state.cap is None or chance.random() < 0.3 else state.cap + chance.choice((-3, 5, 20))
        cap = None if cap is None else max(1, cap)
        if event == "advanced":
            weight = min(1.0, state.weight + 0.2)
            fields = {"step": state.step + 1, "weight": weight, "cap": cap, "num_rows": 0}
            return {"event": event, **named, **fields} if weight > state.weight else None
        if event == "reweighted":
            return {"event": event, **named, "weight": chance.choice((0.0, 0.3, 0.8)), "cap": chance.choice((cap, 12))}
        if event == "aborted":
            return {"event": event, **named, "num_rows": 0, "evict": chance.random() < 0.6}
        return {"event": event, **named, **({"num_rows": 0} if event == "promoted" else {})}

    def _send(self, pause: float, num_sessions: int) -> None:
        chance = self.chance
        alive = [one for one in self.gateways.values() if one.process.alive]
        override = (
            chance.choice(("stable", "candidate", chance.choice(SETS), "none")) if chance.random() < 0.1 else None
        )
        if alive and chance.random() < 0.4:
            chance.choice(alive).turn(f"session {chance.randrange(num_sessions)}", override)
        elif alive:
            chance.choice(alive).unit(f"key {chance.randrange(200)}", override)
        if self._has_traffic:
            next_at = self.scheduler.now + chance.expovariate(1 / pause)
            self.scheduler.at(next_at, partial(self._send, pause, num_sessions))

    def _come_to_rest(self) -> None:
        """No more faults and no more events: everything that could not be done is made up for."""
        now = self.scheduler.now
        self._has_controllers = False
        self.troubles.clear()
        for gateway in self.gateways.values():
            gateway.process.calls_to_live = None
        # What hangs may hang on for 45 s.
        self.scheduler.run(now + 50.0)
        self._has_traffic = False
        self.scheduler.run(self.scheduler.now + 3.0)
        self._check_rest()

    # What must hold

    def check_unit(self, gateway: Gateway, key: str, pin: Pin, override: str | None) -> None:
        self._say(f"{gateway.name}: unit {key} on {pin.version_set[:4]} ({pin.reason}, entry {pin.entry})")
        self.truth.read()
        state, now = self.truth.of(pin.entry), self.scheduler.now
        if pin.entry < gateway.newest_entry:
            raise self._broken(7, f"{gateway.name} went back from entry {gateway.newest_entry} to {pin.entry}")
        gateway.newest_entry = pin.entry
        if pin.version_set not in (state.stable, state.candidate):
            raise self._broken(7, f"entry {pin.entry} does not name {pin.version_set[:4]}")
        if pin.reason == "weight":
            is_low = salted_rank(SERVICE, key) < state.weight * 2**64
            if (pin.version_set == state.candidate) != (is_low and state.candidate is not None):
                raise self._broken(3, f"{key} does not have the set that its rank gives it")
        elif pin.reason in ("degraded", "capped") and pin.version_set != state.stable:
            raise self._broken(6, f"{key} is {pin.reason} on another set than the stable one")
        if pin.reason != "degraded" and now > self.truth.replaced_at(pin.entry) + LEASE_SECONDS + _EPSILON:
            raise self._broken(6, f"{key} was routed by entry {pin.entry}, replaced too long ago")
        if override in ("stable", state.stable) and pin.version_set != state.stable:
            raise self._broken(1, f"{key} asked for the stable set and did not get it")
        self._check_start(pin)

    def check_turn(self, gateway: Gateway, session: str, turn: SessionPin, begun_at: float) -> None:
        pin, now = turn, self.scheduler.now
        pinned = "pinned" if turn.is_pinned else "unpinned"
        self._say(f"{gateway.name}: {session} on {pin.version_set[:4]} ({pin.reason}, {pinned}, entry {pin.entry})")
        self.truth.read()
        if (session, pin.version_set, pin.trial) not in self.begun_turns:
            self.begun_turns.add((session, pin.version_set, pin.trial))
            self._check_start(pin)
        self.counts["turns"] += 1
        evicted_at = self.truth.evicted_at(pin.version_set)
        if gateway.lease.fresh() and now > evicted_at + LEASE_SECONDS + _EPSILON:
            raise self._broken(
                6, f"{session} goes on with {pin.version_set[:4]}, which was evicted at {evicted_at:.3f}"
            )
        if not turn.is_pinned:
            self.counts["unpinned"] += 1
            return
        old_set, expires_at, last_at = self.last_turns.get(session, (pin.version_set, 0.0, 0.0))
        self.last_turns[session] = (pin.version_set, turn.expires_at, now)
        if old_set == pin.version_set or last_at > begun_at:
            # Two turns at once may begin in either order; `_check_chains` sees those.
            return
        is_over = EPOCH + now >= expires_at - max(SKEWS) - _EPSILON
        if not is_over and old_set not in self.truth.states[-1][1].evicted:
            raise self._broken(2, f"{session} was moved from {old_set[:4]} to {pin.version_set[:4]}")

    def _check_start(self, pin: Pin) -> None:
        now = self.scheduler.now
        self.counts[pin.reason] += 1
        if now > self.truth.aborted_at(pin.version_set) + LEASE_SECONDS + _EPSILON:
            raise self._broken(6, f"a unit starts on {pin.version_set[:4]} long after its abort ({pin.reason})")
        if pin.trial and self.truth.of(pin.trial).candidate == pin.version_set:
            self.started[pin.trial] += 1
            cap = self.truth.cap_within(pin.trial, now - LEASE_SECONDS)
            if self.started[pin.trial] > cap:
                raise self._broken(
                    5, f"unit {self.started[pin.trial]} of trial {pin.trial} starts under a cap of {cap}"
                )

    def _check_rest(self) -> None:
        self.truth.read()
        head = len(self.truth.states)
        for gateway in self.gateways.values():
            table = gateway.lease.table()
            if not gateway.process.alive:
                continue
            if table is None or table.head != head or not gateway.lease.fresh():
                raise self._broken(7, f"{gateway.name} rests at another entry than {head}: {gateway.lease.error}")
        Journal(self.store(), SERVICE, SimulatedClock(self.scheduler)).verify()
        self._check_chains()

    def _check_chains(self) -> None:
        chains: dict[str, list[str]] = defaultdict(list)
        for key in sorted(self.disk.objects):
            if "/sessions/" in key:
                chains[key.rpartition("/")[0]].append(key)
        for keys in chains.values():
            for before, following in pairwise(keys):
                old, new = self.disk.json(before), self.disk.json(following)
                made_at = self.disk.objects[following].at
                is_over = EPOCH + made_at >= old["expires_at"] - max(SKEWS) - _EPSILON
                evicted = {one for at, state in self.truth.states if at <= made_at for one in state.evicted}
                is_moved = new["reason"] == "repinned" and old["version_set"] in evicted
                if new["version_set"] != old["version_set"] and not is_over and not is_moved:
                    raise self._broken(2, f"{following} moves its session")

    def _say(self, what: str) -> None:
        self.trace.append(f"{self.scheduler.now:8.3f} {what}")

    def _broken(self, invariant: int, what: str) -> Broken:
        plan = [
            f"{at:8.3f} entry {state.head}: stable {state.stable[:4]}, candidate {(state.candidate or '')[:4]} at "
            f"{state.weight:g}, cap {state.cap}, trial {state.trial}"
            for at, state in self.truth.states
        ]
        story = "\n".join(sorted([*plan, *self.trace[-80:]]))
        return Broken(f"Seed {self.seed}, invariant {invariant}: {what}.\n{story}")


def simulate(seed: int, directory: Path) -> World:
    world = World(seed, directory)
    try:
        world.run()
    except HeadraceError as error:
        raise Broken(f"Seed {seed}: {error!r}") from error
    return world
