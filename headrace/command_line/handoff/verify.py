"""`headrace handoff verify`: checks every stored byte against its digest, and continues after a damaged version."""

from typing import Annotated

import typer

from headrace.command_line.handoff.arguments import Asset, Partition, Version
from headrace.command_line.options import AsJson, Store, examples
from headrace.errors import HandoffCollected, HandoffCorrupt


@examples(
    "headrace handoff verify                               the newest version of everything",
    "headrace handoff verify raw_documents shard-00 v3",
    "headrace handoff verify raw_documents --all-versions",
)
def verify(
    context: typer.Context,
    asset: Asset = None,
    partition: Partition = None,
    version: Version = None,
    all_versions: Annotated[
        bool, typer.Option("--all-versions", help="Not only the newest of each partition.")
    ] = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Read every byte and hold it against its digest; exit 1 if anything is damaged."""
    from headrace.command_line.bodies.handoffs import Damage, VerifiedBody
    from headrace.command_line.handoff.verifying import damage_of, media_bytes, opened_versions, verify_stored
    from headrace.command_line.opening import open_handoffs
    from headrace.command_line.output import bytes_text, counted, print_json, print_lines, print_table, progress

    words = [word for word in (asset, partition, version) if word is not None]
    handoffs = open_handoffs(context, store)
    damages: list[Damage] = []
    opened = list(opened_versions(handoffs, words, all_versions=all_versions, damages=damages))
    total = sum(handoff.num_bytes + media_bytes(handoff) for handoff in opened)
    num_verified = 0
    with progress("verifying", total) as advance:
        for handoff in opened:
            try:
                verify_stored(handoff, advance)
                num_verified += 1
            except HandoffCollected:
                continue
            except HandoffCorrupt as error:
                damages.append(damage_of(handoff.asset, handoff.partition, handoff.version, error))
    if as_json:
        print_json(VerifiedBody(num_verified=num_verified, num_bytes=total, damaged=tuple(damages)))
    elif damages:
        print_table(["DAMAGED", "KIND", "WHAT, AND WHAT TO DO"], [[one.label, one.kind, one.what] for one in damages])
        print_lines(["", f"{len(damages)} damaged, {num_verified} whole."])
    else:
        print_lines([f"{counted(num_verified, 'version')} verified, {bytes_text(total)}: all whole."])
    if damages:
        raise typer.Exit(1)
