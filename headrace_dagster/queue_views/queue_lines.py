"""What `headrace queue` says in lines: the headline, short facts of a run, and all of it for a pipe.

A pipe gets one whole line for each GPU and holder, so that it can be searched.
"""

import math

from headrace.command_line.output import age_text, aligned, counted
from headrace.placement.demand import WHOLE
from headrace.text.visible import one_line
from headrace_dagster.queue_views.queue_view import QueueView, RunView
from headrace_dagster.queue_views.queue_words import clock_text, demand_in_short, share_text, short_id


def headline(view: QueueView) -> str:
    """`12 GPUs on 3 nodes: 8.5 held, 2.5 free, 1 sick · 4 runs queued · 14:05 UTC`."""
    devices = [device for node in view.nodes for device in node.devices]
    milli_held = sum(min(WHOLE, milli) for device in devices for _, milli in device.shares if device.health != "gone")
    figures = [
        f"{share_text(milli_held)} in use",
        f"{share_text(sum(device.free_milli for device in devices))} free",
        *(
            f"{count} {health}"
            for health in ("sick", "gone")
            if (count := sum(device.health == health for device in devices))
        ),
    ]
    there = [device for device in devices if device.health != "gone"]
    fleet = f"{counted(len(there), 'GPU')} on {counted(len(view.nodes), 'node')}: {', '.join(figures)}"
    return f"{fleet} · {counted(len(view.queued), 'run')} queued · {clock_text(view.at, view.at)} UTC"


def daemon_note(view: QueueView) -> str | None:
    if view.daemon_silent_seconds is None:
        return None
    never = math.isinf(view.daemon_silent_seconds)
    silence = "has never looked" if never else f"has not looked for {age_text(view.daemon_silent_seconds)}"
    return f"Dagster's daemon {silence} at this queue: nothing starts until it runs (dagster-daemon run)."


def asks_text(run: RunView) -> str:
    return demand_in_short(run.demand) if run.demand else ""


def waited_text(run: RunView, now: float) -> str:
    return age_text(now - run.submitted) if run.submitted is not None else ""


def latest_text(run: RunView, now: float) -> str:
    return clock_text(run.latest, now) if run.latest is not None else ""


def end_text(run: RunView | None, now: float) -> str:
    if run is None or run.until is None or run.state == "ending":
        return ""
    if run.until <= now:
        return f"{age_text(now - run.until)} overdue"
    return f"{clock_text(run.until, now)}, {age_text(run.until - now)}"


def more_text(view: QueueView, limit: int) -> str:
    return f"… and {len(view.queued) - limit:,} more: headrace queue --limit {len(view.queued)}"


def plain_lines(view: QueueView, *, limit: int) -> list[str]:
    """For a pipe."""
    lines = [headline(view)]
    gpus = []
    for node in view.nodes:
        for device in node.devices:
            fact = [node.name, device.device, device.model or "?", f"{device.memory_mib:,}", device.health]
            kept = f"kept for {short_id(device.reserved_for)}" if device.reserved_for else ""
            holders = [
                [*fact, share_text(milli), short_id(run_id), *_held(view.run(run_id), view.at)]
                for run_id, milli in device.shares
            ]
            gpus += holders or [[*fact, "0", "-", kept or "-", "-"]]
    if gpus:
        lines += [
            "",
            *aligned([["NODE", "GPU", "MODEL", "MIB", "HEALTH", "SHARE", "RUN", "WHAT", "UNTIL"], *gpus], right=[3, 5]),
        ]
    rows = [
        [
            str(number),
            short_id(run.run_id),
            run.state,
            one_line(run.name) or "-",
            asks_text(run) or "-",
            run.queue or "-",
            str(run.priority or 0),
            waited_text(run, view.at) or "-",
            latest_text(run, view.at) or "-",
            one_line(run.why),
        ]
        for number, run in enumerate(view.queued[:limit], 1)
    ]
    if rows:
        headers = ["", "RUN", "STATE", "WHAT", "ASKS FOR", "QUEUE", "PRIORITY", "WAITED", "AT LATEST", "WHY"]
        lines += ["", *aligned([headers, *rows], right=[0, 6, 7, 8])]
    else:
        lines += ["", "Nothing is queued."]
    if len(view.queued) > limit:
        lines.append(more_text(view, limit))
    return lines


def _held(run: RunView | None, now: float) -> list[str]:
    what = " ".join(filter(None, [one_line(run.name), run.state if run.state != "running" else ""])) if run else ""
    return [what or "-", end_text(run, now) or "-"]
