"""`headrace gc`: shows what would go and why, asks, and deletes it."""

import math
import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.command_line.bodies.store import (
    CollectionBody,
    KeptAfterAllBody,
    MicroBatchesBody,
    OrphanVerdictBody,
    OtherVerdictBody,
    PlanBody,
    ReportBody,
    VersionVerdictBody,
)
from headrace.command_line.opening import open_handoffs, surroundings_of
from headrace.command_line.options import AsJson, Store, examples
from headrace.errors import InvalidInput
from headrace.text.terminal import confirmed, say

if TYPE_CHECKING:
    from headrace.handoff.collecting import CollectionPlan, CollectionReport
    from headrace.handoff.versions import HandoffStore
    from headrace.store.protection import Protector

_DAGSTER, _MLFLOW = "dagster", "mlflow"
_MICRO_BATCHES = "micro-batches"


@examples(
    "headrace gc --dry-run",
    "headrace gc --keep 5 --grace 48",
    "headrace gc --yes --json                              from a script",
    "headrace gc --without-dagster                         the store is used without Dagster",
)
def gc(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    keep: Annotated[int, typer.Option("--keep", metavar="N", help="Newest versions to keep of each partition.")] = 2,
    grace: Annotated[
        float, typer.Option("--grace", metavar="HOURS", help="How long what was superseded or left behind stays.")
    ] = 24.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    show_kept: Annotated[bool, typer.Option("--show-kept", help="List every version that is kept, and why.")] = False,
    mlflow: Annotated[
        str | None,
        typer.Option("--mlflow", envvar="MLFLOW_TRACKING_URI", metavar="URI", help="MLflow: aliases keep weights."),
    ] = None,
    without_dagster: Annotated[
        bool, typer.Option("--without-dagster", help="Do not ask Dagster which versions it names.")
    ] = False,
    without_mlflow: Annotated[
        bool, typer.Option("--without-mlflow", help="Do not ask MLflow which weights its aliases name.")
    ] = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Delete versions, weights, checkpoints and evidence without a use, and what killed writers left.

    These stay: the newest versions of each partition, what Dagster's latest materializations name, what a live process
    reads or writes, what unfinished work pins, what was superseded less than the grace time ago, and what `trace` tells
    of rows that stay. Of weights: the newest of each recipe, and those that a rollout, a session, a kept version or an
    alias in MLflow names.
    """
    if keep < 1:
        raise InvalidInput(f"--keep must be at least 1: a partition without a newest version is none, got {keep}.")
    # Nothing is older than NaN hours, and nothing younger: it would stop protecting what is new.
    if math.isnan(grace) or grace < 0:
        raise InvalidInput(f"--grace is hours, 0 or more, got {grace:g}.")
    if not (dry_run or yes) and not sys.stdin.isatty():
        raise InvalidInput(
            "This deletes, and there is no terminal to ask on: pass --yes, or --dry-run to see what would go."
        )
    from headrace.command_line.output import bytes_text, print_json
    from headrace.handoff.collecting import plan_collection

    handoffs = open_handoffs(context, store)
    dagster_home = surroundings_of(context).dagster_home
    environment = {"DAGSTER_HOME": dagster_home or "", "MLFLOW_TRACKING_URI": mlflow or ""}
    plan = plan_collection(
        handoffs.objects,
        handoffs.clock,
        keep_versions=keep,
        grace_seconds=grace * 3600,
        protectors=_protectors(without_dagster=without_dagster, without_mlflow=without_mlflow),
        environment=environment,
    )
    if not as_json:
        _print_plan(handoffs, plan, show_kept=show_kept)
    if dry_run or not _has_work(plan):
        if as_json:
            print_json(CollectionBody(plan=plan_body(plan), report=None))
        return
    if not yes and not confirmed(f"Delete {bytes_text(plan.num_bytes)}?"):
        raise typer.Exit(1)
    report = _collect(handoffs, plan)
    if as_json:
        print_json(CollectionBody(plan=plan_body(plan), report=report_body(report)))
    else:
        _print_report(report)


def _protectors(*, without_dagster: bool, without_mlflow: bool) -> "dict[str, Protector]":
    """The rooms and services to ask what stays.

    Raises:
        InvalidInput: one of them must be asked and cannot be. A guess would delete what it names.
    """
    from headrace.store.protection import PROTECTION, installed

    left_out = {_DAGSTER: without_dagster, _MLFLOW: without_mlflow}
    found = installed(without={name for name, is_out in left_out.items() if is_out})
    for name, is_out in left_out.items():
        if name not in found and not is_out:
            raise InvalidInput(
                f"This installation does not say what {name} names (no entry point {name!r} of {PROTECTION}): install "
                f"Headrace again, or pass --without-{name}."
            )
    return found


def _collect(handoffs: "HandoffStore", plan: "CollectionPlan") -> "CollectionReport":
    """Deletes version by version, so progress is visible and an interruption falls between two."""
    from headrace.command_line.output import progress
    from headrace.handoff.collecting import CollectionReport, collect

    report = CollectionReport()
    with progress("collecting", plan.num_bytes) as advance:
        for one in plan.one_by_one():
            part = collect(handoffs.objects, handoffs.clock, one)
            advance(part.num_bytes)
            report += part
    return report


def _has_work(plan: "CollectionPlan") -> bool:
    return bool(plan.going or plan.expired_leases or plan.leftovers)


def _print_plan(handoffs: "HandoffStore", plan: "CollectionPlan", *, show_kept: bool) -> None:
    from headrace.command_line.handoff.holders import holders_by_nonce
    from headrace.command_line.output import bytes_text, counted, print_lines, print_table

    held = holders_by_nonce(handoffs.objects, handoffs.clock.now())

    def why(nonce: str | None, verdict: Any) -> str:
        holders = held.get(nonce or "", []) if verdict.reason.startswith("leased") else []
        return verdict.reason + (f" by {', '.join(one.text for one in holders)}" if holders else "")

    rows = [
        ["keep" if verdict.is_kept else "collect", found.label, bytes_text(found.num_bytes), why(found.nonce, verdict)]
        for verdict in [*plan.versions, *plan.parts]
        if (found := verdict.found) and (show_kept or not _is_ordinary(verdict))
    ]
    rows += [
        ["keep" if one.is_kept else "collect", one.label, bytes_text(one.num_bytes), why(one.nonce, one)]
        for one in plan.others
        if show_kept or not _is_ordinary(one)
    ]
    rows += [
        [one.action, f"tombstone {one.tombstone.nonce[:8]}", "", "of an earlier collection"] for one in plan.leftovers
    ]
    if rows:
        print_table(["", "WHAT", "BYTES", "WHY"], sorted(rows, key=lambda row: row[0] == "keep"), right=["BYTES"])
        say()
    kept = Counter(verdict.reason for verdict in plan.versions if verdict.is_kept and _is_ordinary(verdict))
    lines = [] if show_kept else [f"{counted(count, 'version')} kept: {reason}." for reason, count in kept.items()]
    for kind, count in Counter(one.kind for one in plan.leavings).items():
        lines.append(f"{count} {kind} to collect.")
    if plan.expired_leases:
        lines.append(f"{counted(len(plan.expired_leases), 'lease')} of processes that are gone.")
    lines.append(
        f"{counted(len(plan.collected), 'version')} and {counted(len(plan.orphans), 'orphan')} to collect, "
        f"{bytes_text(plan.num_bytes)}."
    )
    lines += [f"Passed over: {one}" for one in plan.damaged]
    print_lines(lines)


def _is_ordinary(verdict: Any) -> bool:
    """Kept because it is new, or because Dagster names it: there are thousands of these."""
    return verdict.is_kept and verdict.reason.startswith(
        ("among the newest", "named by", "belongs to", "the newest training")
    )


def _print_report(report: "CollectionReport") -> None:
    from headrace.command_line.output import bytes_text, counted, print_lines

    kinds = Counter(one.kind for one in report.leavings)
    lines = [
        f"Collected {counted(len(report.versions), 'version')} and {counted(len(report.orphans), 'orphan')}"
        f"{''.join(f', {count} {kind}' for kind, count in kinds.items())}: {bytes_text(report.num_bytes)} freed."
    ]
    fates = {
        "leased": "somebody began to read it",
        "sealed": "it was sealed",
        "spared": "another collector spared it",
        "damaged": "what was decided about it cannot be read",
    }
    for found, fate in report.kept_after_all:
        lines.append(f"Kept after all: {found.label}, {fates.get(fate, fate)}.")
    lines += [f"Passed over: {one}" for one in report.damaged]
    print_lines(lines)


def plan_body(plan: "CollectionPlan") -> PlanBody:
    return PlanBody(
        num_bytes=plan.num_bytes,
        versions=tuple(
            VersionVerdictBody(
                asset=one.found.asset,
                partition=one.found.partition,
                version=one.found.version,
                **_verdict(one.found.num_bytes, one),
            )
            for one in plan.versions
        ),
        orphans=tuple(
            OrphanVerdictBody(
                asset=one.found.asset,
                partition=one.found.partition,
                nonce=one.found.nonce,
                **_verdict(one.found.num_bytes, one),
            )
            for one in plan.parts
        ),
        micro_batches=tuple(
            MicroBatchesBody(prefix=one.key, num_bytes=one.num_bytes, reason=one.reason)
            for one in plan.leavings
            if one.kind == _MICRO_BATCHES
        ),
        others=tuple(
            OtherVerdictBody(kind=one.kind, key=one.key, **_verdict(one.num_bytes, one))
            for one in plan.others
            if one.kind != _MICRO_BATCHES
        ),
        num_expired_leases=len(plan.expired_leases),
        num_leftovers=len(plan.leftovers),
        damaged=plan.damaged,
    )


def _verdict(num_bytes: int, one: Any) -> dict[str, Any]:
    return {"num_bytes": num_bytes, "kept": one.is_kept, "reason": one.reason}


def report_body(report: "CollectionReport") -> ReportBody:
    return ReportBody(
        num_bytes=report.num_bytes,
        num_versions=len(report.versions),
        num_orphans=len(report.orphans),
        num_micro_batches=sum(one.kind == _MICRO_BATCHES for one in report.leavings),
        num_others=sum(one.kind != _MICRO_BATCHES for one in report.leavings),
        num_expired_leases=report.num_leases,
        kept_after_all=tuple(
            KeptAfterAllBody(
                asset=getattr(found, "asset", None),
                partition=getattr(found, "partition", None),
                version=getattr(found, "version", None),
                key=getattr(found, "key", None),
                fate=fate,
            )
            for found, fate in report.kept_after_all
        ),
        damaged=report.damaged,
    )
