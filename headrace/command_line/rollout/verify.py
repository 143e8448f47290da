"""`headrace rollout verify`: reads and replays every journal, and checks every set that it names."""

import typer

from headrace.command_line.options import AsJson, Store, examples
from headrace.command_line.rollout.arguments import SomeName
from headrace.text.terminal import say


@examples(
    "headrace rollout verify                               all of them",
    "headrace rollout verify glossary --json",
)
def verify(
    context: typer.Context,
    name: SomeName = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Check that no journal was edited, and that every set it names can be read. Exits with 1 if not."""
    from headrace.command_line.bodies.rollouts import VerifiedJournalsBody
    from headrace.command_line.opening import open_objects
    from headrace.command_line.output import counted, print_json
    from headrace.command_line.rollout.opening import rollout_in
    from headrace.command_line.rollout.verifying import verified
    from headrace.rollout.layout import rollout_names

    objects = open_objects(context, store)
    names = [rollout_in(objects, name).name] if name else rollout_names(objects)
    found = [verified(objects, one) for one in names]
    if as_json:
        print_json(VerifiedJournalsBody(rollouts=tuple(found)))
    elif not found:
        say(f"There is no rollout in {objects.uri('rollout')} yet.")
    for one in found if not as_json else ():
        entries, sets = counted(one.num_entries, "entry", "entries"), counted(one.num_sets, "version set")
        say(f"{one.name}: {one.error or f'{entries} and {sets} are whole.'}")
    if any(one.error for one in found):
        raise typer.Exit(1)
