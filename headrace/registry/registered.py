"""Registered model versions as sealed registrations hold them: what a rollout reads, so that it needs no MLflow."""

from headrace.errors import HandoffCorrupt
from headrace.handoff.versions import HandoffStore
from headrace.registry.model_versions import ModelVersion, from_table
from headrace.store.small_objects import Damaged

REGISTERED_VERSION = "registered_version"


def registered_models(handoffs: HandoffStore, *, damaged: Damaged) -> list[ModelVersion]:
    """Every registered version; `damaged` is told of a registration that cannot be read: its recipe's are left out.

    Never of an older version of the same recipe: what it registered may have been replaced for a reason.
    """
    found: list[ModelVersion] = []
    for key in handoffs.partitions(REGISTERED_VERSION):
        try:
            newest = handoffs.newest(REGISTERED_VERSION, key)
            found += from_table(newest.table()) if newest else []
        except HandoffCorrupt as error:
            damaged(error)
    return found
