"""`headrace rollout …`: the commands' names, arguments and help. Their code is in `rollout_*.py`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from headrace.command_line import options
from headrace.command_line.options import AsJson, Store
from headrace.errors import InvalidInput

rollout_app = typer.Typer(
    help="Staged rollouts of version sets: where they stand, why, and what a person may do.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _share(text: str) -> float:
    """`0.1` or `10%`."""
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = float("nan")
    if not 0 <= share <= 1:
        raise InvalidInput(f"--weight is a share of the units, such as 0.1 or 10%, got {text!r}.")
    return share


Name = Annotated[str, typer.Argument(metavar="NAME", help="The campaign or service whose rollout it is.")]
SomeName = Annotated[
    str | None, typer.Argument(metavar="NAME", help="One rollout; all of them without.", show_default=False)
]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who does it, for the journal. Default: you.")]
Reason = Annotated[
    str | None, typer.Option("--reason", "-m", metavar="TEXT", help="Why, for the journal.", show_default=False)
]
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", metavar="FILE", help="The campaign's or service's YAML file: its steps, caps and gates."),
]
Weight = Annotated[
    float | None, typer.Option("--weight", metavar="SHARE", parser=_share, help="Share of the units: 0.1 or 10%.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@rollout_app.command("status", epilog=options.STATUS_EXAMPLES)
def status(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One rollout, in full.", show_default=False)
    ] = None,
    plan: PlanFile = None,
    mlflow: Annotated[
        str | None, typer.Option("--mlflow", metavar="URI", help="Also ask MLflow whether its aliases have drifted.")
    ] = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Show which set is stable, which is on trial, at what weight, and why."""
    from headrace.command_line.rollout_views import show_status

    show_status(context, store, name, plan_file=plan, mlflow=mlflow, as_json=as_json)


@rollout_app.command("start", epilog=options.START_EXAMPLES)
def start(
    context: typer.Context,
    name: Name,
    version_set: Annotated[
        str, typer.Option("--set", metavar="SET", help="A kept set: id, its beginning, or NAME:previous.")
    ],
    weight: Weight = None,
    plan: PlanFile = None,
    reason: Reason = None,
    by: By = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Propose a set; once it is prepared, give it its first units.

    A proposal gets no units. Nodes fetch, verify, load and try it; then the rollout sensor starts it at the plan's
    first step, or this command does, given again with --weight or --plan.
    """
    from headrace.command_line.rollout_changes import start_rollout

    start_rollout(
        context, store, name, version_set=version_set, weight=weight, plan_file=plan, by=by, reason=reason,
        as_json=as_json,
    )  # fmt: skip


@rollout_app.command("tick", epilog=options.TICK_EXAMPLES)
def tick(
    context: typer.Context,
    name: Name,
    plan: Annotated[Path, typer.Option("--plan", metavar="FILE", help="The campaign's or service's YAML file.")],
    every: Annotated[
        float | None, typer.Option("--every", metavar="SECONDS", min=1, help="Go on until interrupted.")
    ] = None,
    mlflow: Annotated[
        str | None, typer.Option("--mlflow", metavar="URI", help="Ask MLflow before a new set is tried.")
    ] = None,
    store: Store = None,
) -> None:
    """Take a rollout as far as its evidence allows: what the rollout sensor does under Dagster."""
    from headrace.command_line.rollout_ticking import tick_rollout

    tick_rollout(context, store, name, plan_file=plan, every_seconds=every, mlflow=mlflow)


@rollout_app.command("advance", epilog=options.ADVANCE_EXAMPLES)
def advance(
    context: typer.Context,
    name: Name,
    weight: Weight = None,
    promote: Annotated[bool, typer.Option("--promote", help="Make the candidate stable.")] = False,
    plan: PlanFile = None,
    reason: Reason = None,
    by: By = None,
    yes: Yes = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Move the candidate to the plan's next step now, to a weight, or to every unit; the gate is not asked."""
    from headrace.command_line.rollout_changes import advance_rollout

    advance_rollout(
        context, store, name, weight=weight, promote=promote, plan_file=plan, by=by, reason=reason, yes=yes,
        as_json=as_json,
    )  # fmt: skip


def _by_its_word(word: Literal["pause", "resume", "approve"], help_text: str, examples: str) -> None:
    """Adds a command that appends one entry, named after the person's act (`headrace.rollout.interventions`)."""

    @rollout_app.command(word, help=help_text, epilog=examples)
    def say_it(
        context: typer.Context,
        name: Name,
        reason: Reason = None,
        by: By = None,
        store: Store = None,
        as_json: AsJson = False,
    ) -> None:
        from headrace.command_line.rollout_changes import hold_or_go_on

        hold_or_go_on(context, store, name, word, by=by, reason=reason, as_json=as_json)


_by_its_word(
    "pause", "Keep the candidate at its weight until `resume`; harm still rolls it back.", options.PAUSE_EXAMPLES
)
_by_its_word("resume", "Let a paused candidate go on.", options.RESUME_EXAMPLES)
_by_its_word(
    "approve",
    "Let the candidate leave a step that asks for approval, once its evidence is there.",
    options.APPROVE_EXAMPLES,
)


@rollout_app.command("abort", epilog=options.ABORT_EXAMPLES)
def abort(
    context: typer.Context,
    name: Name,
    reason: Annotated[str, typer.Option("--reason", "-m", metavar="TEXT", help="Why, for the journal.")],
    keep_sessions: Annotated[
        bool, typer.Option("--keep-sessions", help="Sessions on it keep it to the end of their lease.")
    ] = False,
    by: By = None,
    yes: Yes = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Roll the candidate back: no unit starts on it any more, and it is never tried again.

    A set that is only proposed is withdrawn. Needs neither MLflow nor a model.
    """
    from headrace.command_line.rollout_changes import abort_rollout

    abort_rollout(context, store, name, by=by, reason=reason, keep_sessions=keep_sessions, yes=yes, as_json=as_json)


@rollout_app.command("journal", epilog=options.JOURNAL_EXAMPLES)
def journal(context: typer.Context, name: Name, store: Store = None, as_json: AsJson = False) -> None:
    """List every entry: what happened, who did it, why."""
    from headrace.command_line.rollout_views import show_journal

    show_journal(context, store, name, as_json=as_json)


@rollout_app.command("verify", epilog=options.VERIFY_ROLLOUT_EXAMPLES)
def verify(
    context: typer.Context,
    name: SomeName = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Check that no journal was edited, and that every set it names can be read. Exits with 1 if not."""
    from headrace.command_line.rollout_verifying import verify_rollouts

    verify_rollouts(context, store, name, as_json=as_json)


@rollout_app.command("rows", epilog=options.ROWS_EXAMPLES)
def rows(
    context: typer.Context,
    name: Name,
    version_set: Annotated[
        str | None, typer.Argument(metavar="SET", help="One of the sets; all without.", show_default=False)
    ] = None,
    ids: Annotated[bool, typer.Option("--ids", help="Print the id of every row.")] = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Name what rolled-back sets published, and what of it has to be made again. Exits with 1 if anything has."""
    from headrace.command_line.rollout_rows import show_rows

    show_rows(context, store, name, version_set, ids=ids, as_json=as_json)


@rollout_app.command("page", epilog=options.PAGE_EXAMPLES)
def page(
    context: typer.Context,
    name: Name,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: rollout-NAME.html.")
    ] = None,
    plan: PlanFile = None,
    store: Store = None,
) -> None:
    """Write the rollout as one HTML page: weights over time, evidence, changes, journal."""
    from headrace.command_line.rollout_views import write_page

    write_page(context, store, name, plan_file=plan, output=output)
