"""Shared by commands that change a rollout: asking first, naming the author, printing the result."""

import sys
from dataclasses import replace
from pathlib import Path

import typer

from headrace.command_line.bodies.rollouts import ChangeBody, EntryBody, RolloutBody
from headrace.command_line.output import print_json, print_lines
from headrace.command_line.rollout.opening import Opened, read_subject, registered, who
from headrace.errors import HandoffCorrupt, InvalidInput, ObjectMissing
from headrace.rollout.journal import Entry
from headrace.rollout.plan import Plan
from headrace.rollout.states import RolloutState
from headrace.store.small_objects import PassedOver
from headrace.text.terminal import confirmed, say
from headrace.version_sets.sets import VersionSets

# The journal's text if no reason was given, so that an audit knows that.
NO_REASON = "by hand, no reason given"


def report(
    opened: Opened, entry: Entry, *, as_json: bool, plan: Plan | None = None, damaged: PassedOver | None = None
) -> None:
    status = replace(opened.rollout.status(damaged=damaged), plan=plan)
    if as_json:
        print_json(ChangeBody(entry=EntryBody.of(entry), status=RolloutBody.of(status)))
        return
    say(f"Entry {entry.number} of {opened.name}: {entry.event}, by {entry.fields['by']}.")
    print_lines([status.headline, *(f"Passed over: {one}" for one in status.damaged)])


def num_rows_of(opened: Opened, plan_file: Path | None, seen: RolloutState) -> int | None:
    """The candidate's known rows or units; None without a file, since their place is unknown."""
    if plan_file is None:
        return None
    subject, damaged = read_subject(plan_file, opened.name, opened.objects), PassedOver()
    return subject.evidence(registered(opened.objects, damaged=damaged), seen, damaged=damaged).num_seen


def plan_of(file: Path | None, opened: Opened) -> Plan | None:
    return read_subject(file, opened.name, opened.objects).plan if file else None


def named(by: str | None) -> str:
    """Raises: InvalidInput: no name was given, and the machine knows none."""
    if found := (by or who()).strip():
        return found
    raise InvalidInput("The journal keeps who changed a rollout, and this machine does not know you: pass --by NAME.")


def ask(question: str, *, yes: bool) -> None:
    """Asks only on a terminal: a script that aborts a rollout must not wait."""
    if not yes and sys.stdin.isatty() and not confirmed(question):
        raise typer.Exit(1)


def label_of(opened: Opened, version_set: str) -> str:
    """An unreadable set is shown by its id: it can still be rolled back."""
    try:
        return f"{VersionSets(opened.objects).get(version_set).label} ({version_set[:12]})"
    except (HandoffCorrupt, ObjectMissing):
        return f"set {version_set[:12]}, which cannot be read"
