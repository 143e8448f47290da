"""`headrace rollout pause`, `resume` and `approve`: each appends one entry of its kind."""

from collections.abc import Callable

import typer

from headrace.command_line.options import AsJson, Store, examples
from headrace.command_line.rollout.arguments import By, Name, Reason


def _appends(word: str, help_text: str, example: str) -> Callable[..., None]:
    """`word`: names the command, and the function of `headrace.rollout.interventions`."""

    def command(
        context: typer.Context,
        name: Name,
        reason: Reason = None,
        by: By = None,
        store: Store = None,
        as_json: AsJson = False,
    ) -> None:
        from headrace.command_line.rollout.changing import NO_REASON, named, report
        from headrace.command_line.rollout.opening import open_rollout
        from headrace.rollout import interventions

        opened = open_rollout(context, store, name)
        entry = getattr(interventions, word)(opened.journal, by=named(by), reason=reason or NO_REASON)
        report(opened, entry, as_json=as_json)

    command.__name__, command.__doc__ = word, help_text
    return examples(example)(command)


pause = _appends(
    "pause",
    "Keep the candidate at its weight until `resume`; harm still rolls it back.",
    "headrace rollout pause glossary -m 'the corpus is being repaired'",
)
resume = _appends("resume", "Let a paused candidate go on.", "headrace rollout resume glossary")
approve = _appends(
    "approve",
    "Let the candidate leave a step that asks for approval, once its evidence is there.",
    "headrace rollout approve glossary -m 'read 50 cards, all fine'",
)
