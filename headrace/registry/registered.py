"""Registered model versions from sealed registrations, so that a rollout needs no MLflow."""

from headrace.errors import HandoffCorrupt
from headrace.handoff.versions import HandoffStore
from headrace.registry.model_versions import ModelVersion, from_table
from headrace.store.small_objects import Damaged

REGISTERED_VERSION = "registered_version"


def registered_models(handoffs: HandoffStore, *, damaged: Damaged) -> list[ModelVersion]:
    """Every registered version. `damaged` is called for an unreadable registration, whose recipe is left out.

    It never falls back to an older version of that recipe, which may have been replaced for a reason.
    """
    found: list[ModelVersion] = []
    for key in handoffs.partitions(REGISTERED_VERSION):
        try:
            newest = handoffs.newest(REGISTERED_VERSION, key)
            found += from_table(newest.table()) if newest else []
        except HandoffCorrupt as error:
            damaged(error)
    return found
