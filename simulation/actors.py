"""The actors on a rollout beside the gateways: controllers, people, a controller that slept, and bulk workers."""

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from headrace.engines.rows import GenerationRequest, GenerationResult
from headrace.errors import (
    HeadraceError,
    IllegalTransition,
    InvalidInput,
    JournalConflict,
    RepinRequired,
    StoreUnavailable,
    Transient,
)
from headrace.generation.bulk import Worker
from headrace.generation.claims import Claims, Regenerate
from headrace.generation.rolled_back import void_unsealed
from headrace.generation.sealing import Superseded
from headrace.keys import ContentPartition
from headrace.rollout import interventions
from headrace.rollout.aliases import project_if_possible
from headrace.rollout.catalogue import refusal_of
from headrace.rollout.controller import Facts, next_action, tick
from headrace.rollout.gates import PASS_RATE, Evidence
from headrace.rollout.journal import Entry, Journal
from headrace.rollout.preparation import preparations
from headrace.rollout.sequential.samples import Sample
from headrace.rollout.states import RolloutState, fold
from headrace.store.objects import ObjectStore
from headrace.version_sets.sets import VersionSet, VersionSets
from simulation.campaign_site import CampaignSite
from simulation.records import AppendRecord, OrderRecord, TickRecord, TryRecord
from simulation.scheduler import Killed
from simulation.world import NAME, ScriptedSets, World


class RecordedJournal(Journal):
    """A journal that reports to the oracle what its owner was told of each append."""

    def __init__(self, world: World, by: str, store: ObjectStore, clock: Any) -> None:
        super().__init__(store, NAME, clock)
        self._world, self._by = world, by

    def append(self, event: str, fields: Any, *, expected: int) -> Entry:
        record = AppendRecord(self._by, event, expected, None, self._world.scheduler.now)
        self._world.log.appends.append(record)
        entry = super().append(event, fields, expected=expected)
        record.number = entry.number
        return entry


def facts_of(world: World, store: ObjectStore, now: float) -> Facts:
    def evidence(state: RolloutState) -> Evidence:
        rows = Sample.of_counts(int(world.scheduler.now * 4), int(world.scheduler.now * 4))
        shows = state.candidate in world.bad
        return Evidence(
            metrics={PASS_RATE: (rows, rows)},
            heldout_candidate=9.0 if shows else 3.0,
            heldout_stable=3.0,
        )

    return Facts(
        candidates=ScriptedSets(num_sets=world.num_sets),
        now=now,
        evidence=evidence,
        preparations=partial(preparations, store, NAME),
        refusal=partial(refusal_of, world.registry),
        before_abort=partial(_end_under_way, world, store),
    )


def _end_under_way(world: World, store: ObjectStore, candidate: str) -> None:
    """Runs before and after an abort: running attempts lose the race for their settlement."""
    claims = Claims(objects=store, journal=Journal(store, NAME, world.clock()), clock=world.clock())
    void_unsealed(claims, NAME, about_to_abort=candidate)


def controller(world: World, name: str, *, pause: tuple[float, float] = (0.5, 2.5)) -> Callable[[], None]:
    """Ticks like the rollout run: decides and appends, then updates MLflow's aliases."""

    def run() -> None:
        while True:
            one_tick(world, name)
            world.scheduler.sleep(world.chance.uniform(*pause))

    return run


def one_tick(world: World, name: str) -> TickRecord:
    store, clock = world.store(), world.wrong_clock()
    journal = RecordedJournal(world, name, store, clock)
    version_sets = VersionSets(store)
    record = TickRecord(name, world.scheduler.now, world.registry.mode())
    world.log.ticks.append(record)
    try:
        actions = tick(journal, version_sets, world.plan, facts_of(world, store, clock.now()), store=store, clock=clock)
        # Noted at once, since the process may be killed before it finishes.
        _note_change(world, record)
        record.kinds = tuple(action.kind for action in actions)
        project_if_possible(journal, version_sets, store, world.registry)
    except StoreUnavailable:
        pass
    except HeadraceError as error:
        record.failure = f"{type(error).__name__}: {error}"
    _note_change(world, record)
    return record


def _note_change(world: World, record: TickRecord) -> None:
    if world.registry.changed_since(record.begun_at):
        record.registry = "changing"


def sleepy_controller(world: World, name: str) -> Callable[[], None]:
    """Decides, sleeps through all events, and then writes its old decision."""

    def run() -> None:
        while True:
            store, clock = world.store(), world.wrong_clock()
            journal = RecordedJournal(world, name, store, clock)
            try:
                state = fold(journal.entries())
                action = next_action(state, world.plan, facts_of(world, store, clock.now()))
                world.scheduler.sleep(world.chance.choice((0.5, 3.0, 8.0)))
                if state is not None and action.kind not in ("none", "prepare"):
                    if action.version_set is not None:
                        VersionSets(store).put(action.version_set)
                    assert action.event
                    said = {**action.event.fields, "reason": action.reason}
                    journal.append(action.event.name, said, expected=state.head)
            except (StoreUnavailable, JournalConflict):
                pass
            world.scheduler.sleep(world.chance.uniform(1.0, 4.0))

    return run


