"""`headrace status`: what is made, what runs, what waits and why, what failed, through the entry point
`headrace.commands`. Imports only typer, since listing help must not wait for Dagster.
"""

from typing import Annotated

import typer

from headrace.command_line.opening import open_handoffs, surroundings_of
from headrace.command_line.options import AsJson, Store

_EXAMPLES = """\b
Examples:
  headrace status
  headrace status --days 7
  headrace status --json | jq '.failed[] | {run_id, reason}'"""

status = typer.Typer(add_completion=False, rich_markup_mode=None)


@status.command(epilog=_EXAMPLES)
def status_command(
    context: typer.Context,
    days: Annotated[int, typer.Option("--days", "-n", min=1, max=366, help="Newest days of each campaign.")] = 3,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Show each campaign's days stage by stage, which runs are under way or wait and why, and what failed.

    Reads the store and Dagster's instance at DAGSTER_HOME, and changes nothing; no daemon needs to run.
    """
    from headrace_dagster.project.status import print_project_status, read_project_status
    from headrace_dagster.queue_views.instance_opening import open_instance

    handoffs = open_handoffs(context, store)
    with open_instance(surroundings_of(context).dagster_home) as instance:
        found = read_project_status(instance, handoffs, num_days=days)
    print_project_status(found, as_json=as_json)
