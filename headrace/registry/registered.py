"""Registered model versions from sealed registrations, so that a rollout needs no MLflow."""

from headrace.errors import HandoffCorrupt
from headrace.handoff.versions import HandoffStore
from headrace.registry.model_versions import ModelVersion, from_table
from headrace.store.small_objects import Damaged

REGISTERED_VERSION = "registered_version"
BASE_VERSION = "base_version"


def registered_models(handoffs: HandoffStore, *, damaged: Damaged) -> list[ModelVersion]:
    """Every registered version. `damaged` is called for an unreadable registration, whose recipe is left out.

    It never falls back to an older version of that recipe, which may have been replaced for a reason. A base that a
    recipe has evaluated comes first, and again without a loss if a campaign names it too.
    """
    found: list[ModelVersion] = []
    for asset in (REGISTERED_VERSION, BASE_VERSION):
        for key in handoffs.partitions(asset):
            try:
                newest = handoffs.newest(asset, key)
                found += from_table(newest.table()) if newest else []
            except HandoffCorrupt as error:
                damaged(error)
    return found
