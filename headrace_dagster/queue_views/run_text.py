"""How `headrace why RUN_ID` looks: a heading, the reason, the facts, and whom it waits for."""

from collections.abc import Sequence

from headrace_dagster.queue_views.queue_view import OtherRun, RunView, State
from headrace_dagster.queue_views.queue_words import (
    demand_text,
    devices_text,
    placement_text,
    short_id,
    since_text,
    until_text,
)

_STATES: dict[State, str] = {
    "next": "is next",
    "held": "is held",
    "impossible": "can never run here",
    "admitted": "is admitted",
    "starting": "is starting",
    "running": "is running",
    "silent": "gives no sign of life",
    "ending": "is ending",
    "uncounted": "is not counted",
    "finished": "has ended",
}


def heading(run: RunView) -> str:
    """`Run 6a9f1c07 is held`."""
    return f"Run {short_id(run.run_id)} {_STATES[run.state]}"


def facts(run: RunView, now: float) -> list[tuple[str, str]]:
    """Name and value; what is not known is left out."""
    by_node: dict[str, list[str]] = {}
    for node, device in sorted(run.reserved):
        by_node.setdefault(node, []).append(device)
    found = [
        ("run", run.run_id),
        ("what", run.name),
        ("asks for", demand_text(run.demand) if run.demand else ""),
        ("queue", _queue(run)),
        ("stage", run.stage),
        ("queued", since_text(run.submitted, now) if run.submitted is not None else ""),
        ("kept for it", "; ".join(f"{node}: {devices_text(devices)}" for node, devices in by_node.items())),
        ("at the latest", _latest(run, now)),
        ("where", placement_text(run.placement) if run.placement else ""),
        ("since", since_text(run.since, now) if run.since is not None else ""),
        ("until", _end(run, now)),
        ("Dagster's status", run.status),
    ]
    return [(name, value) for name, value in found if value]


def _queue(run: RunView) -> str:
    if run.queue is None:
        return ""
    return run.queue + (f", priority {run.priority}" if run.priority is not None else "")


def _latest(run: RunView, now: float) -> str:
    if run.state != "held":
        return ""
    return until_text(run.latest, now) if run.latest is not None else "nobody can say"


def _end(run: RunView, now: float) -> str:
    if run.ended is not None:
        return since_text(run.ended, now)
    return until_text(run.until, now) if run.until is not None and run.state != "ending" else ""


WAITS_FOR_HEADERS = ("RUN", "WHAT", "HOLDS", "UNTIL")


def waits_for_rows(others: Sequence[OtherRun], now: float) -> list[list[str]]:
    return [
        [
            short_id(other.run_id),
            other.name or "-",
            (placement_text(other.placement) if other.placement else "") or "-",
            until_text(other.until, now) if other.until is not None else "nobody can say",
        ]
        for other in others
    ]
