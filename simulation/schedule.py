"""Runs one seeded schedule of random switches, crashes and outages, and has the oracle judge the result."""

import gc
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from headrace.errors import IllegalTransition, StoreUnavailable, Transient
from headrace.generation.claims import Regenerate
from headrace.keys import ContentPartition
from headrace.rollout.assignment import assign, salted_rank
from headrace.rollout.journal import Journal, JournalCorrupt
from headrace.rollout.states import after, fold
from simulation.actors import (
    bulk_run,
    controller,
    kills,
    one_tick,
    order,
    person,
    sleepy_controller,
)
from simulation.campaign_site import CampaignSite
from simulation.crashes import crash_unequal
from simulation.disk import Disk, Trouble
from simulation.gateways import Gateways, simulated_time
from simulation.history import words_of
from simulation.oracle import Judged, Violation, judge
from simulation.records import ShareRecord
from simulation.scheduler import Process, Scheduler, SimulatedClock, undisturbed
from simulation.stores import SimulatedStore
from simulation.tampering import tamper
from simulation.world import NAME, NUM_SHARDS, World

_NUM_PROMPTS = 4
_COLLECTED_EVERY = 20
_REGENERATE: tuple[Regenerate | None, ...] = (None, None, None, "keep_set", "current_set")
# Simulated seconds after the faults end; within them calls that still hang return, and every run is retried.
_REST_SECONDS = 6.0


@dataclass
class Ended:
    """One schedule's end. `counts`: how often things happened, so that nobody takes an idle schedule for a good one."""

    seed: int
    judged: Judged
    counts: Counter[str] = field(default_factory=Counter)
    trace: list[str] = field(default_factory=list)


class Schedules:
    """Runs schedules in this process. `directory` has the parts that Arrow maps, best in memory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._num_run = 0
        self._template = Disk(directory)
        store = SimulatedStore(self._template, Scheduler(), random.Random(0), [])
        site = CampaignSite(store, clock=SimulatedClock(Scheduler()), verification="off", leased=False)
        for shard in range(NUM_SHARDS):
            _put_prompts(site, shard, 0)
        for key in list(self._template.objects):
            if key.endswith(".arrow"):
                self._template.file(key)

    def run(self, seed: int, *, trace: bool = False, plant: Callable[[World], None] | None = None) -> Ended:
        """`plant`: plants a defect into the world before anything runs."""
        self._num_run += 1
        if self._num_run % _COLLECTED_EVERY == 0:
            gc.collect()
        disk = Disk(self._directory, self._template.objects)
        world = World(seed, disk, trace=trace)
        if plant is not None:
            plant(world)
        with simulated_time(world.scheduler):
            try:
                _run(world)
                _look_back(world, self._directory)
                judged = judge(disk, world.log, world.site())
                judged.violations.extend(_unexpected(world))
                return Ended(seed, judged, _counts(world, judged), world.log.trace)
            finally:
                world.scheduler.finish()
                disk.close()


@contextmanager
def schedules() -> Iterator[Schedules]:
    """With its own directory, in memory if the machine has one."""
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory,
        undisturbed(),
    ):
        yield Schedules(Path(directory))


def _run(world: World) -> None:
    chance = world.chance
    gateways = Gateways(world)
    one_tick(world, "controller-0")
    for number in range(world.num_gateways):
        gateways.start(f"gateway-{number}")
    _staff(world)
    _bulk(world)
    if world.scenario == "aborts unseen":
        world.scheduler.at(1.0, partial(_once_on_trial, world, partial(_abort_unseen, world)))
    gateways.send_traffic()
    for number in range(world.num_gateways):
        name = f"gateway-{number}"
        if chance.random() < 0.5 and world.scenario != "aborts unseen":
            kills(world, chance, name, partial(gateways.start, name), mean=8.0)
    world.scheduler.run(world.seconds)
    gateways.end_traffic()
    _come_to_rest(world)


def _staff(world: World) -> None:
    chance = world.chance

    def interrupt(seconds: float) -> None:
        world.scheduler.spawn(world.start("hasty"), lambda: order(world, "hasty", "abort"), delay=seconds)

    world.interrupt = interrupt
    for number in range(chance.choice((1, 2, 2))):
        name = f"controller-{number}"

        def start(name: str = name) -> None:
            world.scheduler.spawn(world.start(name), controller(world, name))

        start()
        if chance.random() < 0.6:
            kills(world, chance, name, start, mean=4.0)
    if chance.random() < 0.4:
        world.scheduler.spawn(world.start("sleepy"), sleepy_controller(world, "sleepy"))
    for number in range(chance.choice((0, 1, 1, 2) if world.scenario != "aborts unseen" else (0,))):
        name = f"person-{number}"
        world.scheduler.spawn(world.start(name), person(world, name))


def _bulk(world: World) -> None:
    """Runs of some partitions: twice, at once, or killed and retried. The candidate's first partitions come first."""
    chance = world.chance
    ranked = sorted(world.partitions, key=lambda partition: salted_rank(world.plan.ranking_salt, partition.key))
    world.overtake = _Overtaking(world)
    num_partitions = {"newer prompts": (2, 3), "aborts unseen": (0,)}.get(world.scenario, (0, 1, 2, 3))
    for partition in ranked[: chance.choice(num_partitions)]:
        for number in range(chance.choice((1, 1, 2))):
            run = _Run(
                world=world,
                partition=partition,
                run_id=f"run-{partition.shard}-{number}",
                regenerate=chance.choice(_REGENERATE),
                num_kills=chance.choice((0, 0, 1, 2)),
            )
            delay = chance.uniform(0.5, world.seconds * 0.8)
            if chance.random() < 0.6:
                world.scheduler.at(delay, partial(_once_on_trial, world, run.start))
            else:
                world.scheduler.at(delay, run.start)


