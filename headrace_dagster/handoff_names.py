"""Which handoff an asset's partition is: of the asset's own key, unless the asset's metadata says otherwise.

Builders for any project need it: their assets' keys begin with a campaign's name, and the store's names do not, so that
every command reads every project's store alike.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

# Metadata of an asset, and of an input that reads another code location's asset; materializations repeat it, so that a
# collection, which loads no definitions, finds what they name.
HANDOFF = "handoff"
# Only of an asset without partitions.
HANDOFF_PARTITION = "handoff_partition"

# The single "partition" of an asset without partitions.
UNPARTITIONED = "all"


def handoff_name(key: dg.AssetKey, metadata: Mapping[str, Any] | None) -> str:
    """The handoff's name: `prompts` of the asset `products/prompts` that states it, otherwise the whole key."""
    return _stated(metadata, HANDOFF) or key.to_user_string()


def sole_partition(metadata: Mapping[str, Any] | None) -> str:
    """The handoff's partition of an asset without partitions."""
    return _stated(metadata, HANDOFF_PARTITION) or UNPARTITIONED


def naming_metadata(key: dg.AssetKey, metadata: Mapping[str, Any] | None) -> dict[str, str]:
    """What a materialization repeats: nothing, if its handoff is called like its asset."""
    stated = {HANDOFF: handoff_name(key, metadata), HANDOFF_PARTITION: sole_partition(metadata)}
    usual = {HANDOFF: key.to_user_string(), HANDOFF_PARTITION: UNPARTITIONED}
    return {name: value for name, value in stated.items() if value != usual[name]}


def of_input(context: dg.InputContext) -> Mapping[str, Any]:
    """The metadata that names an input's handoff: its own, or else that of the asset it reads."""
    own = context.definition_metadata or {}
    upstream = context.upstream_output
    theirs = (upstream.definition_metadata if upstream else None) or {}
    return {name: stated for name in (HANDOFF, HANDOFF_PARTITION) if (stated := own.get(name) or theirs.get(name))}


def _stated(metadata: Mapping[str, Any] | None, name: str) -> str | None:
    value = (metadata or {}).get(name)
    # Of an event, Dagster has wrapped it.
    return getattr(value, "value", value)
