"""`headrace rollout rows`: lists rows that rolled-back sets published, and which of them readers still get."""

from typing import TYPE_CHECKING, Annotated

import typer

from headrace.command_line.options import AsJson, Store, examples
from headrace.command_line.rollout.arguments import Name
from headrace.errors import InvalidInput
from headrace.text.terminal import say

if TYPE_CHECKING:
    from headrace.rollout.status import BadRows


@examples(
    "headrace rollout rows glossary                        what rolled-back sets made",
    "headrace rollout rows glossary 3fa1c2 --json",
)
def rows(
    context: typer.Context,
    name: Name,
    version_set: Annotated[
        str | None, typer.Argument(metavar="SET", help="One of the sets; all without.", show_default=False)
    ] = None,
    ids: Annotated[bool, typer.Option("--ids", help="Print the id of every row.")] = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """List what rolled-back sets published, and what of it must be made again. Exits with 1 if anything must."""
    from headrace.command_line.bodies.rollouts import BadRowsBody
    from headrace.command_line.output import counted, print_json, print_lines, print_table
    from headrace.command_line.rollout.opening import find_set, open_rollout
    from headrace.generation.rolled_back import rows_made_by
    from headrace.generation.subject import bad_rows_of
    from headrace.handoff.versions import HandoffStore

    opened = open_rollout(context, store, name)
    state = opened.state()
    aborted = sorted(state.aborted) if state else []
    if version_set is not None:
        wanted = find_set(opened.objects, version_set)
        if wanted not in aborted:
            raise InvalidInput(
                f"Set {wanted[:12]} was not rolled back in {name}; rolled back: "
                f"{', '.join(one[:12] for one in aborted) or 'none'}."
            )
        aborted = [wanted]

    handoffs = HandoffStore(opened.objects)
    found = bad_rows_of(handoffs, name, aborted)
    rows = rows_made_by(handoffs, aborted, campaign=name).to_pylist() if ids and aborted else []
    published = [one for one in found if one.is_published]
    if as_json:
        ids_too = tuple(rows) if ids else None
        body = BadRowsBody(name=name, version_sets=tuple(aborted), versions=tuple(found), rows=ids_too)
        print_json(body.to_json())
    elif ids:
        print_lines([str(row["row_id"]) for row in rows])
    elif not aborted:
        say(f"No set of {name} was ever rolled back.")
    else:
        if found:
            print_table(["SET", "PARTITION", "VERSION", "ROWS", ""], [_row_cells(one) for one in found], right=["ROWS"])
            say()
        num_partitions = len({one.partition for one in published})
        say(
            f"{counted(sum(one.num_rows for one in found), 'row')} of {counted(len(aborted), 'set')} that went back; "
            f"readers still get {sum(one.num_rows for one in published):,} of them, in "
            f"{counted(num_partitions, 'partition')}."
        )
    if published:
        raise typer.Exit(1)


def _row_cells(one: "BadRows") -> list[str]:
    standing = "to make again" if one.is_published else "replaced"
    return [one.version_set[:12], one.partition, f"v{one.version}", f"{one.num_rows:,}", standing]
