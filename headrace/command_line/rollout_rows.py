"""`headrace rollout rows`: lists rows that rolled-back sets published, and which of them readers still get."""

from dataclasses import asdict

import typer

from headrace.command_line.output import counted, print_json, print_lines, print_table
from headrace.command_line.rollout_opening import find_set, open_rollout
from headrace.errors import InvalidInput
from headrace.rollout.status import BadRows
from headrace.text.terminal import say


def show_rows(
    context: typer.Context, store: str | None, name: str, version_set: str | None, *, ids: bool, as_json: bool
) -> None:
    """Shows the rows that rolled-back sets published. Exits with 1 while readers still get some of them."""
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
    from headrace.generation.rolled_back import rows_made_by
    from headrace.generation.subject import bad_rows_of
    from headrace.handoff.versions import HandoffStore

    handoffs = HandoffStore(opened.objects)
    found = bad_rows_of(handoffs, name, aborted)
    rows = rows_made_by(handoffs, aborted, campaign=name).to_pylist() if ids and aborted else []
    published = [one for one in found if one.is_published]
    if as_json:
        body = {"name": name, "version_sets": aborted, "versions": [asdict(one) for one in found]}
        print_json({**body, **({"rows": rows} if ids else {})})
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


def _row_cells(one: BadRows) -> list[str]:
    standing = "to make again" if one.is_published else "replaced"
    return [one.version_set[:12], one.partition, f"v{one.version}", f"{one.num_rows:,}", standing]
