"""`headrace rollout start | advance | pause | resume | approve | abort`: asks, appends one entry, prints the result."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import typer

from headrace.command_line.output import print_json, print_lines
from headrace.command_line.rollout_opening import Opened, find_set, open_rollout, read_subject, registered, who
from headrace.errors import HandoffCorrupt, InvalidInput, ObjectMissing
from headrace.rollout import interventions
from headrace.rollout.journal import Entry
from headrace.rollout.plan import Plan
from headrace.rollout.preparation import preparations
from headrace.rollout.states import RolloutState
from headrace.rollout.status import entry_body, percent, status_body
from headrace.store.small_objects import PassedOver
from headrace.text.terminal import confirmed, say
from headrace.version_sets.sets import VersionSets

# The journal's text if nobody gives a reason, so that an audit knows that.
NO_REASON = "by hand, no reason given"


def hold_or_go_on(
    context: typer.Context,
    store: str | None,
    name: str,
    word: Literal["pause", "resume", "approve"],
    *,
    by: str | None,
    reason: str | None,
    as_json: bool,
) -> None:
    opened = open_rollout(context, store, name)
    act = {"pause": interventions.pause, "resume": interventions.resume, "approve": interventions.approve}[word]
    entry = act(opened.journal, by=_by(by), reason=reason or NO_REASON)
    _report(opened, entry, as_json=as_json)


def abort_rollout(
    context: typer.Context,
    store: str | None,
    name: str,
    *,
    by: str | None,
    reason: str,
    keep_sessions: bool,
    yes: bool,
    as_json: bool,
) -> None:
    opened = open_rollout(context, store, name)
    seen = interventions.present_state(opened.journal)
    target = seen.candidate or seen.proposed
    if target is not None:
        sessions = "sessions on it keep it until their lease ends" if keep_sessions else "sessions on it move"
        what = f"It has {percent(seen.weight)}; {sessions}" if seen.candidate else "It has no units yet"
        _ask(f"Abort {_label(opened, target)}? {what}, and it is never tried again.", yes=yes)
    from headrace.generation.subject import end_under_way
    from headrace.handoff.versions import HandoffStore

    damaged = PassedOver()
    entry = interventions.abort(
        opened.journal,
        by=_by(by),
        reason=reason,
        evict=not keep_sessions,
        seen=seen,
        before=partial(end_under_way, HandoffStore(opened.objects), name, damaged=damaged),
    )
    _report(opened, entry, as_json=as_json, damaged=damaged)


def advance_rollout(
    context: typer.Context,
    store: str | None,
    name: str,
    *,
    weight: float | None,
    promote: bool,
    plan_file: Path | None,
    by: str | None,
    reason: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    if promote and weight is not None:
        raise InvalidInput("--promote gives the candidate every unit, so --weight has no meaning beside it: drop one.")
    opened = open_rollout(context, store, name)
    plan = _plan(plan_file, opened)
    seen = interventions.present_state(opened.journal)
    given = reason or NO_REASON
    if promote:
        if seen.candidate is not None:
            _ask(f"Promote {_label(opened, seen.candidate)}? It has {percent(seen.weight)} now.", yes=yes)
        entry = interventions.promote(opened.journal, by=_by(by), reason=given, plan=plan, seen=seen)
    else:
        entry = interventions.advance(
            opened.journal,
            by=_by(by),
            reason=given,
            plan=plan,
            weight=weight,
            num_rows=_num_rows(opened, plan_file, seen),
            seen=seen,
        )
    _report(opened, entry, as_json=as_json, plan=plan)


def start_rollout(
    context: typer.Context,
    store: str | None,
    name: str,
    *,
    version_set: str,
    weight: float | None,
    plan_file: Path | None,
    by: str | None,
    reason: str | None,
    as_json: bool,
) -> None:
    """Proposes the set; if it is proposed and prepared already, gives it its first units."""
    opened = open_rollout(context, store, name)
    plan = _plan(plan_file, opened)
    wanted = VersionSets(opened.objects).get(find_set(opened.objects, version_set))
    seen = interventions.present_state(opened.journal)
    given = reason or NO_REASON
    if seen.proposed != wanted.id:
        entry = interventions.propose(opened.journal, wanted, by=_by(by), reason=given, seen=seen)
        _report(opened, entry, as_json=as_json, plan=plan)
        return
    if plan is None:
        raise InvalidInput(
            f"Set {wanted.id[:12]} is proposed already; to give it units, pass --plan FILE: it says how many nodes "
            "must have prepared the set, and what its first step gives it (or --weight W)."
        )
    weight = plan.steps[0].weight if weight is None else weight
    entry = interventions.start(
        opened.journal,
        wanted,
        preparations(opened.objects, name, seen.proposal),
        by=_by(by),
        reason=given,
        weight=weight,
        cap=plan.step_at(weight).cap,
        quorum=plan.quorum,
        num_rows=_num_rows(opened, plan_file, seen) or 0,
        seen=seen,
    )
    _report(opened, entry, as_json=as_json, plan=plan)


def _report(
    opened: Opened, entry: Entry, *, as_json: bool, plan: Plan | None = None, damaged: PassedOver | None = None
) -> None:
    status = replace(opened.rollout.status(damaged=damaged), plan=plan)
    if as_json:
        print_json({"entry": entry_body(entry), "status": status_body(status)})
        return
    say(f"Entry {entry.number} of {opened.name}: {entry.event}, by {entry.fields['by']}.")
    print_lines([status.headline, *(f"Passed over: {one}" for one in status.damaged)])


def _num_rows(opened: Opened, plan_file: Path | None, seen: RolloutState) -> int | None:
    """The candidate's known rows or units; None: without the file their place is unknown."""
    if plan_file is None:
        return None
    subject, damaged = read_subject(plan_file, opened.name, opened.objects), PassedOver()
    return subject.evidence(registered(opened.objects, damaged=damaged), seen, damaged=damaged).num_seen


def _plan(file: Path | None, opened: Opened) -> Plan | None:
    return read_subject(file, opened.name, opened.objects).plan if file else None


def _by(by: str | None) -> str:
    """Raises: InvalidInput: no name was given, and the machine knows none."""
    if found := (by or who()).strip():
        return found
    raise InvalidInput("The journal keeps who changed a rollout, and this machine does not know you: pass --by NAME.")


def _ask(question: str, *, yes: bool) -> None:
    """Asks only on a terminal: a script that aborts a rollout must not wait."""
    if not yes and sys.stdin.isatty() and not confirmed(question):
        raise typer.Exit(1)


def _label(opened: Opened, version_set: str) -> str:
    """An unreadable set is shown by its id: it can still be rolled back."""
    try:
        return f"{VersionSets(opened.objects).get(version_set).label} ({version_set[:12]})"
    except (HandoffCorrupt, ObjectMissing):
        return f"set {version_set[:12]}, which cannot be read"
