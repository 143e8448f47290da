"""`headrace inbox status`: a line for each campaign that takes events, and for each service with batches or calls."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.command_line.options import AsJson, Store, examples
from headrace.errors import InvalidInput
from headrace.text.terminal import say

if TYPE_CHECKING:
    from headrace.command_line.bodies.inboxes import StreamStatus


@examples("headrace inbox status", "headrace inbox status orders --json | jq '.inboxes[].backlog_seconds'")
def status(
    context: typer.Context,
    campaign: Annotated[
        str | None, typer.Argument(metavar="CAMPAIGN", help="Only this one.", show_default=False)
    ] = None,
    store: Store = None,
    inbox_log: Annotated[
        Path | None,
        typer.Option(
            "--inbox-log",
            envvar="HEADRACE_INBOX_LOG",
            metavar="DIR",
            help="A gateway's, on its machine: also how far streams are read.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how many windows are sealed, made and waiting, what came late, and how long what waits will take.

    Beside them, the batches of services that have not ended, and the hours of services that record their calls, unless
    one campaign is asked for, and the streams of a gateway's log.

    Exit 1: a campaign's chain of windows is damaged, or a batch, or an hour of calls.
    """
    from headrace.clock import SystemClock
    from headrace.command_line.bodies.inboxes import InboxesBody
    from headrace.command_line.inbox.campaigns import keep_late_of_project, zone_of_project
    from headrace.command_line.opening import nearest, open_handoffs
    from headrace.command_line.output import age_text, print_json, print_lines, print_table
    from headrace.generation.inbox_status import inbox_statuses
    from headrace.inbox.batches.status import batches_statuses
    from headrace.voice.hours_status import calls_statuses

    now = SystemClock().now()
    handoffs = open_handoffs(context, store)
    keep_late = keep_late_of_project()
    found = inbox_statuses(handoffs, now, keep_late=keep_late)
    batches = batches_statuses(handoffs.objects, now) if campaign is None else ()
    calls = calls_statuses(handoffs.objects, zone_of_project(), now) if campaign is None else ()
    if campaign is not None:
        known = [one.campaign for one in found]
        found = tuple(one for one in found if one.campaign == campaign)
        if not found:
            raise InvalidInput(f"No campaign {campaign!r} takes events here.{nearest(campaign, known)}")
    streams = _streams(inbox_log, campaign) if inbox_log is not None else ()
    if as_json:
        print_json(InboxesBody(inboxes=found, batches=batches, streams=streams, calls=calls))
    elif not (found or batches or calls):
        say(
            f"No campaign takes events: none of the project has an inbox, and {handoffs.objects.uri('inbox')} is empty."
        )
    elif found:
        rows = [
            [
                one.campaign,
                f"{one.num_windows:,}",
                f"{one.num_windows_made:,}",
                f"{one.num_waiting:,}",
                f"{one.num_events_waiting:,}",
                "-" if one.backlog_seconds is None else age_text(one.backlog_seconds),
                f"{one.num_late_parts_made:,} of {one.num_late_parts:,}"
                + (f", {one.num_late_parts_kept:,} kept" if one.num_late_parts_kept else ""),
                "none"
                if one.newest is None
                else f"{one.newest.partition}, {age_text(one.newest.seconds_since_end)} ago",
            ]
            for one in found
        ]
        headers = ["CAMPAIGN", "SEALED", "MADE", "WAITING", "EVENTS", "BACKLOG", "LATE MADE", "NEWEST"]
        print_table(headers, rows, right=headers[1:6], marked="bold")
        print_lines([f"{one.campaign}: {one.problem}" for one in found if one.problem])
    if batches and not as_json:
        rows = [
            [
                one.service,
                f"{one.num_open:,}",
                f"{one.num_lines:,}",
                f"{one.num_lines_waiting:,}",
                "-" if one.oldest_seconds is None else age_text(one.oldest_seconds),
            ]
            for one in batches
        ]
        headers = ["SERVICE", "BATCHES", "LINES", "WAITING", "OLDEST"]
        print_table(headers, rows, right=headers[1:], marked="bold")
        print_lines([f"{one.service}: {one.problem}" for one in batches if one.problem])
    if streams and not as_json:
        rows = [
            [one.campaign, one.stream, f"{one.sequence:,}", one.written_at or "-", f"{one.num_refused:,}"]
            for one in streams
        ]
        print_table(
            ["CAMPAIGN", "STREAM", "READ", "WRITTEN", "REFUSED"], rows, right=["READ", "REFUSED"], marked="bold"
        )
        print_lines([f"{one.campaign}: {one.note}" for one in streams if one.note])
    if calls and not as_json:
        rows = [
            [
                one.service,
                f"{one.num_hours:,}",
                f"{one.num_late_parts:,}",
                f"{one.num_unmade:,}",
                f"{one.num_calls_waiting:,}",
                "-" if one.oldest_waiting_seconds is None else age_text(max(one.oldest_waiting_seconds, 0.0)),
                "none" if one.newest is None else f"{one.newest}, {age_text(one.lag_seconds or 0.0)} ago",
            ]
            for one in calls
        ]
        headers = ["SERVICE", "HOURS", "LATE", "NOT MADE", "CALLS WAITING", "OLDEST", "NEWEST"]
        print_table(headers, rows, right=headers[1:6], marked="bold")
        print_lines([f"{one.service}: {one.problem}" for one in calls if one.problem])
    if any(one.problem for one in (*found, *batches, *calls)):
        raise typer.Exit(1)


def _streams(inbox_log: Path, campaign: str | None) -> "tuple[StreamStatus, ...]":
    from headrace.clock import iso
    from headrace.command_line.bodies.inboxes import StreamStatus
    from headrace.inbox.streams import StreamTables

    tables = StreamTables(inbox_log)
    found = tuple(
        StreamStatus(
            campaign=one.campaign,
            stream=one.stream,
            sequence=one.sequence,
            written_at=iso(one.written_at / 1_000_000_000) if one.written_at else None,
            num_refused=tables.num_refused(one.campaign),
            note=one.note or None,
        )
        for one in tables.positions()
        if campaign in (None, one.campaign)
    )
    tables.close()
    return found
