"""The one place where library errors become Dagster failures.

Permanent errors end the run without a retry; transient ones are raised as they are, for the retry policy.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from headrace.errors import HeadraceError, Transient


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
