"""`headrace queue` and `headrace why`: names, arguments and help, through the entry points `headrace.commands`.

Imports only typer, since listing help must not wait for Dagster.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from headrace.command_line.opening import surroundings_of
from headrace.command_line.options import AsJson
from headrace.errors import InvalidInput

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from dagster import DagsterInstance

_ROWS = 30  # as in `queue_watching.ROWS`, which help must not wait to import
_EVERY_SECONDS = 2.0
_EVERY_SECONDS_MIN = 0.2
_QUEUE_EXAMPLES = """\b
Examples:
  headrace queue
  headrace queue --watch
  headrace queue --watch --every 10 --limit 50
  headrace queue --json | jq '.queued[] | select(.state == "held") | {run_id, why, latest}'"""
_WHY_EXAMPLES = """\b
Examples:
  headrace why 6a9f1c07                                 the beginning of an id is enough
  headrace why 6a9f1c07 --json | jq -r .why"""

queue = typer.Typer(add_completion=False, rich_markup_mode=None)
why = typer.Typer(add_completion=False, rich_markup_mode=None)


@queue.command(epilog=_QUEUE_EXAMPLES)
def queue_command(
    context: typer.Context,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", "--follow", "-f", help="Look again and again, until Ctrl-C.")
    ] = False,
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", help="Seconds between two looks of --watch.")
    ] = _EVERY_SECONDS,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", metavar="N", min=0, help=f"Queued runs to show; {_ROWS}, in JSON all."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which run holds which GPU until when, and why the others wait.

    Reads Dagster's instance at DAGSTER_HOME, and changes nothing there; no daemon needs to run. Until when is what each
    run's own estimate says.
    """
    if every < _EVERY_SECONDS_MIN:
        raise InvalidInput(f"--every must be at least {_EVERY_SECONDS_MIN:g} seconds, got {every:g}.")
    from headrace_dagster.queue_views.queue_watching import show_queue

    with _instance(context) as instance:
        show_queue(instance, every_seconds=every if watch else None, limit=limit, as_json=as_json)


@why.command(epilog=_WHY_EXAMPLES)
def explain_run(
    context: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="A run's id, or the beginning of it.")],
    as_json: AsJson = False,
) -> None:
    """Say why a run waits, for what, and until when at the latest; or where it runs.

    Reads Dagster's instance at DAGSTER_HOME, and changes nothing there; no daemon needs to run.
    """
    from headrace_dagster.queue_views.queue_watching import print_answer

    with _instance(context) as instance:
        print_answer(instance, run_id, as_json=as_json)


def _instance(context: typer.Context) -> "AbstractContextManager[DagsterInstance]":
    """Raises: InvalidInput: there is no instance to read, or not for this user."""
    from headrace_dagster.queue_views.instance_opening import open_instance

    return open_instance(surroundings_of(context).dagster_home)
