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
    from headrace.command_line.opening import open_objects
    from headrace.command_line.output import counted, print_json
    from headrace.command_line.rollout.opening import rollout_in
    from headrace.command_line.rollout.verifying import verified
    from headrace.rollout.layout import rollout_names

    objects = open_objects(context, store)
    names = [rollout_in(objects, name).name] if name else rollout_names(objects)
    found = [(one, *verified(objects, one)) for one in names]
    if as_json:
        fields = ("name", "num_entries", "num_sets", "error")
        print_json({"rollouts": [dict(zip(fields, one, strict=True)) for one in found]})
    elif not found:
        say(f"There is no rollout in {objects.uri('rollout')} yet.")
    for one, num_entries, num_sets, error in found if not as_json else ():
        whole = f"{one}: {counted(num_entries, 'entry', 'entries')} and {counted(num_sets, 'version set')} are whole."
        say(f"{one}: {error}" if error else whole)
    if any(error for *_, error in found):
        raise typer.Exit(1)
