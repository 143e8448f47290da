"""Names what Dagster needs of a store, for garbage collection: entry point `dagster` of `headrace.protection`."""

import dagster as dg

from headrace.errors import InvalidInput
from headrace.store.protection import Answer, Asked
from headrace_dagster.collection import DAGSTER_HOME, named_by


def protection(asked: Asked) -> Answer:
    """The versions that the latest materializations of DAGSTER_HOME's instance name.

    Raises:
        InvalidInput: there is no instance to ask.
    """
    if not asked.environment.get(DAGSTER_HOME):
        raise InvalidInput(
            "DAGSTER_HOME is not set, so what Dagster's latest materializations name is unknown: set DAGSTER_HOME, or "
            "pass --without-dagster."
        )
    try:
        instance = dg.DagsterInstance.get()
    except (dg.DagsterError, OSError) as error:
        reason = str(error).strip().split("\n", 1)[0].rstrip(".")
        raise InvalidInput(
            f"Dagster's instance does not open ({reason}): correct DAGSTER_HOME, or pass --without-dagster."
        ) from error
    with instance:
        return Answer(named=tuple(named_by(instance, asked)))
