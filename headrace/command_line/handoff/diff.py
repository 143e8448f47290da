"""`headrace handoff diff`: prints the result of `headrace.handoff.comparison`."""

from typing import Annotated

import typer

from headrace.command_line.options import AsJson, Store, examples


@examples(
    "headrace handoff diff raw_documents shard-00 v3 v4 --key document_id",
    "headrace handoff diff 'raw_documents[shard-00]@v3' 'raw_documents[shard-01]'",
)
def diff(
    context: typer.Context,
    what: Annotated[
        list[str],
        typer.Argument(metavar="ASSET PARTITION V1 V2 | REF REF", help="Two versions; REF is asset[partition]@v7."),
    ],
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="A,B", help="Columns that tell rows apart; by position without."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=0, help="Rows to show of each kind of change.")] = 3,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions' columns and rows; exit 1 if they differ."""
    from headrace.command_line.handoff.differing import compared_body, print_samples, references, summary
    from headrace.command_line.opening import open_handoffs, open_reference, split_columns, suggest_columns
    from headrace.command_line.output import print_json, print_lines
    from headrace.handoff.comparison import compare

    handoffs = open_handoffs(context, store)
    first, second = references(what, handoffs.assets())
    before, after = open_reference(handoffs, first), open_reference(handoffs, second)
    names = split_columns(key) or []
    for side in (before, after):
        suggest_columns(side, names)
    found = compare(before, after, key=names, samples=samples)
    if as_json:
        print_json(compared_body(found, before.label, after.label, names))
    else:
        print_lines(summary(found, before.label, after.label, names))
        print_samples(found)
    if not found.is_same_content:
        raise typer.Exit(1)
