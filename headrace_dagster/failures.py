"""The one place where library errors become Dagster failures.

Permanent errors end the run without a retry; transient ones are raised as they are, for the retry policy. Dagster
retries a step only if its asset or check has a policy, so every one of ours has `RETRIES` or a shorter one of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from headrace.errors import HeadraceError, Transient

# Waits of 5, 10, 20, 40 and 80 s, each try with the store's own patience of a minute on top: a store, registry or
# engine that is down for several minutes costs a night nothing.
RETRIES = dg.RetryPolicy(max_retries=5, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Wrap an asset's library call.

    Raises:
        dg.Failure: with `allow_retries=False`, for every `HeadraceError` that is not `Transient`.
    """
    try:
        yield
    except Transient:
        raise
    except HeadraceError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error


def permanent_failure(description: str) -> dg.Failure:
    """What a retry would meet in the same way."""
    return dg.Failure(description=description, allow_retries=False)
