"""`headrace inbox results`: what became of each event, a line of JSON each."""

from typing import Annotated

import typer

from headrace.command_line.options import Store, examples
from headrace.errors import HandoffMissing


@examples(
    "headrace inbox results --campaign orders > results.jsonl",
    "headrace inbox results --campaign orders --event 4711 | jq '.rows[].output'",
    "headrace inbox results --campaign orders | jq 'select(.state == \"refused\") | [.event, .reason]'",
)
def results(
    context: typer.Context,
    campaign: Annotated[str, typer.Option("--campaign", metavar="CAMPAIGN", help="Whose events.")],
    event: Annotated[
        str | None, typer.Option("--event", metavar="ID", help="Only events with this id, one of each source.")
    ] = None,
    store: Store = None,
) -> None:
    """Print a line of JSON for each event of sealed windows: made, refused, kept or waiting, and its rows.

    `headrace schema inbox-results` describes a line. Events that no window has yet are not among them.
    """
    from headrace.command_line.inbox.campaigns import keep_late_of_project
    from headrace.command_line.opening import nearest, open_handoffs
    from headrace.command_line.output import print_json
    from headrace.generation.inbox_status import campaigns_with_windows
    from headrace.inbox.results import event_results

    handoffs = open_handoffs(context, store)
    if campaign not in (known := campaigns_with_windows(handoffs.objects)):
        raise HandoffMissing(f"No window of a campaign {campaign!r} is sealed in this store.{nearest(campaign, known)}")
    num_found, keeps_late = 0, keep_late_of_project().get(campaign, False)
    for one in event_results(handoffs, campaign, event=event, keeps_late=keeps_late):
        print_json(one, indent=None)
        num_found += 1
    if event is not None and not num_found:
        raise HandoffMissing(
            f"No event {event!r} is in a sealed window of campaign {campaign!r}: its id is another, or its window is "
            "not sealed yet."
        )
