"""`headrace inbox undelivered` and `headrace inbox redeliver`: results that a webhook did not take."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.command_line.options import AsJson, examples
from headrace.text.terminal import say

InboxLog = Annotated[
    Path,
    typer.Option("--inbox-log", envvar="HEADRACE_INBOX_LOG", metavar="DIR", help="The gateway's, on its machine."),
]
OfCampaign = Annotated[str | None, typer.Option("--campaign", metavar="CAMPAIGN", help="Only this one's.")]


@examples(
    "headrace inbox undelivered --inbox-log /var/lib/headrace/inbox",
    "headrace inbox undelivered --inbox-log /var/lib/headrace/inbox --json | jq '.results[].reason'",
)
def undelivered(inbox_log: InboxLog, campaign: OfCampaign = None, as_json: AsJson = False) -> None:
    """List results that a webhook refused, or did not take for days, so that nobody sends them any more.

    Run it on the gateway's machine, whether the gateway runs or not. `headrace inbox redeliver` sends them again.
    """
    from headrace.clock import iso
    from headrace.command_line.bodies.inboxes import UndeliveredBody, UndeliveredResult
    from headrace.command_line.output import print_json, print_table
    from headrace.inbox.delivery_tables import DeliveryTables

    found = [
        UndeliveredResult(
            campaign=one.campaign,
            event=one.event,
            source=one.source,
            position=str(one.position),
            num_attempts=one.num_attempts,
            first_attempt_at=iso(one.first_at),
            reason=one.reason,
        )
        for one in DeliveryTables(inbox_log, is_made=False).given_up(campaign)
    ]
    if as_json:
        print_json(UndeliveredBody(results=tuple(found)))
    elif not found:
        say("Nothing is undelivered: what is not delivered yet is tried again by the gateway.")
    else:
        headers = ["CAMPAIGN", "EVENT", "SOURCE", "POSITION", "ATTEMPTS", "FIRST", "REASON"]
        rows = [
            [
                *(one.campaign, one.event, one.source, one.position),
                str(one.num_attempts),
                one.first_attempt_at,
                one.reason,
            ]
            for one in found
        ]
        print_table(headers, rows, right=["ATTEMPTS"], marked="bold")


@examples(
    "headrace inbox redeliver --inbox-log /var/lib/headrace/inbox --campaign orders",
    "headrace inbox redeliver --inbox-log /var/lib/headrace/inbox --campaign orders --event 4711",
)
def redeliver(
    inbox_log: InboxLog,
    campaign: OfCampaign = None,
    event: Annotated[
        str | None, typer.Option("--event", metavar="ID", help="Only the results of events with this id.")
    ] = None,
) -> None:
    """Have undelivered results sent again, under the ids that they had, by the gateway: within a second if it runs."""
    from headrace.clock import SystemClock
    from headrace.errors import HandoffMissing
    from headrace.inbox.delivery_tables import DeliveryTables

    tables = DeliveryTables(inbox_log, is_made=False)
    num = tables.take_up_again(SystemClock().now(), campaign=campaign, event=event)
    if not num and (campaign is not None or event is not None):
        raise HandoffMissing("No result of these is undelivered: `headrace inbox undelivered` lists those that are.")
    say("1 result is sent again." if num == 1 else f"{num:,} results are sent again.")
