"""`headrace handoff show`: a version's manifest, schema, lineage, and as many columns of its first rows as fit."""

from typing import Annotated

import typer

from headrace.command_line.handoff.arguments import Partition, Version
from headrace.command_line.options import AsJson, Store, examples
from headrace.text.terminal import say


@examples(
    "headrace handoff show raw_documents shard-00",
    "headrace handoff show raw_documents shard-00 v3 --rows 20 --columns term,text",
    "headrace handoff show 'raw_documents[shard-00]@v3' --json",
)
def show(
    context: typer.Context,
    asset: Annotated[str, typer.Argument(metavar="ASSET", help="Asset, or asset[partition]@v7.")],
    partition: Partition = None,
    version: Version = None,
    rows: Annotated[int, typer.Option("--rows", "-n", min=0, help="Rows of the preview.")] = 5,
    columns: Annotated[str | None, typer.Option("--columns", metavar="A,B", help="Columns of the preview.")] = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Show what one version holds and was made from, and its first rows."""
    from headrace.clock import epoch_seconds
    from headrace.command_line.handoff.holders import holders_by_nonce
    from headrace.command_line.handoff.showing import (
        attribute_facts,
        first_rows,
        media_facts,
        preview,
        shown_body,
        speed_text,
        split_version,
    )
    from headrace.command_line.opening import Reference, open_handoffs, open_reference, split_columns, suggest_columns
    from headrace.command_line.output import (
        age_text,
        aligned,
        bytes_text,
        counted,
        print_heading,
        print_json,
        print_lines,
        print_table,
    )
    from headrace.handoff.spelling import plain_type

    words = [word for word in (asset, partition, version) if word is not None]
    handoffs = open_handoffs(context, store)
    # `lazy`: a preview must neither read a version of many GB whole nor show damaged data.
    handoff = open_reference(handoffs, Reference.parse(words, assets=handoffs.assets())).with_verification("lazy")
    names = split_columns(columns)
    suggest_columns(handoff, names or [])
    now = handoffs.clock.now()
    held_by = holders_by_nonce(handoffs.objects, now).get(handoff.manifest.nonce, [])
    if as_json:
        first = first_rows(handoff, names or handoff.schema.names, rows)
        print_json(shown_body(handoff, held_by, first))
        return
    manifest = handoff.manifest
    say(handoff.label, bold=True)
    facts = [
        ["rows", f"{manifest.num_rows:,}"],
        ["bytes", f"{bytes_text(manifest.num_bytes)} in {counted(len(manifest.parts), 'part')}"],
        *media_facts(handoff),
        ["sealed", f"{manifest.created_at}, {age_text(now - epoch_seconds(manifest.created_at))} ago"],
        ["written", speed_text(handoff)],
        ["content digest", manifest.content_digest],
        ["schema fingerprint", manifest.schema_fingerprint],
        ["code version", manifest.code_version],
        ["run", manifest.run_id],
        ["at", handoff.uri],
        *([["held by", ", ".join(one.text for one in held_by)]] if held_by else []),
        *attribute_facts(manifest.attributes),
    ]
    print_lines(aligned(facts))
    print_heading("Made from")
    if manifest.input_versions:
        inputs = [[name, *split_version(stated)] for name, stated in sorted(manifest.input_versions.items())]
        print_table(["INPUT", "VERSION", "DIGEST"], inputs)
    else:
        say("no handoff")
    print_heading("Columns")
    schema = [[each.name, str(plain_type(each.type)), "" if each.nullable else "not null"] for each in handoff.schema]
    print_table(["NAME", "TYPE", ""], schema)
    if rows and handoff.num_rows:
        print_heading(f"First {counted(min(rows, handoff.num_rows), 'row')}")
        print_lines(preview(handoff, names or handoff.schema.names, rows))
