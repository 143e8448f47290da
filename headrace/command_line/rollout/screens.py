"""Reads a rollout, and shows it in full or as a line."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from headrace.clock import iso
from headrace.command_line.output import (
    age_text,
    aligned,
    print_heading,
    print_lines,
    print_table,
)
from headrace.command_line.rollout.opening import Opened, read_subject, registered
from headrace.errors import HandoffCorrupt, HeadraceError, IllegalTransition, ObjectMissing
from headrace.rollout.journal import JournalCorrupt
from headrace.rollout.status import (
    BadRows,
    RolloutStatus,
    by_whom,
    percent,
)
from headrace.store.small_objects import PassedOver
from headrace.text.terminal import say
from headrace.text.visible import one_line
from headrace.version_sets.sets import VersionSets

_DIGEST = re.compile(r"[0-9a-f]{64}")
# Faults of a journal, not of the question.
DAMAGE = (JournalCorrupt, IllegalTransition, HandoffCorrupt, ObjectMissing)


def read_one(
    opened: Opened, *, plan_file: Path | None = None, mlflow: str | None = None, with_rows: bool = False
) -> RolloutStatus:
    """With the campaign's or service's file it also asks the gate about the present candidate, or the last one."""
    drift = _drift(opened, mlflow, plan_file) if mlflow else None
    damaged = PassedOver()
    if plan_file is None:
        # The subject is unknown: look for a campaign's rows of bad sets, by the rollout's name.
        bad_rows = _bad_rows(opened, damaged) if with_rows else None
        return replace(opened.rollout.status(drift=drift, damaged=damaged), bad_rows=bad_rows)
    subject = read_subject(plan_file, opened.name, opened.objects)
    models = registered(opened.objects, damaged=damaged)
    return opened.rollout.status(subject, models, with_rows=with_rows, drift=drift, damaged=damaged)


def _bad_rows(opened: Opened, damaged: PassedOver) -> tuple[BadRows, ...]:
    from headrace.generation.subject import bad_rows_of
    from headrace.handoff.versions import HandoffStore

    state = opened.state()
    return tuple(
        bad_rows_of(HandoffStore(opened.objects), opened.name, state.aborted, damaged=damaged) if state else ()
    )


def _drift(opened: Opened, mlflow: str, plan_file: Path | None) -> list[str]:
    from headrace.registry.mlflow_models import ModelRegistry
    from headrace.rollout.aliases import find_drift, wanted_aliases

    state = opened.state()
    if state is None:
        return []
    prefix = read_subject(plan_file, opened.name, opened.objects).plan.alias_prefix if plan_file else ""
    wanted = wanted_aliases(state, VersionSets(opened.objects), prefix=prefix)
    try:
        return [str(drift) for drift in find_drift(wanted, ModelRegistry(mlflow))]
    except HeadraceError as error:
        # Drift is only reported: if it is unknown, the rest of the screen stays the same.
        return [f"unknown: {error}"]


def print_statuses(statuses: Sequence[RolloutStatus]) -> None:
    rows = [
        [
            status.name,
            _brief(status, status.state.stable if status.state else None),
            _brief(status, (status.state.candidate or status.state.proposed) if status.state else None),
            status.step_words or ("preparing" if status.state and status.state.proposed else ""),
            _weight_text(status),
            age_text(status.now - status.since) if status.since else "",
            _cap_text(status),
            _last_text(status),
        ]
        for status in statuses
    ]
    headers = ["ROLLOUT", "STABLE", "CANDIDATE", "STEP", "WEIGHT", "SINCE", "CAP USED", "LAST"]
    asked = any(status.drift is not None for status in statuses)
    if asked:
        headers.append("DRIFT")
        rows = [[*row, "; ".join(status.drift or ()) or "none"] for row, status in zip(rows, statuses, strict=True)]
    print_table(headers, rows, right=["WEIGHT", "CAP USED"], marked="bold")


def print_status(status: RolloutStatus) -> None:
    state = status.state
    say(status.name, bold=True)
    print_lines([status.headline, ""])
    facts = [["stable", _set_text(status, state.stable)]] if state else []
    if state and state.proposed:
        facts.append(["proposed", _set_text(status, state.proposed)])
    if state and state.candidate:
        facts += [
            ["candidate", _set_text(status, state.candidate)],
            ["step", status.step_words],
            ["weight", _weight_text(status)],
        ]
        if state.cap is not None:
            facts.append(["cap used", _cap_text(status)])
        if state.approved:
            facts.append(["approved", "this step may be left"])
    if status.since:
        facts.append(["since", f"{iso(status.since)}, {age_text(status.now - status.since)} ago"])
    facts += [["last", _last_text(status)]]
    if status.verdict and state and state.candidate:
        facts.append(["gate", f"{status.verdict.action.replace('_', ' ')}: {status.verdict.reason}"])
    if status.drift is not None:
        facts.append(["drift", "; ".join(status.drift) or "none: MLflow's aliases say what the journal says"])
    facts += [["damaged", one] for one in status.damaged]
    print_lines(aligned(facts))
    if status.preparations and state and (state.proposed or state.candidate):
        print_heading("Prepared by")
        rows = [
            [one.node, "yes" if one.ok else "no", f"{one.seconds:.1f}", one.error or ", ".join(one.members)]
            for one in status.preparations
        ]
        print_table(["NODE", "READY", "SECONDS", "ROLES, OR WHY NOT"], rows, right=["SECONDS"])
    if status.changes and status.compared:
        before, behind = (status.sets[one] for one in status.compared)
        print_heading(f"From {before.standing} {before.short} to {behind.standing} {behind.short}")
        print_table(
            ["SETTING", "BEFORE", "AFTER"],
            [[one.path, setting_text(one.before), setting_text(one.after)] for one in status.changes],
        )


def _brief(status: RolloutStatus, version_set: str | None) -> str:
    return f"{version_set[:8]} {status.models_of(version_set)}" if version_set else ""


def _set_text(status: RolloutStatus, version_set: str | None) -> str:
    if version_set is None:
        return ""
    view = status.sets[version_set]
    return f"{view.short} {view.label}"


def _weight_text(status: RolloutStatus) -> str:
    if status.state is None or status.state.candidate is None:
        return ""
    return percent(status.state.weight) + (" paused" if status.state.paused else "")


def _cap_text(status: RolloutStatus) -> str:
    if status.state is None or status.state.cap is None:
        return ""
    used = "unknown" if status.num_units is None else f"{status.num_units:,}"
    return f"{used} of {status.state.cap:,}"


def _last_text(status: RolloutStatus) -> str:
    last = status.last
    if last is None:
        return ""
    reason = one_line(str(last.fields.get("reason", "")))
    return f"{last.number} {last.event} by {by_whom(last)}: {reason}"


def setting_text(value: object) -> str:
    """One side of a difference. Shortens digests, which stay distinct; --json has them in full."""
    listed = ", ".join(map(str, value)) if isinstance(value, tuple | list) else value
    text = "–" if value is None else one_line(str(listed))
    return f"{text[:16]}…" if _DIGEST.fullmatch(text) else text
