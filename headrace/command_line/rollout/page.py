"""`headrace rollout page`: a rollout as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.command_line.options import Store, examples
from headrace.command_line.rollout.arguments import Name, PlanFile
from headrace.text.terminal import say


@examples(
    "headrace rollout page glossary -o glossary.html --plan resources/campaigns/glossary.yaml",
)
def page(
    context: typer.Context,
    name: Name,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: rollout-NAME.html.")
    ] = None,
    plan: PlanFile = None,
    store: Store = None,
) -> None:
    """Write the rollout as one HTML page: weights over time, evidence, pictures side by side, changes, journal."""
    from headrace.command_line.opening import open_handoffs
    from headrace.command_line.rollout.opening import open_rollout
    from headrace.command_line.rollout.screens import read_one
    from headrace.generation.mirror_pairs import trial_pairs
    from headrace.generation.report import write_report
    from headrace.rollout.page import render_page

    status = read_one(open_rollout(context, store, name), plan_file=plan, with_rows=True)
    file = output or Path(f"rollout-{name}.html")
    write_report(render_page(status, trial_pairs(open_handoffs(context, store), name, status.trial)), file)
    say(str(file))
