"""Which models a run of a campaign's partition will load: the version set that its rollout gives the partition now.

Asked when the run is queued, and right as long as the rollout does not move before it starts; a wrong answer costs a
load and nothing else. A cap on the candidate is not looked at. A retry keeps what its first attempt was told, since it
keeps that attempt's version set.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from headrace.clock import SystemClock
from headrace.command_line.project import find_project
from headrace.engines.host.wanted import model_id
from headrace.engines.registry import engine_kind
from headrace.errors import HeadraceError
from headrace.generation.campaign import Campaign, load_campaigns
from headrace.keys import ContentPartition
from headrace.placement.demand import LOADS
from headrace.rollout.assignment import assign
from headrace.rollout.journal import Journal
from headrace.rollout.states import RolloutState, fold
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore
from headrace.user_files.directory import Described
from headrace.version_sets.media_settings import MemberKind
from headrace.version_sets.sets import VersionSet, VersionSets

# A night's partitions are queued within seconds, and a rollout moves once a day.
_KNOWN_SECONDS = 10.0


def of_writers(partition: str, has_gpus: bool) -> Mapping[str, str]:
    """The tag of what writes the partition's texts; none on a fleet without GPUs, or where it cannot be told."""
    return _loads(partition, "text") if has_gpus else {}


def of_painters(partition: str, has_gpus: bool) -> Mapping[str, str]:
    return _loads(partition, "image") if has_gpus else {}


def of_speakers(partition: str, has_gpus: bool) -> Mapping[str, str]:
    return _loads(partition, "speech") if has_gpus else {}


def _loads(partition: str, kind: MemberKind) -> dict[str, str]:
    try:
        found = _read(Path.cwd(), int(time.monotonic() / _KNOWN_SECONDS)).version_set(ContentPartition.parse(partition))
        models = model_ids(found, kind) if found else []
    except HeadraceError:
        # Nobody's campaign, or none that was rolled out: no place is preferred.
        return {}
    return {LOADS: "|".join(models)} if models else {}


def model_ids(version_set: VersionSet, kind: MemberKind) -> list[str]:
    """Those that an engine host would hold. Raises: InvalidInput: an engine is not installed here."""
    found = {
        model_id(member, spec)
        for member in version_set.members
        if member.kind == kind and engine_kind((spec := version_set.engine_of(member.role)).name).can_be_hosted
    }
    return sorted(found)


@dataclass(frozen=True, kw_only=True)
class _Project:
    campaigns: Described[Campaign]
    objects: ObjectStore
    sets: VersionSets
    _states: dict[str, RolloutState | None] = field(default_factory=dict)

    def version_set(self, partition: ContentPartition) -> VersionSet | None:
        """Raises: HeadraceError: there is no such campaign, or what was rolled out cannot be read."""
        campaign = self.campaigns.find(partition.campaign)
        if campaign.name not in self._states:
            self._states[campaign.name] = fold(Journal(self.objects, campaign.name, SystemClock()).entries())
        state = self._states[campaign.name]
        if state is None:
            return None
        population = campaign.population(partition)
        return self.sets.get(assign(state, campaign.plan.ranking_salt, partition.key, population))


@lru_cache(maxsize=2)
def _read(directory: Path, moment: int) -> _Project:
    """`moment`: another one reads anew. Raises: HeadraceError: there is nothing to read."""
    settings = find_project(directory, os.environ).settings()
    objects = settings.open_store()
    if isinstance(objects, LocalStore) and not objects.directory.is_dir():
        raise HeadraceError("nothing was rolled out into a store that is not there")
    campaigns = load_campaigns(settings.campaigns, engine=settings.engine)
    return _Project(campaigns=campaigns, objects=objects, sets=VersionSets(objects))
