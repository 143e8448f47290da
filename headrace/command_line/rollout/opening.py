"""Finds the rollout, version set and plan that a command means."""

import getpass
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from headrace.clock import Clock, SystemClock
from headrace.command_line.opening import nearest, open_objects
from headrace.errors import InvalidInput
from headrace.rollout.journal import Journal
from headrace.rollout.layout import ROOT as ROLLOUTS
from headrace.rollout.layout import rollout_names
from headrace.rollout.states import RolloutState
from headrace.rollout.status import previous_stable
from headrace.rollout.ticking import Rollout
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Damaged
from headrace.version_sets.sets import VersionSets

if TYPE_CHECKING:
    from headrace.registry.model_versions import ModelVersion
    from headrace.rollout.subject import Subject

_STANDINGS = ("stable", "candidate", "proposed", "previous")


@dataclass(frozen=True, kw_only=True)
class Opened:
    """One rollout of a store."""

    objects: ObjectStore
    rollout: Rollout
    clock: Clock

    @property
    def name(self) -> str:
        return self.rollout.name

    @property
    def journal(self) -> Journal:
        return self.rollout.journal

    def state(self) -> RolloutState | None:
        return self.rollout.state()


def open_rollout(context: typer.Context, store: str | None, name: str) -> Opened:
    """Raises: InvalidInput: no rollout has that name; suggests a similar one."""
    return rollout_in(open_objects(context, store), name)


def rollout_in(objects: ObjectStore, name: str) -> Opened:
    names = rollout_names(objects)
    if name not in names:
        raise InvalidInput(_no_rollout(objects, name, names))
    clock = SystemClock()
    return Opened(objects=objects, rollout=Rollout(objects, name, clock), clock=clock)


def find_set(objects: ObjectStore, word: str) -> str:
    """The id of a kept set, from an id, a prefix of one, or `NAME:stable` (candidate, proposed, previous).

    Raises:
        InvalidInput: it means no set, or several. ObjectMissing: no kept set begins with it.
    """
    name, colon, standing = word.rpartition(":")
    if colon:
        return _standing(rollout_in(objects, name), standing)
    standings = ", or NAME:stable, NAME:candidate, NAME:proposed or NAME:previous"
    return VersionSets(objects).find(word, besides=standings)


def read_subject(file: Path, name: str, objects: ObjectStore) -> "Subject":
    """Reads the campaign or service of rollout `name` from its file.

    Raises:
        InvalidInput: the file is neither, or describes another rollout.
    """
    from headrace.user_files.yaml_file import read_yaml

    body = read_yaml(file, "--plan").content
    if isinstance(body, dict) and "prompts" in body:
        from headrace.generation.campaign import load_campaign
        from headrace.generation.subject import CampaignSubject
        from headrace.handoff.versions import HandoffStore

        subject: Subject = CampaignSubject.of(load_campaign(file), HandoffStore(objects))
    else:
        from headrace.serving.service import load_service
        from headrace.serving.subject import ServiceSubject

        subject = ServiceSubject.of(load_service(file), objects)
    if subject.name != name:
        raise InvalidInput(f"--plan {file} describes {subject.name!r}, the rollout is {name!r}.")
    return subject


def registered(objects: ObjectStore, *, damaged: Damaged) -> "list[ModelVersion]":
    """Registered versions according to the store; does not ask MLflow."""
    from headrace.handoff.versions import HandoffStore
    from headrace.registry.registered import registered_models

    return registered_models(HandoffStore(objects), damaged=damaged)


def who() -> str:
    """The user's name for the journal. A container's user may have none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def _standing(opened: Opened, standing: str) -> str:
    if standing not in _STANDINGS:
        raise InvalidInput(
            f"{opened.name}:{standing} names no set: {', '.join(f'{opened.name}:{one}' for one in _STANDINGS)} do."
            f"{nearest(standing, _STANDINGS)}"
        )
    state = opened.state()
    found = previous_stable(opened.journal.entries()) if standing == "previous" else getattr(state, standing, None)
    if found is None:
        raise InvalidInput(f"Rollout {opened.name} has no {standing} set now.")
    return found


def _no_rollout(objects: ObjectStore, name: str, names: Sequence[str]) -> str:
    if not names:
        return f"There is no rollout in {objects.uri(ROLLOUTS)} yet. Materialize rollout, or pass --store URL."
    return f"There is no rollout {name!r} in {objects.uri(ROLLOUTS)}.{nearest(name, names)}"
