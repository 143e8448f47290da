"""One tick of a rollout, in this process."""

import os
from functools import partial
from pathlib import Path

from headrace.command_line.rollout.opening import read_subject, registered
from headrace.engines.deployment import Deployment
from headrace.engines.trial import try_member
from headrace.rollout.catalogue import Catalogue
from headrace.rollout.controller import Action
from headrace.rollout.subject import Subject
from headrace.rollout.ticking import Rollout
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import PassedOver
from headrace.version_sets.sets import VersionSet


def tick_once(
    rollout: Rollout, objects: ObjectStore, plan_file: Path, mlflow: str | None, damaged: PassedOver
) -> list[Action]:
    # Read at each tick: an edited file makes a new candidate.
    subject = read_subject(plan_file, rollout.name, objects)
    return rollout.tick(
        subject,
        registered(objects, damaged=damaged),
        prepare=partial(_prepare, objects, subject) if subject.is_prepared_here else None,
        catalogue=_catalogue(mlflow) if mlflow else None,
        damaged=damaged,
    )


def _catalogue(mlflow: str) -> Catalogue:
    from headrace.registry.mlflow_models import ModelRegistry

    return ModelRegistry(mlflow)


def _prepare(objects: ObjectStore, subject: Subject, version_set: VersionSet) -> None:
    """Fetches, verifies, loads and tries every member in this process."""
    deployment = Deployment.of_bulk(api_key=os.environ.get("HEADRACE_ENGINE_KEY"), replicas=subject.replicas)
    for member in version_set.members:
        try_member(member, version_set.engine_of(member.role), objects, deployment)