def person(world: World, name: str) -> Callable[[], None]:
    """A person at the command line: aborts, promotes, pauses, resumes, approves, sets weights."""

    def run() -> None:
        chance = world.chance
        while True:
            world.scheduler.sleep(chance.uniform(0.3, 4.0))
            kinds = ("abort", "promote", "pause", "resume", "resume", "approve", "weight", "weight")
            order(world, name, chance.choice(kinds))

    return run


def order(world: World, name: str, kind: str) -> OrderRecord:
    store, clock = world.store(), world.wrong_clock()
    journal = RecordedJournal(world, name, store, clock)
    record = OrderRecord(kind, world.scheduler.now, world.registry.mode())
    said: dict[str, Any] = {"by": name, "reason": "as the schedule has it"}
    try:
        if kind == "abort":
            state = fold(journal.entries())
            candidate = state.candidate if state else None
            if candidate:
                _end_under_way(world, store, candidate)
            interventions.abort(journal, evict=world.plan.evict_sessions, **said)
            if candidate:
                _end_under_way(world, store, candidate)
        elif kind == "weight":
            interventions.advance(
                journal, plan=world.plan, weight=world.chance.choice((0.02, 0.1, 0.3, 0.6, 0.9, 1.0)), **said
            )
        else:
            getattr(interventions, kind)(journal, **said)
        record.outcome = "done"
    except (IllegalTransition, InvalidInput, StoreUnavailable) as error:
        record.outcome = type(error).__name__
    record.ended_at = world.scheduler.now
    hangs = 45.0
    record.store_was_well = not any(
        trouble.begin <= record.ended_at and trouble.end + hangs >= record.begun_at
        for trouble in world.troubles
        if trouble.process in (None, name)
    )
    if kind in ("abort", "promote"):
        world.log.orders.append(record)
    world.say(name, f"{kind}: {record.outcome}")
    return record


class SimulatedTextEngine:
    """Takes its time, and answers with the id of the set for which it was opened."""

    name = "simulated"
    build = ""
    deterministic = True

    def __init__(self, world: World, version_set: VersionSet) -> None:
        self._world, self._id = world, version_set.id

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        self._world.scheduler.sleep(self._world.chance.uniform(0.05, 0.8))
        return [
            GenerationResult(text=self._id, num_prompt_tokens=1, num_output_tokens=1, finish_reason="stop")
            for _ in requests
        ]

    def close(self) -> None:
        pass


def bulk_run(
    world: World, name: str, partition: ContentPartition, run_id: str, regenerate: Regenerate | None
) -> Callable[[], None]:
    """One Dagster run of a partition with its retries; another process retries a killed worker's run."""

    def run() -> None:
        for _ in range(12):
            record = TryRecord(name, run_id, partition.key, world.scheduler.now)
            world.log.tries.append(record)
            try:
                _try(world, name, partition, run_id, regenerate, record)
            except Killed:
                record.outcome = "killed"
                raise
            except RepinRequired:
                record.outcome = "repin"
            except Superseded:
                record.outcome = "superseded"
            except (StoreUnavailable, Transient) as error:
                record.outcome = type(error).__name__
            if record.outcome in ("sealed", "superseded"):
                return
            world.scheduler.sleep(world.chance.uniform(0.1, 1.5))

    return run


def _try(
    world: World, name: str, partition: ContentPartition, run_id: str, regenerate: Regenerate | None, record: TryRecord
) -> None:
    site = CampaignSite(world.store(), world.campaign, world.clock(), leased=False, verification="off")
    assert partition.shard is not None, "a simulated campaign takes no events"
    claim = site.claim(run_id, partition.shard, regenerate)
    record.claim, record.version_set = claim.id, claim.version_set
    record.inputs_digest, record.attempt = claim.inputs_digest, claim.attempt
    world.say(name, f"{partition.key} attempt {claim.attempt} on {claim.version_set[:8]}")
    site.generate(
        claim,
        open_engine=lambda version_set: SimulatedTextEngine(world, version_set),
        worker=Worker(run_id=run_id, host=name),
        monotonic=lambda: world.scheduler.now,
    )
    record.outcome = "sealed"


def kills(world: World, chance: random.Random, name: str, restart: Callable[[], None], *, mean: float) -> None:
    """Kills a process of this name now and then, at a call of its store or at any time."""

    def strike() -> None:
        process = world.processes.get(name)
        if process is not None and process.alive:
            if chance.random() < 0.7:
                process.calls_to_live = chance.randint(1, 12)
                process.killed_after = chance.random() < 0.5
            else:
                world.scheduler.kill(process)
            world.say(name, "is to be killed")
        again()

    def again() -> None:
        when = world.scheduler.now + chance.expovariate(1 / mean)
        if when < world.seconds:
            world.scheduler.at(when, strike)

    def revive() -> None:
        process = world.processes.get(name)
        if process is not None and not process.alive:
            restart()
        world.scheduler.at(world.scheduler.now + 0.7, revive)

    again()
    world.scheduler.at(world.scheduler.now + 0.7, revive)
