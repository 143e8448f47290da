"""`headrace rollout verify`: reads and replays every journal, and reads every set that it names."""

from collections.abc import Sequence

import typer

from headrace.clock import SystemClock
from headrace.command_line.opening import open_objects
from headrace.command_line.output import counted, print_json
from headrace.command_line.rollout_opening import rollout_in
from headrace.errors import HandoffCorrupt, IllegalTransition, ObjectMissing
from headrace.rollout.journal import Entry, Journal, JournalCorrupt
from headrace.rollout.layout import rollout_names
from headrace.rollout.states import fold
from headrace.store.objects import ObjectStore
from headrace.text.terminal import say
from headrace.version_sets.sets import VersionSets


def verify_rollouts(context: typer.Context, store: str | None, name: str | None, *, as_json: bool) -> None:
    """Checks each entry's digest and predecessor, replays the journal, reads each named set. Exits with 1 on damage."""
    objects = open_objects(context, store)
    names = [rollout_in(objects, name).name] if name else rollout_names(objects)
    found = [(one, *_verified(objects, one)) for one in names]
    if as_json:
        fields = ("name", "num_entries", "num_sets", "error")
        print_json({"rollouts": [dict(zip(fields, one, strict=True)) for one in found]})
    elif not found:
        say(f"There is no rollout in {objects.uri('rollout')} yet.")
    for one, num_entries, num_sets, error in found if not as_json else ():
        whole = f"{one}: {counted(num_entries, 'entry', 'entries')} and {counted(num_sets, 'version set')} are whole."
        say(f"{one}: {error}" if error else whole)
    if any(error for *_, error in found):
        raise typer.Exit(1)


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
