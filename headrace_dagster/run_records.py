"""Records in run tags, each with the id of its run.

A re-execution copies its parent's tags (tests/upstream), so a record of another run counts as none. Anyone who
starts a run may write any tag, so an unreadable record counts as none, too.
"""

from collections.abc import Mapping
from typing import Protocol, TypeVar

from headrace.store.small_objects import Record


class TaggedRun(Protocol):
    """A run as the instance has it, or as its webserver tells it."""

    @property
    def run_id(self) -> str: ...

    @property
    def tags(self) -> Mapping[str, str]: ...


class _OfRun(Protocol):
    @property
    def run_id(self) -> str: ...


R = TypeVar("R", bound=_OfRun)


def record_in(run: TaggedRun, tag: str, record: Record[R]) -> R | None:
    """The tag's record, whichever run it names."""
    try:
        return record.checked(run.tags.get(tag, ""))
    except ValueError:
        return None


def own_record(run: TaggedRun, tag: str, record: Record[R]) -> R | None:
    """The tag's record of this very run."""
    found = record_in(run, tag, record)
    return found if found and found.run_id == run.run_id else None
