"""The lines of `headrace queue` and `headrace why`: headline, a run's facts, and the whole queue for a pipe.

In a pipe each GPU and holder has one whole line, for searching.
"""

import math
from collections.abc import Sequence

from headrace.command_line.output import age_text, aligned, counted
from headrace.placement.demand import WHOLE
from headrace.text.visible import one_line
from headrace_dagster.queue_views.queue_view import QueueView, RunView, State
from headrace_dagster.queue_views.queue_words import (
    clock_text,
    demand_in_short,
    demand_text,
    devices_text,
    placement_text,
    share_text,
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
WAITS_FOR_HEADERS = ("RUN", "WHAT", "HOLDS", "UNTIL")
QUEUE_HEADERS = ("", "RUN", "STATE", "WHAT", "ASKS FOR", "QUEUE", "PRIORITY", "WAITED", "AT LATEST", "WHY")


def headline(view: QueueView) -> str:
    """`12 GPUs on 3 nodes: 8.5 in use, 2.5 free, 1 sick · 4 runs queued · 9 in progress · 14:05 UTC`."""
    devices = [device for node in view.nodes for device in node.devices]
    there = [device for device in devices if device.health != "gone"]
    milli_held = sum(min(WHOLE, milli) for device in there for _, milli in device.shares)
    figures = [f"{share_text(milli_held)} in use", f"{share_text(sum(one.free_milli for one in devices))} free"]
    counts = {health: sum(device.health == health for device in devices) for health in ("sick", "gone")}
    figures += [f"{count} {health}" for health, count in counts.items() if count]
    fleet = f"{counted(len(there), 'GPU')} on {counted(len(view.nodes), 'node')}: {', '.join(figures)}"
    queued = f"{counted(len(view.queued), 'run')} queued"
    return f"{fleet} · {queued} · {_in_progress(view)} · {clock_text(view.at, view.at)} UTC"


def _in_progress(view: QueueView) -> str:
    """Also of runs that hold no GPU, and stand nowhere below."""
    num_runs = f"{len(view.running):,} in progress"
    if view.num_slots is None:
        return num_runs
    return f"{num_runs}, {view.num_slots:,} more may start (max_concurrent_runs)"


def daemon_note(view: QueueView) -> str | None:
    if view.daemon_silent_seconds is None:
        return None
    never = math.isinf(view.daemon_silent_seconds)
    silence = "has never looked" if never else f"has not looked for {age_text(view.daemon_silent_seconds)}"
    return f"Dagster's daemon {silence} at this queue: nothing starts until it runs (dagster-daemon run)."


def end_text(run: RunView | None, now: float) -> str:
    if run is None or run.until is None or run.state == "ending":
        return ""
    if run.until <= now:
        return f"{age_text(now - run.until)} overdue"
    return f"{clock_text(run.until, now)}, {age_text(run.until - now)}"


def queue_cells(number: int, run: RunView, now: float) -> dict[str, str]:
    """A queued run's cells under `QUEUE_HEADERS`; empty: unknown."""
    asked = run.asked
    return {
        "": str(number),
        "RUN": short_id(run.run_id),
        "STATE": run.state,
        "WHAT": one_line(run.name),
        "ASKS FOR": demand_in_short(asked.demand) if asked else "",
        "QUEUE": asked.queue if asked else "",
        "PRIORITY": str(asked.priority if asked else 0),
        "WAITED": age_text(now - run.submitted) if run.submitted is not None else "",
        "AT LATEST": clock_text(run.latest, now) if run.latest is not None else "",
        "WHY": one_line(run.why),
    }


def more_text(view: QueueView, limit: int) -> str:
    return f"… and {len(view.queued) - limit:,} more: headrace queue --limit {len(view.queued)}"


def plain_lines(view: QueueView, *, limit: int) -> list[str]:
    """The whole queue for a pipe."""
    lines = [headline(view)]
    gpus = []
    for node in view.nodes:
        for device in node.devices:
            gpu = device.gpu
            fact = [node.node.name, gpu.device, gpu.model or "?", f"{gpu.memory_mib:,}", device.health]
            kept = f"kept for {short_id(device.reserved_for)}" if device.reserved_for else "-"
            loaded = one_line(", ".join(device.models)) or "-"
            holders = [
                [*fact, share_text(milli), short_id(run_id), *_held(view.run(run_id), view.at), loaded]
                for run_id, milli in device.shares
            ]
            gpus += holders or [[*fact, "0", "-", kept, "-", loaded]]
    if gpus:
        headers = ["NODE", "GPU", "MODEL", "MIB", "HEALTH", "SHARE", "RUN", "WHAT", "UNTIL", "LOADED"]
        lines += ["", *aligned([headers, *gpus], right=[3, 5])]
    rows = [
        [cell or "-" for cell in queue_cells(number, run, view.at).values()]
        for number, run in enumerate(view.queued[:limit], 1)
    ]
    lines += ["", *(aligned([QUEUE_HEADERS, *rows], right=[0, 6, 7, 8]) if rows else ["Nothing is queued."])]
    if len(view.queued) > limit:
        lines.append(more_text(view, limit))
    return lines


def _held(run: RunView | None, now: float) -> list[str]:
    what = " ".join(filter(None, [one_line(run.name), run.state if run.state != "running" else ""])) if run else ""
    return [what or "-", end_text(run, now) or "-"]


def heading(run: RunView) -> str:
    """`Run 6a9f1c07 is held`."""
    return f"Run {short_id(run.run_id)} {_STATES[run.state]}"


def facts(run: RunView, now: float) -> list[tuple[str, str]]:
    """Name and value of each fact in `headrace why`; unknown ones are left out."""
    by_node: dict[str, list[str]] = {}
    for node, device in sorted(run.reserved):
        by_node.setdefault(node, []).append(device)
    latest = (
        (until_text(run.latest, now) if run.latest is not None else "nobody can say") if run.state == "held" else ""
    )
    end = until_text(run.until, now) if run.until is not None and run.state != "ending" else ""
    found = [
        ("run", run.run_id),
        ("what", run.name),
        ("asks for", demand_text(run.asked.demand) if run.asked else ""),
        ("queue", f"{run.asked.queue}, priority {run.asked.priority}" if run.asked else ""),
        ("stage", run.asked.stage if run.asked else ""),
        ("queued", since_text(run.submitted, now) if run.submitted is not None else ""),
        ("kept for it", "; ".join(f"{node}: {devices_text(devices)}" for node, devices in by_node.items())),
        ("at the latest", latest),
        ("where", placement_text(run.placement) if run.placement else ""),
        ("since", since_text(run.since, now) if run.since is not None else ""),
        ("until", since_text(run.ended, now) if run.ended is not None else end),
        ("Dagster's status", run.run.status.value if run.run else ""),
    ]
    return [(name, value) for name, value in found if value]


def waits_for_rows(others: Sequence[RunView], now: float) -> list[list[str]]:
    return [
        [
            short_id(other.run_id),
            other.name or "-",
            (placement_text(other.placement) if other.placement else "") or "-",
            until_text(other.until, now) if other.until is not None else "nobody can say",
        ]
        for other in others
    ]
