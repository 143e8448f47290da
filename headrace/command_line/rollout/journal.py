"""`headrace rollout journal`: every entry."""

import typer

from headrace.command_line.options import AsJson, Store, examples
from headrace.command_line.rollout.arguments import Name


@examples(
    "headrace rollout journal glossary",
    "headrace rollout journal glossary --json | jq '.entries[] | select(.event == \"aborted\")'",
)
def journal(context: typer.Context, name: Name, store: Store = None, as_json: AsJson = False) -> None:
    """List every entry: what happened, who did it, why."""
    from headrace.clock import iso
    from headrace.command_line.bodies.rollouts import EntryBody, JournalBody
    from headrace.command_line.output import print_json, print_table
    from headrace.command_line.rollout.opening import open_rollout
    from headrace.rollout.status import by_whom, percent
    from headrace.text.visible import one_line

    opened = open_rollout(context, store, name)
    entries = opened.journal.entries()
    if as_json:
        print_json(JournalBody(name=name, entries=tuple(map(EntryBody.of, entries))))
        return
    rows = [
        [
            str(entry.number),
            iso(entry.at),
            entry.event,
            str(entry.fields.get("version_set", ""))[:12],
            percent(entry.fields["weight"]) if "weight" in entry.fields else "",
            by_whom(entry),
            entry.digest[:12],
            one_line(str(entry.fields.get("reason", ""))),
        ]
        for entry in entries
    ]
    print_table(["#", "AT", "EVENT", "SET", "WEIGHT", "BY", "DIGEST", "REASON"], rows, right=["#", "WEIGHT"])
