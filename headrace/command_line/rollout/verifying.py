"""Reads one journal anew, replays it, and reads every set that it names."""

from collections.abc import Sequence

from headrace.clock import SystemClock
from headrace.command_line.bodies.rollouts import VerifiedJournalBody
from headrace.errors import HandoffCorrupt, IllegalTransition, ObjectMissing
from headrace.rollout.journal import Entry, Journal, JournalCorrupt
from headrace.rollout.states import fold
from headrace.store.objects import ObjectStore
from headrace.version_sets.sets import VersionSets


def verified(objects: ObjectStore, name: str) -> VerifiedJournalBody:
    num_entries, num_sets, error = _verified(objects, name)
    return VerifiedJournalBody(name=name, num_entries=num_entries, num_sets=num_sets, error=error)


def _verified(objects: ObjectStore, name: str) -> tuple[int, int, str | None]:
    """Number of entries and of readable sets, and the fault; None: there is none."""
    journal = Journal(objects, name, SystemClock())
    try:
        num_entries = journal.verify()
    except JournalCorrupt as error:
        return 0, 0, str(error)
    entries = journal.entries()
    try:
        fold(entries)
    except IllegalTransition as error:
        return num_entries, 0, str(error)
    version_sets, num_sets = VersionSets(objects), 0
    for named, entry in _first_naming(entries).items():
        try:
            version_sets.get(named)
        except (HandoffCorrupt, ObjectMissing) as error:
            return num_entries, num_sets, f"Entry {entry.number} ({entry.event}) names a set that is damaged: {error}"
        num_sets += 1
    return num_entries, num_sets, None


def _first_naming(entries: Sequence[Entry]) -> dict[str, Entry]:
    named: dict[str, Entry] = {}
    for entry in entries:
        if "version_set" in entry.fields:
            named.setdefault(entry.fields["version_set"], entry)
    return named
