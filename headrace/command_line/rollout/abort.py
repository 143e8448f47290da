"""`headrace rollout abort`: back to the stable set, or a proposal withdrawn."""

from typing import Annotated

import typer

from headrace.command_line.options import AsJson, Store, examples
from headrace.command_line.rollout.arguments import By, Name, Yes


@examples(
    "headrace rollout abort glossary --reason 'rude answers, ticket 812'",
    "headrace rollout abort glossary -m 'slow' --keep-sessions --yes",
)
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
    from functools import partial

    from headrace.command_line.rollout.changing import ask, label_of, named, report
    from headrace.command_line.rollout.opening import open_rollout
    from headrace.rollout import interventions
    from headrace.rollout.status import percent
    from headrace.store.small_objects import PassedOver

    opened = open_rollout(context, store, name)
    seen = interventions.present_state(opened.journal)
    target = seen.candidate or seen.proposed
    if target is not None:
        sessions = "sessions on it keep it until their lease ends" if keep_sessions else "sessions on it move"
        what = f"It has {percent(seen.weight)}; {sessions}" if seen.candidate else "It has no units yet"
        ask(f"Abort {label_of(opened, target)}? {what}, and it is never tried again.", yes=yes)
    from headrace.generation.subject import end_under_way
    from headrace.handoff.versions import HandoffStore

    damaged = PassedOver()
    entry = interventions.abort(
        opened.journal,
        by=named(by),
        reason=reason,
        evict=not keep_sessions,
        seen=seen,
        before=partial(end_under_way, HandoffStore(opened.objects), name, damaged=damaged),
    )
    report(opened, entry, as_json=as_json, damaged=damaged)
