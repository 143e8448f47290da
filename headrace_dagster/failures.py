"""Turns errors into Dagster failures, in one place: errors that may pass are retried, all others end their step.

| error | result |
|---|---|
| `Transient` | raised unchanged: the step's retry policy decides |
| `TrainingFailed` | `Failure` with its sentence; rank, kind and log as metadata; the retry policy decides, too |
| a store, disk, memory, pool process or Dagster's own database that may recover (`may_pass`) | the same |
| Dagster's own (`Failure`, `RetryRequested`, `DagsterError`), and an interrupt | raised unchanged |
| `InvalidInput`, which a user can mend | `Failure(allow_retries=False)`: its sentence, no traceback of ours |
| any other `HeadraceError` | `Failure(allow_retries=False)` with its sentence, and its culprits as metadata |
| anything else: a fault of ours, or of a library | the same, with its class and message; the traceback is the cause |

Dagster retries a step only if its asset or check has a policy. So each of ours has `RETRIES` or a shorter policy of its
own, and does all its work inside `translated_errors`. The IO manager does too, except where it runs the asset's own
code: a stream, a lazy frame. A run with a killed worker raises nothing: run monitoring finds it, and Dagster's run
retries start it again.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from typing import TypeVar

import dagster as dg
from sqlalchemy import exc as sql

from headrace.errors import HeadraceError, InvalidInput, TrainingFailed, Transient, reason_of, text_of
from headrace.store.refusals import os_may_pass

T = TypeVar("T")

# Waits of 5, 10, 20, 40 and 80 s, and in each try the store's own patience of a minute: a store, registry or engine
# that is down for several minutes costs a night nothing.
RETRIES = dg.RetryPolicy(max_retries=5, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)

_CULPRIT_CHARACTERS_MAX = 2000

# Marks an error that passes `translated_errors` unchanged.
_OF_THE_ASSET = "_headrace_of_the_asset"

_PASSING = (
    Transient,
    MemoryError,  # pyarrow's too: whatever fills this machine may be done by then
    BrokenExecutor,  # a pool's process was killed, most often for lack of memory
    # Dagster's storage: locked by another process, or its server away.
    sql.OperationalError,
    sql.InterfaceError,
    sql.TimeoutError,
)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Wraps all work of an asset, check or IO manager, as `with` or as a decorator; a generator takes `with`.

    Raises:
        dg.Failure: with `allow_retries=False`, for every error that would recur (the module's table).
    """
    try:
        yield
    except (dg.Failure, dg.RetryRequested, dg.DagsterError):
        raise
    except Exception as error:
        if isinstance(error, TrainingFailed):
            raise dg.Failure(description=text_of(error), metadata=_metadata_of(error)) from error
        if may_pass(error) or hasattr(error, _OF_THE_ASSET):
            raise
        if isinstance(error, HeadraceError):
            failure = dg.Failure(description=text_of(error), metadata=_metadata_of(error), allow_retries=False)
            # What a user can mend needs no lines of ours: the sentence says where and what.
            raise failure from (None if isinstance(error, InvalidInput) else error)
        raise dg.Failure(
            description=f"{reason_of(error).rstrip('.')}. No retry, which would end the same way: the traceback of the "
            "cause says where it comes from.",
            allow_retries=False,
        ) from error


def _metadata_of(error: HeadraceError) -> dict[str, str | int | float]:
    """Of its culprits, which another package may have filled: numbers that Dagster's events hold, all else as text."""
    found: dict[str, str | int | float] = {}
    for name, value in error.culprits.items():
        if type(value) is float or (type(value) is int and abs(value) < 2**63):
            found[name] = value
            continue
        try:
            text = str(value)
        except Exception:  # noqa: BLE001 (a number of thousands of digits, a class that has no text)
            text = f"something of type {type(value).__name__}"
        found[name] = text[:_CULPRIT_CHARACTERS_MAX].encode(errors="replace").decode()
    return found


def may_pass(error: Exception) -> bool:
    """Whether the same step may succeed a minute later."""
    return isinstance(error, _PASSING) or (isinstance(error, OSError) and os_may_pass(error))


@contextmanager
def errors_of_the_asset() -> Iterator[None]:
    """Wraps an asset's own code in an IO manager: the asset owns these errors, and decides on a retry."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, HeadraceError):
            setattr(error, _OF_THE_ASSET, True)
        raise


def stream_of_the_asset(stream: Iterable[T]) -> Iterator[T]:
    with errors_of_the_asset():
        yield from stream


def permanent_failure(description: str) -> dg.Failure:
    """The failure for an error that a retry would meet again."""
    return dg.Failure(description=description, allow_retries=False)
