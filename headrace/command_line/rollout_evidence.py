"""What is known of a rollout's sets, for commands: reviewed rows and held-out losses, what gateways saw, bad rows."""

from collections.abc import Collection
from typing import Any

from headrace.generation.campaign import Campaign
from headrace.rollout.gates import Evidence
from headrace.rollout.states import RolloutState
from headrace.rollout.status import BadRows
from headrace.serving.service import Service
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Damaged


def gather_evidence(
    objects: ObjectStore, subject: Campaign | Service, state: RolloutState, *, damaged: Damaged
) -> Evidence:
    """Reads the store alone: neither MLflow nor a gateway is asked. `damaged` is told of what is left out."""
    if isinstance(subject, Service):
        from headrace.serving.rollout_facts import service_evidence

        return service_evidence(objects, subject.name, state, damaged=damaged)
    from headrace.generation.rollout_facts import campaign_evidence
    from headrace.handoff.versions import HandoffStore
    from headrace.registry.registered import registered_models

    handoffs = HandoffStore(objects)
    return campaign_evidence(subject, handoffs, registered_models(handoffs, damaged=damaged), state, damaged=damaged)


def find_bad_rows(
    objects: ObjectStore, name: str, version_sets: Collection[str], *, damaged: Damaged | None = None
) -> list[BadRows]:
    from headrace.generation.rollout_facts import bad_rows_of
    from headrace.handoff.versions import HandoffStore

    return bad_rows_of(HandoffStore(objects), name, version_sets, damaged=damaged)


def bad_row_ids(objects: ObjectStore, name: str, version_sets: Collection[str]) -> list[dict[str, Any]]:
    """Every such row that is still in the store: its id, prompt, partition, version and set."""
    from headrace.generation.rolled_back import rows_made_by
    from headrace.handoff.versions import HandoffStore

    return rows_made_by(HandoffStore(objects), version_sets, campaign=name).to_pylist()
