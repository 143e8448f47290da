"""For whom an engine is asked: the class of the work, and whose it is. It decides who goes first, and no answer.

An engine's own asker is its deployment's. Who asks one engine for many, as a gateway does for its clients and for lines
of batches, says for whom while it asks; tasks that are begun meanwhile inherit it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from headrace.fairness import NOBODY, WorkClass


@dataclass(frozen=True, kw_only=True)
class Asker:
    """`tenants`: tenant → their part of each turn, divided by their weight; at least one."""

    work_class: WorkClass = "batch"
    tenants: Mapping[str, float] = field(default_factory=lambda: NOBODY)

    @property
    def is_live(self) -> bool:
        return self.work_class == "live"


_now: ContextVar[Asker | None] = ContextVar("asker", default=None)


@contextmanager
def asking_for(asker: Asker) -> Iterator[None]:
    """What is asked within the block is asked for this one. Not around a `yield` of a generator."""
    token = _now.set(asker)
    try:
        yield
    finally:
        _now.reset(token)


def asker_now(other: Asker) -> Asker:
    """For whom is asked now; `other`: where nobody said so."""
    return _now.get() or other
