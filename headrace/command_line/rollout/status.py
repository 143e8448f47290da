"""`headrace rollout status`: one rollout in full, or a line for each."""

from typing import Annotated

import typer

from headrace.command_line.options import AsJson, Store, examples
from headrace.command_line.rollout.arguments import PlanFile
from headrace.errors import InvalidInput
from headrace.text.terminal import say


@examples(
    "headrace rollout status                               a line for each",
    "headrace rollout status glossary --plan resources/campaigns/glossary.yaml    with the gate's verdict",
    "headrace rollout status glossary --mlflow sqlite:///mlflow.db                with drift of its aliases",
)
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
    from headrace.command_line.bodies.rollouts import RolloutBody, RolloutsBody
    from headrace.command_line.opening import open_objects
    from headrace.command_line.output import print_json, print_lines
    from headrace.command_line.rollout.opening import rollout_in
    from headrace.command_line.rollout.screens import DAMAGE, print_status, print_statuses, read_one
    from headrace.rollout.layout import rollout_names

    if name is None and plan is not None:
        raise InvalidInput("--plan is one rollout's file: name the rollout too.")
    objects = open_objects(context, store)
    if name is not None:
        status = read_one(rollout_in(objects, name), plan_file=plan, mlflow=mlflow)
        if as_json:
            print_json(RolloutsBody(rollouts=(RolloutBody.of(status),), unreadable={}))
        else:
            print_status(status)
        return
    statuses, unreadable = [], {}
    for one in rollout_names(objects):
        try:
            statuses.append(read_one(rollout_in(objects, one), mlflow=mlflow))
        except DAMAGE as error:
            unreadable[one] = str(error)
    if as_json:
        print_json(RolloutsBody(rollouts=tuple(map(RolloutBody.of, statuses)), unreadable=unreadable))
    elif not statuses and not unreadable:
        say(f"There is no rollout in {objects.uri('rollout')} yet.")
    else:
        print_statuses(statuses)
        print_lines([f"{one} cannot be read: {error}" for one, error in unreadable.items()])
    if unreadable:
        raise typer.Exit(1)
