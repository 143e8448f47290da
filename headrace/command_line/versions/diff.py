"""`headrace versions diff`: compares two sets."""

from typing import Annotated

import typer

from headrace.command_line.options import AsJson, Store, examples
from headrace.command_line.versions.show import SET_HELP
from headrace.text.terminal import say


@examples(
    "headrace versions diff glossary:stable glossary:candidate",
    "headrace versions diff 3fa1c2 9b07de --json",
)
def diff(
    context: typer.Context,
    before: Annotated[str, typer.Argument(metavar="A", help=SET_HELP)],
    after: Annotated[str, typer.Argument(metavar="B", help="The other one, as A.")],
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Show what changes from set A to set B, a line a setting. Exits with 1 if they differ."""
    from headrace.command_line.bodies.versions import SetsComparedBody
    from headrace.command_line.opening import open_objects
    from headrace.command_line.output import print_json, print_table
    from headrace.command_line.rollout.opening import find_set
    from headrace.command_line.rollout.screens import setting_text
    from headrace.version_sets.sets import VersionSets

    objects = open_objects(context, store)
    version_sets = VersionSets(objects)
    first, second = (version_sets.get(find_set(objects, word)) for word in (before, after))
    found = version_sets.diff(first.id, second.id)
    if as_json:
        print_json(SetsComparedBody(before=first.id, after=second.id, differences=found))
    elif not found:
        say(f"Both are {first.id[:12]} ({first.label}).")
    else:
        say(f"{first.id[:12]} ({first.label}) → {second.id[:12]} ({second.label})")
        texts = [[one.path, setting_text(one.before), setting_text(one.after)] for one in found]
        print_table(["SETTING", "A", "B"], texts)
    if found:
        raise typer.Exit(1)