@dataclass(kw_only=True)
class _Run:
    """One run of a partition: one worker process for each kill, and one more."""

    world: World
    partition: ContentPartition
    run_id: str
    regenerate: Regenerate | None
    num_kills: int
    num_lives: int = 0

    def start(self) -> None:
        chance, name = self.world.chance, f"{self.run_id}-life-{self.num_lives}"
        process = self.world.start(name)
        if self.num_lives < self.num_kills:
            process.calls_to_live = chance.randint(3, 40)
            process.killed_after = chance.random() < 0.5
            self.world.scheduler.at(self.world.scheduler.now + 1.0, partial(self._look_after, process))
        self.num_lives += 1
        work = bulk_run(self.world, name, self.partition, self.run_id, self.regenerate)
        self.world.scheduler.spawn(process, work)

    def _look_after(self, process: Process) -> None:
        if not process.alive:
            self.start()
        elif process.fibres:
            self.world.scheduler.at(self.world.scheduler.now + 1.0, partial(self._look_after, process))


def _abort_unseen(world: World) -> None:
    """The gateways' store fails, or becomes slow, just before somebody aborts the set that they have loaded by then."""
    chance, begin = world.chance, world.scheduler.now + world.chance.uniform(1.0, 2.5)
    kind = chance.choice(("down", "slow"))
    for number in range(world.num_gateways):
        world.troubles.append(Trouble(kind=kind, begin=begin, end=begin + 2.5, process=f"gateway-{number}"))
    world.interrupt(begin - world.scheduler.now + chance.choice((0.0, 0.1, 0.3)))


