"""Makes a service's own set stable without a registry, exactly as its file describes it.

For services whose models are all behind servers (`registered: false`), so they can start without Dagster and MLflow.
Services with registered models get their first set from the rollout, which knows the registry.
"""

from headrace.clock import Clock
from headrace.errors import InvalidInput, JournalConflict
from headrace.rollout.events import initialized
from headrace.rollout.journal import Journal
from headrace.serving.service import Service
from headrace.serving.subject import ServiceSubject
from headrace.store.objects import ObjectStore
from headrace.version_sets.sets import VersionSets


def initialize(service: Service, store: ObjectStore, clock: Clock) -> bool:
    """Makes the file's own set stable, if the journal is empty. False: it was not empty.

    Raises:
        InvalidInput: a role's model is a registered one.
    """
    if registered := [name for name, role in service.roles.items() if role.registered]:
        raise InvalidInput(
            f"Service {service.name} cannot be initialized from its file: {', '.join(registered)} "
            f"{'asks' if len(registered) == 1 else 'ask'} for registered models. Let the rollout sensor begin it."
        )
    journal = Journal(store, service.name, clock)
    if journal.head():
        return False
    wanted = ServiceSubject.of(service, store).candidates(()).first()
    assert wanted is not None
    VersionSets(store).put(wanted.version_set)
    event = initialized(wanted.version_set)
    try:
        reason = f"{wanted.reason}; a gateway found no journal"
        journal.append(event.name, {**event.fields, "reason": reason}, expected=0)
    except JournalConflict:
        return False
    return True
