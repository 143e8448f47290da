"""`headrace rollout advance`: the next step, a weight, or all units."""

from typing import Annotated

import typer

from headrace.command_line.options import AsJson, Store, examples
from headrace.command_line.rollout.arguments import By, Name, PlanFile, Reason, Weight, Yes
from headrace.errors import InvalidInput


@examples(
    "headrace rollout advance glossary --plan resources/campaigns/glossary.yaml    the plan's next step",
    "headrace rollout advance glossary --weight 25% -m 'half of it for the weekend'",
    "headrace rollout advance glossary --promote --yes",
)
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
    from headrace.command_line.rollout.changing import NO_REASON, ask, label_of, named, num_rows_of, plan_of, report
    from headrace.command_line.rollout.opening import open_rollout
    from headrace.rollout import interventions
    from headrace.rollout.status import percent

    if promote and weight is not None:
        raise InvalidInput("--promote gives the candidate every unit, so --weight has no meaning beside it: drop one.")
    opened = open_rollout(context, store, name)
    agreed = plan_of(plan, opened)
    seen = interventions.present_state(opened.journal)
    said = {"by": named(by), "reason": reason or NO_REASON, "plan": agreed, "seen": seen}
    if promote:
        if seen.candidate is not None:
            ask(f"Promote {label_of(opened, seen.candidate)}? It has {percent(seen.weight)} now.", yes=yes)
        entry = interventions.promote(opened.journal, **said)
    else:
        num_rows = num_rows_of(opened, plan, seen)
        entry = interventions.advance(opened.journal, weight=weight, num_rows=num_rows, **said)
    report(opened, entry, as_json=as_json, plan=agreed)
