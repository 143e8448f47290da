"""`headrace inbox refused`: messages of streams that are no events."""

from headrace.command_line.inbox.undelivered import InboxLog, OfCampaign
from headrace.command_line.options import AsJson, examples
from headrace.text.terminal import say


@examples(
    "headrace inbox refused --inbox-log /var/lib/headrace/inbox",
    "headrace inbox refused --inbox-log /var/lib/headrace/inbox --json | jq '.messages[].reason'",
)
def refused(inbox_log: InboxLog, campaign: OfCampaign = None, as_json: AsJson = False) -> None:
    """List messages of campaigns' streams that were not taken, since they are no events: the newest 10,000 of each.

    Run it on the gateway's machine, whether the gateway runs or not. Their stream delivers them no more.
    """
    from headrace.clock import iso
    from headrace.command_line.bodies.inboxes import RefusedBody, RefusedStreamMessage
    from headrace.command_line.output import print_json, print_table
    from headrace.inbox.streams import StreamTables

    tables = StreamTables(inbox_log)
    same = ("campaign", "stream", "sequence", "subject", "reason")
    found = [
        RefusedStreamMessage(
            **{name: getattr(one, name) for name in same},
            refused_at=iso(one.at / 1_000_000),
            text=None if one.data is None else one.data.decode("utf-8", "replace"),
        )
        for one in tables.refused(campaign)
    ]
    tables.close()
    if as_json:
        print_json(RefusedBody(messages=tuple(found)))
    elif not found:
        say("No message of a stream was refused.")
    else:
        headers = ["CAMPAIGN", "STREAM", "MESSAGE", "SUBJECT", "REFUSED", "REASON"]
        rows = [
            [one.campaign, one.stream, f"{one.sequence:,}", one.subject, one.refused_at, one.reason] for one in found
        ]
        print_table(headers, rows, right=["MESSAGE"], marked="bold")
