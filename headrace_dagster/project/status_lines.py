"""What `headrace status` shows people: a table of days, what should be made again, the runs, and what failed."""

from headrace.clock import epoch_seconds
from headrace.command_line.bodies.project_status import RunStanding, StatusBody
from headrace.command_line.output import age_text, counted, print_heading, print_lines, print_table
from headrace.generation.day_status import DayStatus
from headrace.text.terminal import say
from headrace.text.visible import one_line
from headrace_dagster.project.status import FAILED_HOURS
from headrace_dagster.queue_views.queue_words import short_id

_NUM_SHOWN = 20


def print_status(found: StatusBody, *, campaign: str | None = None) -> None:
    """Args: campaign: whose status it is; None: the whole project's."""
    _print_days(found, campaign)
    if found.rollouts:
        print_heading("Rollouts")
        print_lines([f"{name}: {standing}" for name, standing in found.rollouts.items()])
    if not found.knows_runs:
        say()
        say("DAGSTER_HOME is not set, so runs are unknown: set it to the directory of your instance's dagster.yaml.")
        return
    _print_runs(found)
    _print_failed(found)


def _print_days(found: StatusBody, campaign: str | None) -> None:
    if not found.days and campaign is not None:
        say(f"{campaign} has no prompts yet: headrace run {campaign} makes its rows.")
        return
    if not found.days:
        say("No campaign has prompts yet: headrace init writes one, headrace run makes its rows.")
        return
    print_table(
        ["CAMPAIGN", "DAY", "PROMPTS", "GENERATED", "REVIEWED", "ROWS", "KEPT", "VERSION SETS"],
        [_row(day) for day in found.days],
        right=["ROWS", "KEPT"],
    )
    if stale := [(day, one) for day in found.days for one in day.stale]:
        print_heading("Made, and not current any more")
        lines = [
            f"{day.campaign} {day.day}, {one.stage}: {counted(one.num_partitions, 'partition')} {one.sentence}. "
            f"Run: {one.run}"
            for day, one in stale
        ]
        print_lines(lines)


def _row(day: DayStatus) -> list[str]:
    kept = f"{day.num_kept / day.num_rows:.0%}" if day.num_rows and day.num_reviewed_content else ""
    counts = {"damaged": day.num_damaged, "left behind by a lower num_shards": day.num_left_behind}
    return [
        day.campaign,
        day.day,
        *(f"{made}/{day.num_partitions}" for made in day.made),
        f"{day.num_rows:,}",
        kept,
        "; ".join([*day.version_sets.values(), *(f"{num} {what}" for what, num in counts.items() if num)]),
    ]


def _print_runs(found: StatusBody) -> None:
    print_heading(f"{counted(found.num_running, 'run')} under way, {found.num_waiting:,} waiting")
    if found.num_waiting and found.daemon_silent_seconds is not None:
        silent = found.daemon_silent_seconds
        seen = "has ever looked" if silent < 0 else f"has looked for {age_text(silent)}"
        say(f"No daemon {seen} at the queue, and nothing starts without one: headrace run CAMPAIGN, or make dev.")
    print_lines([_run_line(run) for run in [*found.running, *found.waiting][:_NUM_SHOWN]])


def _run_line(run: RunStanding) -> str:
    return f"{short_id(run.run_id)}  {run.name}: {run.state}. {run.why}"


def _print_failed(found: StatusBody) -> None:
    if not found.failed:
        return
    print_heading(f"{counted(len(found.failed), 'run')} failed in the last {FAILED_HOURS} hours")
    at = epoch_seconds(found.at)
    for run in found.failed[:_NUM_SHOWN]:
        ago = age_text(at - epoch_seconds(run.ended))
        print_lines([f"{short_id(run.run_id)}  {run.name}, {ago} ago: {one_line(run.reason)}"])
    if commands := dict.fromkeys(run.run for run in found.failed if run.run):
        say("Mend what the reason says, then make the partitions again:")
        print_lines([f"  {command}" for command in commands])
    if any(run.run is None for run in found.failed):
        say("Mend what the reason says, then launch the run again in the UI.")
