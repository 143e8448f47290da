"""What the `headrace` command asks Dagster, through the entry point group `headrace.kept_versions`."""

from collections.abc import Iterable

import dagster as dg

from headrace.errors import InvalidInput
from headrace.handoff.versions import HandoffStore
from headrace_dagster.collection import NamedVersion, named_versions


def named_by_dagster(handoffs: HandoffStore) -> Iterable[NamedVersion]:
    """What the latest materializations of DAGSTER_HOME's instance name.

    Raises:
        InvalidInput: there is no instance to ask.
    """
    try:
        instance = dg.DagsterInstance.get()
    except (dg.DagsterError, OSError) as error:
        reason = str(error).strip().split("\n", 1)[0].rstrip(".")
        raise InvalidInput(
            f"Dagster's instance does not open ({reason}): correct DAGSTER_HOME, or pass --without-dagster."
        ) from error
    with instance:
        return named_versions(instance, handoffs)
