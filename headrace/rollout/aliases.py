"""MLflow's aliases as projections of the journal: written after it, and read only to report drift.

The store keeps what was written last, one object for each journal entry that it came from. So a tick that changes no
alias does not ask MLflow (importing it alone takes two seconds), and the next tick finishes the work of one that was
killed between journal and MLflow.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from headrace.errors import FormatTooNew, HandoffCorrupt, RegistryMissing, reason_of
from headrace.rollout.journal import Journal
from headrace.rollout.layout import rollout_prefix
from headrace.rollout.states import RolloutState, fold
from headrace.store.chain import Chain
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Kind
from headrace.version_sets.sets import Member, VersionSets

CHAMPION = "champion"
CANDIDATE = "candidate"


class AliasRegistry(Protocol):
    """The part of `headrace.registry.mlflow_models.ModelRegistry` that is used here."""

    def aliases(self, model_name: str) -> dict[str, str]: ...

    def set_alias(self, model_name: str, alias: str, version: str | None) -> None: ...


# Model name → alias → version; `None`: the alias must not exist.
Aliases = Mapping[str, Mapping[str, str | None]]


@dataclass(frozen=True, kw_only=True)
class Projection:
    """What was last written to the registry."""

    aliases: Aliases


PROJECTION = Kind("Record of the aliases", Projection, "The next tick writes them once more: delete it.")


def projections(store: ObjectStore, name: str) -> Chain[Projection]:
    """The projections, numbered by the journal entries that they follow."""
    prefix = rollout_prefix(name, "aliases")
    return Chain(store=store, prefix=prefix, kind=PROJECTION, may_lack="any", remedy=PROJECTION.remedy)


@dataclass(frozen=True, kw_only=True)
class Drift:
    """An alias that differs from the journal."""

    model_name: str
    alias: str
    wanted: str | None
    found: str | None
    # Why it cannot be corrected: the registry lacks the version.
    impossible: str = ""

    def __str__(self) -> str:
        why = f" ({self.impossible})" if self.impossible else ""
        found, wanted = self.found or "unset", self.wanted or "unset"
        return f"{self.alias} of {self.model_name} is {found}, the journal says {wanted}{why}"


def wanted_aliases(state: RolloutState, version_sets: VersionSets, *, prefix: str = "") -> Aliases:
    """The right aliases of every model that this rollout ever touched."""
    wanted: dict[str, dict[str, str | None]] = {}
    for version_set in sorted(state.considered):
        for member in _registered(version_sets, version_set):
            wanted[member.model_name] = {prefix + CHAMPION: None, prefix + CANDIDATE: None}
    for alias, version_set in ((CHAMPION, state.stable), (CANDIDATE, state.candidate)):
        for member in _registered(version_sets, version_set):
            wanted[member.model_name][prefix + alias] = member.model_version
    return wanted


def project(
    journal: Journal, version_sets: VersionSets, store: ObjectStore, registry: AliasRegistry, *, prefix: str = ""
) -> list[Drift]:
    """Writes the journal's aliases to the registry. One that cannot be written does not stop the others.

    Returns:
        The aliases that changed, or could not be changed: those are tried again after the journal's next entry. Empty,
            without asking MLflow, if this journal's aliases were written before.

    Raises:
        RegistryUnavailable: MLflow does not answer; the journal stays valid, and the next call tries again.
    """
    changed: list[Drift] = []
    overtaken = False
    while (state := fold(journal.entries())) is not None:
        wanted = wanted_aliases(state, version_sets, prefix=prefix)
        if not overtaken and _last_projected(journal.name, store) == wanted:
            break
        for drift in find_drift(wanted, registry):
            try:
                registry.set_alias(drift.model_name, drift.alias, drift.wanted)
            except RegistryMissing as error:
                # Somebody deleted the version there. Journal and weights stay valid without it.
                drift = replace(drift, impossible=str(error))
            changed.append(drift)
        # If the object exists and cannot be read, the registry is asked at each tick until the next entry.
        with suppress(HandoffCorrupt):
            projections(store, journal.name).create(state.head, {"aliases": wanted})
        if journal.head() == state.head:
            break
        # A newer entry came meanwhile, and its aliases may have been written before ours: write again.
        overtaken = True
    return changed


def project_if_possible(
    journal: Journal, version_sets: VersionSets, store: ObjectStore, registry: AliasRegistry, *, prefix: str = ""
) -> str:
    """Runs `project` and describes the outcome. A failing registry must not fail what the journal has decided."""
    try:
        changed = project(journal, version_sets, store, registry, prefix=prefix)
    except Exception as error:  # noqa: BLE001 (the journal has decided; aliases only follow it)
        return f"Not written, the next tick tries again. {reason_of(error)}"
    return "; ".join(map(_told, changed)) or "unchanged"


def find_drift(wanted: Aliases, registry: AliasRegistry) -> list[Drift]:
    """Aliases in MLflow that differ from `wanted`.

    Raises:
        RegistryUnavailable: MLflow does not answer.
    """
    drifts: list[Drift] = []
    for model_name, aliases in wanted.items():
        found = registry.aliases(model_name)
        drifts += [
            Drift(model_name=model_name, alias=alias, wanted=version, found=found.get(alias))
            for alias, version in aliases.items()
            if found.get(alias) != version
        ]
    return drifts


def _told(drift: Drift) -> str:
    if drift.impossible:
        return f"not written: {drift}"
    return f"{drift.alias} of {drift.model_name}: {drift.wanted or 'removed'}"


def _registered(version_sets: VersionSets, version_set: str | None) -> list[Member]:
    """A set's registered members; the registry does not know a server's own models, so they have no aliases."""
    members = version_sets.get(version_set).members if version_set else ()
    return [member for member in members if member.is_registered]


def _last_projected(name: str, store: ObjectStore) -> Aliases | None:
    """The last projection's aliases; None if there is none or it is unreadable, so that they are written again."""
    with suppress(FormatTooNew):
        head = projections(store, name).head()
        return head.value.aliases if head.value else None
    return None
