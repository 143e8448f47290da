"""`headrace`: shows, checks, compares and exports sealed handoffs, collects garbage, examines a machine, and shows and
steers rollouts.

Installed packages add further commands (`headrace.command_line.plugged_in`): the Dagster adapters add those for the run
queue.

Exit codes: 0 success; 1 the examined object is damaged, differs or fails; 2 the question or its surroundings are wrong,
in one sentence on stderr; 130 interrupted. Commands import Arrow and polars only when they need them, so help is
instant.
"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from headrace.command_line import loaded_models, models
from headrace.command_line.check import check
from headrace.command_line.collection import gc
from headrace.command_line.doctor import doctor
from headrace.command_line.dropped import dropped
from headrace.command_line.erase import erase
from headrace.command_line.export import export as export_rows
from headrace.command_line.handoff import diff, export, ls, show, verify
from headrace.command_line.inbox import refused as inbox_refused
from headrace.command_line.inbox import results as inbox_results
from headrace.command_line.inbox import status as inbox_status
from headrace.command_line.inbox import undelivered as inbox_undelivered
from headrace.command_line.init import init
from headrace.command_line.labels import export as labels_export
from headrace.command_line.labels import importing as labels_import
from headrace.command_line.opening import CACHE_VARIABLE, HOME_VARIABLE, STORE_HELP, STORE_VARIABLE, Surroundings
from headrace.command_line.options import add_command, group_of
from headrace.command_line.plugged_in import plugged_in_commands
from headrace.command_line.preview import preview
from headrace.command_line.project import in_this_project
from headrace.command_line.rollout import abort, advance, hold, journal, page, rows, start, status, tick
from headrace.command_line.rollout import verify as rollout_verify
from headrace.command_line.schema import schema
from headrace.command_line.tracing import trace
from headrace.command_line.versions import diff as versions_diff
from headrace.command_line.versions import ls as versions_ls
from headrace.command_line.versions import show as versions_show
from headrace.errors import HeadraceError
from headrace.text.terminal import say


class _Commands(TyperGroup):
    """Prints Headrace's refusals as one sentence; only unforeseen errors show a traceback.

    Looks for other packages' commands only when needed, so Headrace's own commands do not wait for them.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        self._plug_in()
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            self._plug_in()
        return super().get_command(ctx, cmd_name)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            # Before the options look at the environment.
            with in_this_project():
                return super().main(*args, **kwargs)
        except HeadraceError as error:
            say(f"Error: {error}", error=True)
            raise SystemExit(2) from error

    def _plug_in(self) -> None:
        for name, command in plugged_in_commands().items():
            self.commands.setdefault(name, command)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HeadraceError as error:
            # Indented, so that a line of foreign text cannot pass for one of ours.
            say("Error: " + str(error).replace("\n", "\n  "), error=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    name="headrace",
    cls=_Commands,
    help="From your prompts to reviewed rows: write a campaign (init), look at its first rows (preview), make them "
    "(run), see where they are and come from (status, trace), take them away (export). And what they stand on: files "
    "(check), handoffs, rollouts, models, the run queue.",
    epilog="Every command has examples: headrace handoff show --help",
    no_args_is_help=True,
    # Boxes and colours do not suit pipes.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(
    group_of(
        "Look at sealed handoffs: list, show, verify, compare, export.",
        *(ls.ls, show.show, verify.verify, diff.diff, export.export, gc),
    ),
    name="handoff",
)
app.add_typer(
    group_of(
        "Staged rollouts of version sets: where they stand, why, and what a person may do.",
        *(status.status, start.start, tick.tick, advance.advance, hold.pause, hold.resume, hold.approve, abort.abort),
        *(journal.journal, rollout_verify.verify, rows.rows, page.page),
    ),
    name="rollout",
)
app.add_typer(
    group_of(
        "Campaigns that take events: how far their windows are, and what became of each event.",
        *(inbox_status.status, inbox_results.results, inbox_refused.refused),
        *(inbox_undelivered.undelivered, inbox_undelivered.redeliver),
    ),
    name="inbox",
)
app.add_typer(
    group_of(
        "Labels by people: documents go to Label Studio or Argilla, and what they chose comes back.",
        *(labels_export.export, labels_import.import_),
    ),
    name="labels",
)
app.add_typer(
    group_of(
        "Registered models: which versions there are, where their files lie, a copy of them, what they share, and "
        "which are in memory.",
        *(models.ls, models.show, models.export, models.index, loaded_models.loaded),
    ),
    name="model",
)
app.add_typer(
    group_of(
        "Version sets: the exact models and settings that a unit of work sees.",
        *(versions_ls.ls, versions_show.show, versions_diff.diff),
    ),
    name="versions",
)
add_command(app, init)
add_command(app, preview)
add_command(app, trace)
add_command(app, export_rows)
add_command(app, dropped)
add_command(app, erase)
add_command(app, gc)
add_command(app, doctor)
add_command(app, check)
add_command(app, schema)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"headrace {version('headrace')}")
        raise typer.Exit


@app.callback()
def surroundings(
    context: typer.Context,
    store: Annotated[str | None, typer.Option(envvar=STORE_VARIABLE, metavar="URL", help=STORE_HELP)] = None,
    home: Annotated[str | None, typer.Option(envvar=HOME_VARIABLE, hidden=True)] = None,
    cache: Annotated[str | None, typer.Option(envvar=CACHE_VARIABLE, hidden=True)] = None,
    dagster_home: Annotated[str | None, typer.Option(envvar="DAGSTER_HOME", hidden=True)] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    context.obj = Surroundings(store=store, home=home, cache=cache, dagster_home=dagster_home)


if __name__ == "__main__":
    app(prog_name="headrace")
