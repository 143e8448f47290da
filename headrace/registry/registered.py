"""Registered model versions as sealed registrations hold them: what a rollout reads, so that it needs no MLflow."""

from headrace.handoff.versions import HandoffStore
from headrace.registry.model_versions import ModelVersion, from_table

REGISTERED_VERSION = "registered_version"


def registered_models(handoffs: HandoffStore) -> list[ModelVersion]:
    """Every registered version."""
    found: list[ModelVersion] = []
    for key in handoffs.partitions(REGISTERED_VERSION):
        newest = handoffs.newest(REGISTERED_VERSION, key)
        found += from_table(newest.table()) if newest else []
    return found
