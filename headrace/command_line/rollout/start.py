"""`headrace rollout start`: proposes a set, or gives a prepared one its first units."""

from typing import Annotated

import typer

from headrace.command_line.options import AsJson, Store, examples
from headrace.command_line.rollout.arguments import By, Name, PlanFile, Reason, Weight
from headrace.errors import InvalidInput


@examples(
    "headrace rollout start glossary --set 3fa1c2 -m 'shorter prompt'",
    "headrace rollout start glossary --set glossary:previous -m 'back to last week'",
    "headrace rollout start glossary --set 3fa1c2 --weight 10%     it is prepared: its first units",
)
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
    first step. To start it by hand, repeat this command with --weight or --plan.
    """
    from headrace.command_line.rollout.changing import NO_REASON, named, num_rows_of, plan_of, report
    from headrace.command_line.rollout.opening import find_set, open_rollout
    from headrace.rollout import interventions
    from headrace.rollout.preparation import preparations
    from headrace.version_sets.sets import VersionSets

    opened = open_rollout(context, store, name)
    agreed = plan_of(plan, opened)
    wanted = VersionSets(opened.objects).get(find_set(opened.objects, version_set))
    seen = interventions.present_state(opened.journal)
    said = {"by": named(by), "reason": reason or NO_REASON, "seen": seen}
    if seen.proposed != wanted.id:
        report(opened, interventions.propose(opened.journal, wanted, **said), as_json=as_json, plan=agreed)
        return
    if agreed is None:
        raise InvalidInput(
            f"Set {wanted.id[:12]} is proposed already; to give it units, pass --plan FILE: it says how many nodes "
            "must have prepared the set, and what its first step gives it (or --weight W)."
        )
    weight = agreed.steps[0].weight if weight is None else weight
    entry = interventions.start(
        opened.journal,
        wanted,
        preparations(opened.objects, name, seen.proposal),
        weight=weight,
        cap=agreed.step_at(weight).cap,
        quorum=agreed.quorum,
        num_rows=num_rows_of(opened, plan, seen) or 0,
        **said,
    )
    report(opened, entry, as_json=as_json, plan=agreed)
