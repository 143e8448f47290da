"""`headrace rollout tick`: does what Dagster's sensor does for a rollout, without Dagster."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.command_line.options import Store, examples
from headrace.command_line.rollout.arguments import Name
from headrace.errors import Transient
from headrace.text.terminal import say


@examples(
    "headrace rollout tick assistant --plan resources/services/assistant.yaml",
    "headrace rollout tick glossary --plan resources/campaigns/glossary.yaml --mlflow sqlite:///mlflow.db",
    "headrace rollout tick assistant --plan assistant.yaml --every 10     beside the gateways, without Dagster",
)
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
    import time

    from headrace.clock import SystemClock
    from headrace.command_line.opening import open_objects
    from headrace.command_line.rollout.ticking import tick_once
    from headrace.rollout.controller import Action
    from headrace.rollout.ticking import Rollout
    from headrace.store.small_objects import PassedOver

    objects, waits_for, told = open_objects(context, store), "", set[str]()
    # Kept for all ticks, so that each reads only new journal entries.
    rollout = Rollout(objects, name, SystemClock())
    while True:
        damaged = PassedOver()
        try:
            actions = tick_once(rollout, objects, plan, mlflow, damaged)
        except Transient as error:
            if every is None:
                raise
            actions = [Action(kind="none", reason=str(error))]
        for sentence in damaged.sentences:
            if sentence not in told:
                say(f"{name}: passed over: {sentence}")
        told = set(damaged.sentences)
        for action in actions[:-1]:
            say(f"{name}: {action.kind}: {action.reason}")
        if actions[-1].reason != waits_for:
            say(f"{name}: {actions[-1].reason}")
            waits_for = actions[-1].reason
        if every is None:
            return
        time.sleep(every)
