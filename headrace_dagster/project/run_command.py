"""`headrace run`: one campaign's day, from prompts to reviewed rows, through the entry point `headrace.commands`.

Imports only typer, since listing help must not wait for Dagster.
"""

from typing import Annotated

import typer

from headrace.command_line.options import AsJson

_EXAMPLES = """\b
Examples:
  headrace run taglines                                 today's rows, reviewed
  headrace run taglines --day 2026-11-22                another day's
  headrace run taglines --dry-run                       what is made already, and what would run
  headrace run taglines --again                         made rows too, on the version set that the file asks for now"""

run = typer.Typer(add_completion=False, rich_markup_mode=None)


@run.command(epilog=_EXAMPLES)
def run_command(
    context: typer.Context,
    campaign: Annotated[
        str, typer.Argument(metavar="CAMPAIGN", help="A campaign's name in this project, or its file.")
    ],
    day: Annotated[str | None, typer.Option(metavar="DAY", help="The day; default: today.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Make sealed rows again, on the present version set.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run; start nothing.")] = False,
    port: Annotated[
        int | None, typer.Option(envvar="HEADRACE_PORT", min=1, max=65535, help="Port of the UI, if none runs yet.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a campaign's rows of one day in Dagster, review them, and report.

    Starts the project's daemon and UI while it runs, or uses those of `make dev`. Interrupted or killed, it goes on
    when it is called again; runs under way go on without it.
    """
    from headrace_dagster.project.running import run_campaign

    run_campaign(context, campaign, day=day, again=again, dry_run=dry_run, port=port, as_json=as_json)
