"""`headrace handoff ls`: lists the store once; reads the manifests of shown versions only."""

from typing import Annotated

import typer

from headrace.command_line.handoff.arguments import Asset
from headrace.command_line.options import AsJson, Store, examples
from headrace.errors import InvalidInput


@examples(
    "headrace handoff ls                                   assets",
    "headrace handoff ls raw_documents                     partitions of one",
    "headrace handoff ls raw_documents --partition shard-00    its versions",
    "headrace handoff ls --versions --json | jq '.versions[] | select(.held_by != [])'",
)
def ls(
    context: typer.Context,
    asset: Asset = None,
    partition: Annotated[
        str | None, typer.Option("--partition", "-p", help="Only this partition: its versions.")
    ] = None,
    versions: Annotated[bool, typer.Option("--versions", help="A line for each version, wherever it is.")] = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """List assets; of an asset its partitions; of a partition its versions."""
    from headrace.command_line.bodies.handoffs import ListBody
    from headrace.command_line.handoff.listing import print_assets, print_partitions, print_versions, read_listed
    from headrace.command_line.opening import Reference, known_asset, known_partition, open_handoffs
    from headrace.command_line.output import print_json
    from headrace.handoff.layout import ROOT, asset_prefix, partition_prefix

    handoffs = open_handoffs(context, store)
    prefix = ROOT
    if partition is not None and asset is None:
        raise InvalidInput(
            f"--partition {partition} needs the asset: headrace handoff ls ASSET --partition {partition}."
        )
    if asset is not None:
        reference = Reference.parse([asset], assets=handoffs.assets())
        asset, partition = known_asset(handoffs, reference.asset), partition or reference.partition
        prefix = asset_prefix(asset)
        if partition is not None:
            prefix = partition_prefix(asset, known_partition(handoffs, asset, partition))
    found = handoffs.objects.entries(prefix)
    now = handoffs.clock.now()
    if as_json:
        listed = read_listed(handoffs, found, now, newest_only=False)
        print_json(ListBody(store=handoffs.objects.uri(ROOT), versions=tuple(one.body(now) for one in listed)))
    elif versions or partition is not None:
        print_versions(read_listed(handoffs, found, now, newest_only=False), now)
    elif asset is not None:
        print_partitions(read_listed(handoffs, found, now, newest_only=True), found, now)
    else:
        print_assets(found, now, handoffs.objects.uri(ROOT))