class _Overtaking:
    """Newer prompts for a stopped worker's partition, and another run of it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._num = 0

    def __call__(self, worker: str) -> None:
        shard = int(worker.split("-")[1])
        (partition,) = (one for one in self._world.partitions if one.shard == shard)
        self._num += 1
        run = _Run(
            world=self._world,
            partition=partition,
            run_id=f"run-{shard}-newer-{self._num}",
            regenerate=None,
            num_kills=self._world.chance.choice((0, 0, 1)),
        )
        # Sometimes the first ones again, so that an older attempt serves once more.
        number = self._num * self._world.chance.choice((0, 1, 1))

        def publish() -> None:
            with suppress(StoreUnavailable, Transient):
                store, clock = self._world.store(), self._world.clock()
                _put_prompts(CampaignSite(store, clock=clock, verification="off", leased=False), shard, number)
                run.start()

        self._world.scheduler.spawn(self._world.start(f"prompter-{self._num}"), publish)


def _put_prompts(site: CampaignSite, shard: int, number: int) -> None:
    """`number` 0: the first prompts."""
    site.put_prompts(
        shard,
        [f"word {shard} {position}" + f" of list {number}" * bool(number) for position in range(_NUM_PROMPTS)],
    )


def _once_on_trial(world: World, start: Callable[[], None]) -> None:
    """Starts a run once there is a candidate for it."""
    number = len([key for key in world.disk.below(f"rollout/{NAME}/journal") if key.endswith(".json")])
    event = world.disk.json(f"rollout/{NAME}/journal/{number:08d}.json")["event"] if number else ""
    if event in ("started", "advanced", "reweighted", "approved"):
        start()
    elif world.scheduler.now < world.seconds:
        world.scheduler.at(world.scheduler.now + 0.1, partial(_once_on_trial, world, start))


def _come_to_rest(world: World) -> None:
    """Ends the faults: unfinished work is finished, and the final state is recorded."""
    now = world.scheduler.now
    world.troubles[:] = [replace(one, end=min(one.end, now)) for one in world.troubles if one.begin < now]
    for process in world.processes.values():
        process.calls_to_live = None
    world.scheduler.run(world.scheduler.now + _REST_SECONDS)


def _look_back(world: World, directory: Path) -> None:
    """What only the library can say at the end: its replay, its counts by plan, its verification, its crashes."""
    store = world.store()
    journal = Journal(store, NAME, world.clock())
    try:
        entries = journal.entries()
        state = fold(entries)
    except (JournalCorrupt, IllegalTransition):
        # The library refuses it; the oracle says what is wrong.
        return
    if state is not None:
        world.log.final = words_of(state)
    keys = [partition.key for partition in world.partitions]
    state = None
    for entry in entries:
        state = after(state, entry)
        if state.candidate:
            sets = [assign(state, world.plan.ranking_salt, key, keys) for key in keys]
            share = ShareRecord(entry.number, len(keys), sets.count(state.candidate), exact=True)
            world.log.shares.append(share)
    if len(entries) > 1:
        what, found = tamper(world.disk, world.chance, directory)
        world.log.tampered[what] = found
    # Costs a tenth of the rest, so every second schedule is enough.
    if world.seed % 2 == 0 and (different := crash_unequal(world.chance, directory)):
        world.log.crash_equal.append(different)


def _unexpected(world: World) -> list[Violation]:
    """Uncaught errors of simulated code, filed under the invariant that the code should have kept."""
    return [
        Violation(9, f"{who} ended with {type(error).__name__}: {error}") for who, error in world.scheduler.failures
    ]


def _counts(world: World, judged: Judged) -> Counter[str]:
    log = world.log
    counts = Counter(
        {
            "units": judged.num_units,
            "entries": log.final.get("head", 0),
            "turns": sum(unit.session is not None for unit in log.units),
            "tries": len(log.tries),
            "sealed": sum(one.outcome == "sealed" for one in log.tries),
            "killed": sum(not process.alive for process in world.processes.values()),
            "stale writes refused": sum(append.number is None for append in log.appends),
            "superseded": sum(one.outcome == "superseded" for one in log.tries),
            "raced": judged.num_raced,
            "refused": sum(bool(unit.failure) for unit in log.units),
        }
    )
    counts.update(f"reason {unit.reason}" for unit in log.units if unit.reason)
    counts.update(f"tampered: {what}" for what in log.tampered)
    return counts
