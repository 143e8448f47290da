"""Crash equality in simulation: a rollout whose controller dies at a store call ends like one that never died.

The rollout has its own script (two candidates, one good, one bad) and one controller, so its right end is known. The
schedule's seed decides at which call the controller dies, before or after the call's effect.
"""

import json
import random
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from headrace.rollout.aliases import project
from headrace.rollout.controller import Facts, tick
from headrace.rollout.gates import PASS_RATE, Evidence, GateSettings
from headrace.rollout.journal import Journal
from headrace.rollout.plan import Plan, Step
from headrace.rollout.preparation import preparations
from headrace.rollout.sequential.samples import Sample
from headrace.rollout.states import RolloutState
from headrace.version_sets.sets import VersionSets
from simulation.disk import Disk
from simulation.registry import Aliases
from simulation.scheduler import Process, Scheduler, SimulatedClock
from simulation.stores import SimulatedStore
from simulation.world import NAME, SETS, ScriptedSets

_PLAN = Plan(
    steps=(Step(weight=0.1, cap=5), Step(weight=0.5)),
    salt="crash",
    gate=GateSettings(min_rows=1, pass_rate_margin=None, heldout_early=False),
)
_NUM_TICKS = 12


def crash_unequal(chance: random.Random, directory: Path) -> str | None:
    """What differs after one to three kills of one controller; None: nothing."""
    whole, num_calls = _whole(directory)
    kills = sorted((chance.randint(1, num_calls), chance.random() < 0.5) for _ in range(chance.randint(1, 3)))
    ended, _ = _rolled_out(directory, kills)
    if ended == whole:
        return None
    different = [
        f"{word} is {ended.get(word)!r}, without a crash {whole[word]!r}"
        for word in whole
        if ended.get(word) != whole[word]
    ]
    return f"killed at calls {kills}: {', '.join(different)}"


@cache
def _whole(directory: Path) -> tuple[dict[str, Any], int]:
    return _rolled_out(directory, [])


def _rolled_out(directory: Path, kills: list[tuple[int, bool]]) -> tuple[dict[str, Any], int]:
    """The rollout's end, and its number of store calls. `kills`: at which call, and whether after its effect."""
    scheduler, disk = Scheduler(), Disk(directory)
    aliases = Aliases()
    store = SimulatedStore(disk, scheduler, random.Random(0), [])
    remaining, calls_before = list(kills), 0
    while True:
        process = Process("controller")
        if remaining:
            call, process.killed_after = remaining.pop(0)
            process.calls_to_live = max(1, call - calls_before)
        scheduler.spawn(process, lambda: _roll_out(store, scheduler, aliases))
        # Longer than the ticks take; three times this is still within a preparation's time.
        scheduler.run(scheduler.now + 500.0)
        calls_before = store.num_calls
        if process.alive:
            break
    if scheduler.failures:
        raise scheduler.failures[0][1]
    scheduler.finish()
    return _end(disk, aliases), store.num_calls


def _roll_out(store: SimulatedStore, scheduler: Scheduler, aliases: Aliases) -> None:
    clock = SimulatedClock(scheduler)
    version_sets = VersionSets(store)
    for _ in range(_NUM_TICKS):
        journal = Journal(store, NAME, clock)

        def evidence(state: RolloutState) -> Evidence:
            # More rows at every step, at any time, so that no decision depends on a crash.
            rows = Sample.of_counts(state.head * 3, state.head * 3)
            bad = state.candidate == SETS[2].id
            loss = 9.0 if bad else 3.0
            return Evidence(metrics={PASS_RATE: (rows, rows)}, heldout_candidate=loss, heldout_stable=3.0)

        facts = Facts(
            candidates=ScriptedSets(num_sets=3),
            now=clock.now(),
            evidence=evidence,
            preparations=partial(preparations, store, NAME),
            node="node",
        )
        actions = tick(journal, version_sets, _PLAN, facts, store=store, clock=clock, prepare=lambda version_set: None)
        project(journal, version_sets, store, aliases)
        if len(actions) == 1 and "tried" in actions[0].reason:
            return


def _end(disk: Disk, aliases: Aliases) -> dict[str, Any]:
    """Entries without values of a clock or a nonce, and the store's other content."""
    entries = [disk.json(key) for key in disk.below(f"rollout/{NAME}/journal") if key.endswith(".json")]
    return {
        "entries": [(entry["number"], entry["event"], _spelt(entry["fields"])) for entry in entries],
        "prepared": disk.below(f"rollout/{NAME}/prepared"),
        "sets": disk.below("version_sets"),
        "aliases": {model: dict(sorted(found.items())) for model, found in sorted(aliases.found.items())},
    }


def _spelt(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True)
