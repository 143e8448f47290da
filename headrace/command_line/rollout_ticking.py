"""`headrace rollout tick`: what Dagster's sensor does for a service, for whoever runs gateways without Dagster."""

import time
from functools import partial
from pathlib import Path

import typer

from headrace.clock import SystemClock
from headrace.command_line.opening import open_objects
from headrace.command_line.rollout_opening import read_subject
from headrace.errors import InvalidInput, Transient
from headrace.rollout.controller import Action, tick
from headrace.rollout.journal import Journal
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import PassedOver
from headrace.text.terminal import say
from headrace.version_sets.sets import VersionSet, VersionSets


def tick_rollout(
    context: typer.Context,
    store: str | None,
    name: str,
    *,
    plan_file: Path,
    every_seconds: float | None,
    mlflow: str | None,
) -> None:
    """Once, or until it is interrupted; a store that does not answer is asked again."""
    objects, waits_for, told = open_objects(context, store), "", set[str]()
    while True:
        damaged = PassedOver()
        try:
            actions = _tick(objects, name, plan_file, mlflow, damaged)
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


def _tick(objects: ObjectStore, name: str, plan_file: Path, mlflow: str | None, damaged: PassedOver) -> list[Action]:
    from headrace.handoff.versions import HandoffStore
    from headrace.registry.registered import registered_models
    from headrace.serving.rollout_facts import service_facts
    from headrace.serving.service import Service

    # Read anew each time: an edited file is a new candidate.
    service = read_subject(plan_file, name)
    if not isinstance(service, Service):
        raise InvalidInput(
            f"--plan {plan_file} describes a campaign, whose rollout goes on in Dagster: materialize rollout[{name}]."
        )
    clock = SystemClock()
    facts = service_facts(
        service,
        objects,
        registered_models(HandoffStore(objects), damaged=damaged),
        now=clock.now(),
        refusal=partial(_refusal, mlflow),
    )
    journal = Journal(objects, name, clock)
    actions = tick(journal, VersionSets(objects), service.plan, facts, store=objects, clock=clock)
    damaged.with_those_of(facts.damaged)
    return actions


def _refusal(mlflow: str | None, version_set: VersionSet) -> str | None:
    """Without MLflow's address, what is sealed in the store is the catalogue."""
    if mlflow is None:
        return None
    from headrace.registry.mlflow_models import ModelRegistry
    from headrace.rollout.catalogue import refusal_of

    return refusal_of(ModelRegistry(mlflow), version_set)
