"""`headrace rollout tick`: does without Dagster what its sensor does for a rollout."""

import os
import time
from functools import partial
from pathlib import Path

import typer

from headrace.clock import SystemClock
from headrace.command_line.opening import open_objects
from headrace.command_line.rollout_opening import read_subject, registered
from headrace.engines.deployment import Deployment
from headrace.engines.trial import try_member
from headrace.errors import Transient
from headrace.rollout.catalogue import Catalogue
from headrace.rollout.controller import Action
from headrace.rollout.ticking import Rollout
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import PassedOver
from headrace.text.terminal import say
from headrace.version_sets.sets import VersionSet


def tick_rollout(
    context: typer.Context,
    store: str | None,
    name: str,
    *,
    plan_file: Path,
    every_seconds: float | None,
    mlflow: str | None,
) -> None:
    """Ticks once, or until interrupted; asks an unavailable store again."""
    objects, waits_for, told = open_objects(context, store), "", set[str]()
    # Kept for all ticks, so that each reads only new journal entries.
    rollout = Rollout(objects, name, SystemClock())
    while True:
        damaged = PassedOver()
        try:
            actions = _tick(rollout, objects, plan_file, mlflow, damaged)
        except Transient as error:
            if every_seconds is None:
                raise
            actions = [Action(kind="none", reason=str(error))]
        for sentence in damaged.sentences:
            if sentence not in told:
                say(f"{name}: passed over: {sentence}")
        told = set(damaged.sentences)
        for action in actions[:-1]:
            say(f"{name}: {action.kind}: {action.reason}")
        if actions[-1].reason != waits_for:
            say(f"{name}: {actions[-1].reason}")
            waits_for = actions[-1].reason
        if every_seconds is None:
            return
        time.sleep(every_seconds)


def _tick(
    rollout: Rollout, objects: ObjectStore, plan_file: Path, mlflow: str | None, damaged: PassedOver
) -> list[Action]:
    # Read at each tick: an edited file makes a new candidate.
    subject = read_subject(plan_file, rollout.name, objects)
    return rollout.tick(
        subject,
        registered(objects, damaged=damaged),
        prepare=partial(_prepare, objects) if subject.is_prepared_here else None,
        catalogue=_catalogue(mlflow) if mlflow else None,
        damaged=damaged,
    )


def _catalogue(mlflow: str) -> Catalogue:
    from headrace.registry.mlflow_models import ModelRegistry

    return ModelRegistry(mlflow)


def _prepare(objects: ObjectStore, version_set: VersionSet) -> None:
    """Fetches, verifies, loads and tries every member in this process."""
    deployment = Deployment.of_bulk(api_key=os.environ.get("HEADRACE_ENGINE_KEY"))
    for member in version_set.members:
        try_member(member, version_set.engine_of(member.role), objects, deployment)
