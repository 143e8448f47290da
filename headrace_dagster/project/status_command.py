"""`headrace status`: what is made, what runs, what waits and why, what failed, through the entry point
`headrace.commands`. Imports only typer, since listing help must not wait for Dagster.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.command_line.opening import open_objects, surroundings_of
from headrace.command_line.options import AsJson, Store

if TYPE_CHECKING:
    from headrace.command_line.bodies.project_status import StatusBody
    from headrace.store.objects import ObjectStore
    from headrace_dagster.project.run_source import RunSource

_EXAMPLES = """\b
Examples:
  headrace status
  headrace status glossary --days 7
  headrace status --json | jq '.failed[] | {run_id, reason}'"""

status = typer.Typer(add_completion=False, rich_markup_mode=None)


@status.command(epilog=_EXAMPLES)
def status_command(
    context: typer.Context,
    campaign: Annotated[
        str | None, typer.Argument(metavar="[CAMPAIGN]", help="A campaign's name, or its file; all of them without.")
    ] = None,
    days: Annotated[int, typer.Option("--days", "-n", min=1, max=366, help="Newest days of each campaign.")] = 3,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Show each campaign's days stage by stage, what is not current any more, which runs are under way or wait and why,
    and what failed.

    Reads the store and the runs of Dagster's instance at DAGSTER_HOME (without it, the store alone), and changes
    nothing; no daemon needs to run. Where one of ours runs (make dev, headrace run), its webserver is asked, which is
    quicker.
    """
    from headrace.command_line.output import print_json
    from headrace.store.opening import open_store
    from headrace_dagster.project.status import read_status, with_runs
    from headrace_dagster.project.status_lines import print_status

    around = surroundings_of(context, store)
    # The project's own store comes with its first run: without one, it is empty.
    objects = (
        open_objects(context, store) if around.store else open_store(around.store_url, cache=around.cache_directory)
    )
    home = around.home_directory
    only = None if campaign is None else _known(campaign, objects)

    def read(source: "RunSource | None") -> "StatusBody":
        return read_status(source, objects, home=home, num_days=days, campaign=only)

    found = with_runs(home, around.dagster_home, read) if around.dagster_home else read(None)
    if as_json:
        print_json(found)
    else:
        print_status(found, campaign=only)


def _known(word: str, objects: "ObjectStore") -> str:
    """The name of a campaign that the store or the project knows.

    Raises: InvalidInput: neither does.
    """
    from headrace.command_line.campaigns import find_campaign
    from headrace.command_line.project import find_project
    from headrace.rollout.layout import rollout_names

    # One whose file is gone still has its days.
    if word in rollout_names(objects):
        return word
    found, _ = find_campaign(word, find_project(Path.cwd(), os.environ))
    return found.name
