"""`headrace gc`: shows what would go and why, asks, and takes it away."""

import sys
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.command_line.opening import open_handoffs, surroundings_of
from headrace.command_line.options import AsJson, Store
from headrace.errors import InvalidInput
from headrace.text.terminal import confirmed, say

if TYPE_CHECKING:
    from headrace.handoff.collecting import CollectionPlan, CollectionReport
    from headrace.handoff.versions import HandoffStore

# Callables (HandoffStore) -> Iterable[(asset, partition, version)]: what must stay, whatever its age.
KEPT_VERSIONS = "headrace.kept_versions"
_DAGSTER = "dagster"


def gc(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    keep: Annotated[int, typer.Option("--keep", metavar="N", help="Newest versions to keep of each partition.")] = 2,
    grace: Annotated[
        float, typer.Option("--grace", metavar="HOURS", help="How long what was superseded or left behind stays.")
    ] = 24.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    show_kept: Annotated[bool, typer.Option("--show-kept", help="List every version that is kept, and why.")] = False,
    without_dagster: Annotated[
        bool, typer.Option("--without-dagster", help="Do not ask Dagster which versions it names.")
    ] = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Take away versions that nobody needs, and what killed writers left.

    Kept are the newest versions of each partition, what Dagster's latest materializations name, what a live process
    reads or writes, what unfinished work pins, and whatever was superseded less than the grace time ago.
    """
    if keep < 1:
        raise InvalidInput(f"--keep must be at least 1: a partition without a newest version is none, got {keep}.")
    if grace < 0:
        raise InvalidInput(f"--grace is hours, 0 or more, got {grace:g}.")
    if not (dry_run or yes) and not sys.stdin.isatty():
        raise InvalidInput(
            "This deletes, and there is no terminal to ask on: pass --yes, or --dry-run to see what would go."
        )
    from headrace.command_line.output import bytes_text, print_json
    from headrace.handoff.collecting import plan_collection

    handoffs = open_handoffs(context, store)
    named = frozenset(
        kept_versions(handoffs, dagster_home=surroundings_of(context).dagster_home, without_dagster=without_dagster)
    )
    plan = plan_collection(
        handoffs.objects, handoffs.clock, keep_versions=keep, named=named, grace_seconds=grace * 3600
    )
    if not as_json:
        _print_plan(handoffs, plan, show_kept=show_kept)
    if dry_run or not _has_work(plan):
        if as_json:
            print_json({"plan": plan_body(plan), "report": None})
        return
    if not yes and not confirmed(f"Delete {bytes_text(plan.num_bytes)}?"):
        raise typer.Exit(1)
    report = _collect(handoffs, plan)
    if as_json:
        print_json({"plan": plan_body(plan), "report": report_body(report)})
    else:
        _print_report(report)


def kept_versions(
    handoffs: "HandoffStore", *, dagster_home: str | None, without_dagster: bool
) -> Iterable[tuple[str, str, int]]:
    """What every installed provider names (entry points `headrace.kept_versions`).

    Raises:
        InvalidInput: Dagster is to be asked and cannot be. Guessing here would delete what it names.
    """
    from importlib.metadata import entry_points

    providers = [one for one in entry_points(group=KEPT_VERSIONS) if not (without_dagster and one.name == _DAGSTER)]
    if not without_dagster:
        if not any(one.name == _DAGSTER for one in providers):
            raise InvalidInput(
                f"This installation does not say what Dagster names (no entry point {_DAGSTER!r} of {KEPT_VERSIONS}): "
                "install Headrace again, or pass --without-dagster."
            )
        if not dagster_home:
            raise InvalidInput(
                "DAGSTER_HOME is not set, so what Dagster's latest materializations name is unknown: set DAGSTER_HOME, "
                "or pass --without-dagster."
            )
    for provider in providers:
        try:
            named = provider.load()
        except ImportError as error:
            raise InvalidInput(
                f"What {provider.name} names cannot be asked ({error}): install {provider.name}, or pass "
                "--without-dagster."
            ) from error
        yield from named(handoffs)


def _collect(handoffs: "HandoffStore", plan: "CollectionPlan") -> "CollectionReport":
    """Version by version, so that there is progress to see, and an interruption ends between two."""
    from dataclasses import replace

    from headrace.command_line.output import progress
    from headrace.handoff.collecting import collect

    kept = tuple(verdict for verdict in plan.versions if verdict.is_kept)
    rest = replace(plan, versions=kept)
    only = replace(plan, parts=(), batches=(), expired_leases=(), leftovers=())
    reports = []
    with progress("collecting", plan.num_bytes) as advance:
        for verdict in plan.versions:
            if not verdict.is_kept:
                reports.append(collect(handoffs.objects, handoffs.clock, replace(only, versions=(verdict,))))
                advance(verdict.found.num_bytes)
        reports.append(collect(handoffs.objects, handoffs.clock, rest))
        advance(reports[-1].num_bytes)
    return _joined(reports)


def _joined(reports: "list[CollectionReport]") -> "CollectionReport":
    from headrace.handoff.collecting import CollectionReport

    return CollectionReport(
        versions=tuple(found for report in reports for found in report.versions),
        orphans=tuple(found for report in reports for found in report.orphans),
        kept_after_all=tuple(kept for report in reports for kept in report.kept_after_all),
        num_batches=sum(report.num_batches for report in reports),
        num_leases=sum(report.num_leases for report in reports),
        num_leftovers=sum(report.num_leftovers for report in reports),
        num_bytes=sum(report.num_bytes for report in reports),
        damaged=tuple(dict.fromkeys(one for report in reports for one in report.damaged)),
    )


def _has_work(plan: "CollectionPlan") -> bool:
    return bool(plan.collected or plan.orphans or plan.batches or plan.expired_leases or plan.leftovers)


def _print_plan(handoffs: "HandoffStore", plan: "CollectionPlan", *, show_kept: bool) -> None:
    from headrace.command_line.holders import holders_by_nonce
    from headrace.command_line.output import bytes_text, counted, print_lines, print_table

    held = holders_by_nonce(handoffs.objects, handoffs.clock.now())

    def why(verdict: Any) -> str:
        holders = held.get(verdict.found.nonce, []) if verdict.reason.startswith("leased") else []
        return verdict.reason + (f" by {', '.join(one.text for one in holders)}" if holders else "")

    rows = [
        [
            "keep" if verdict.is_kept else "collect",
            verdict.found.label,
            bytes_text(verdict.found.num_bytes),
            why(verdict),
        ]
        for verdict in plan.versions
        if show_kept or not _is_ordinary(verdict)
    ]
    rows += [
        [
            "keep" if verdict.is_kept else "collect",
            f"{verdict.found.asset}[{verdict.found.partition}] parts {verdict.found.nonce[:8]}",
            bytes_text(verdict.found.num_bytes),
            why(verdict),
        ]
        for verdict in plan.parts
    ]
    rows += [["collect", one.prefix, bytes_text(one.num_bytes), one.reason] for one in plan.batches]
    rows += [
        [one.action, f"tombstone {one.tombstone.nonce[:8]}", "", "of an earlier collection"] for one in plan.leftovers
    ]
    if rows:
        print_table(["", "WHAT", "BYTES", "WHY"], sorted(rows, key=lambda row: row[0] == "keep"), right=["BYTES"])
        say()
    kept = Counter(verdict.reason for verdict in plan.versions if verdict.is_kept and _is_ordinary(verdict))
    lines = [] if show_kept else [f"{counted(count, 'version')} kept: {reason}." for reason, count in kept.items()]
    if plan.expired_leases:
        lines.append(f"{counted(len(plan.expired_leases), 'lease')} of processes that are gone.")
    lines.append(
        f"{counted(len(plan.collected), 'version')} and {counted(len(plan.orphans), 'orphan')} to collect, "
        f"{bytes_text(plan.num_bytes)}."
    )
    lines += [f"Passed over: {one}" for one in plan.damaged]
    print_lines(lines)


def _is_ordinary(verdict: Any) -> bool:
    """Kept for being new, or for what Dagster says: there are thousands of these."""
    return verdict.is_kept and verdict.reason.startswith(("among the newest", "named by"))


def _print_report(report: "CollectionReport") -> None:
    from headrace.command_line.output import bytes_text, counted, print_lines
    from headrace.handoff.retention import FoundVersion

    lines = [
        f"Collected {counted(len(report.versions), 'version')} and {counted(len(report.orphans), 'orphan')}: "
        f"{bytes_text(report.num_bytes)} freed."
    ]
    fates = {
        "leased": "somebody began to read it",
        "sealed": "it was sealed",
        "spared": "another collector spared it",
        "damaged": "what was decided about it cannot be read",
    }
    for found, fate in report.kept_after_all:
        label = f"{found.asset}[{found.partition}]" + (f" v{found.version}" if isinstance(found, FoundVersion) else "")
        lines.append(f"Kept after all: {label}, {fates.get(fate, fate)}.")
    lines += [f"Passed over: {one}" for one in report.damaged]
    print_lines(lines)


def plan_body(plan: "CollectionPlan") -> dict[str, Any]:
    return {
        "num_bytes": plan.num_bytes,
        "versions": [
            {
                "asset": one.found.asset,
                "partition": one.found.partition,
                "version": one.found.version,
                "num_bytes": one.found.num_bytes,
                "kept": one.is_kept,
                "reason": one.reason,
            }
            for one in plan.versions
        ],
        "orphans": [
            {
                "asset": one.found.asset,
                "partition": one.found.partition,
                "nonce": one.found.nonce,
                "num_bytes": one.found.num_bytes,
                "kept": one.is_kept,
                "reason": one.reason,
            }
            for one in plan.parts
        ],
        "micro_batches": [
            {"prefix": one.prefix, "num_bytes": one.num_bytes, "reason": one.reason} for one in plan.batches
        ],
        "num_expired_leases": len(plan.expired_leases),
        "num_leftovers": len(plan.leftovers),
        "damaged": list(plan.damaged),
    }


def report_body(report: "CollectionReport") -> dict[str, Any]:
    return {
        "num_bytes": report.num_bytes,
        "num_versions": len(report.versions),
        "num_orphans": len(report.orphans),
        "num_micro_batches": report.num_batches,
        "num_expired_leases": report.num_leases,
        "kept_after_all": [
            {
                "asset": found.asset,
                "partition": found.partition,
                "version": getattr(found, "version", None),
                "fate": fate,
            }
            for found, fate in report.kept_after_all
        ],
        "damaged": list(report.damaged),
    }
