"""What a step was made from: the versions that it loaded, written into the manifests of what it seals.

An asset whose rows follow from its code, its inputs and its settings alone can ask `sealed_already` before it works:
a run that was launched again then returns what is there. Dagster itself never skips a launched run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import dagster as dg

from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import digest_text
from headrace_dagster.failures import permanent_failure, translated_errors

# The one "partition" of an asset that has none.
UNPARTITIONED = "all"
# A run with this tag makes everything again.
MAKE_AGAIN_TAG = "headrace/make_again"
# Attributes of versions that `sealed_already` can find.
MADE_FROM = "made_from"
METADATA = "metadata"


@dataclass
class StepLineage:
    """What one running step has loaded, "asset[partition]" to handoff, and what its outputs said they are made from."""

    loaded: dict[str, Handoff] = field(default_factory=dict)
    made_from: dict[str, str] = field(default_factory=dict)

    def input_versions(self) -> dict[str, str]:
        return {name: f"v{each.version} {each.content_digest}" for name, each in self.loaded.items()}


# Of the module, since a step may load through one IO manager and store through another; weak, so that nothing outlives
# its step.
_steps: WeakKeyDictionary[Any, StepLineage] = WeakKeyDictionary()


def lineage_of(step_context: Any) -> StepLineage:
    return _steps.setdefault(step_context, StepLineage())


def remember_loaded(context: dg.InputContext, handoffs: Mapping[str, Handoff]) -> None:
    try:
        step = context.step_context
    except dg.DagsterInvariantViolationError:  # loaded by hand, outside of any step
        return
    lineage_of(step).loaded.update({f"{each.asset}[{each.partition}]": each for each in handoffs.values()})


def sealed_already(context: dg.AssetExecutionContext, handoffs: HandoffStore, **settings: str) -> Handoff | None:
    """The version that this code made from these very inputs and settings: return it instead of making it again.

    Call it at the top of an asset's body, and only where the rows follow from the asset's code version, its loaded
    inputs and `settings` (digests or values of whatever else it reads) alone. What the run then makes is sealed with
    this identity and its metadata, which a later run that returns it shows again: keep timings out of it. None also
    in a run of several partitions, whose inputs cannot be told apart, in a run tagged `headrace/make_again`, where only
    an older version fits (readers open the newest), and where what was sealed is damaged.

    Raises:
        dg.Failure: the asset has no code version, so that changed code could not be told.
    """
    asset = context.asset_key.to_user_string()
    code_version = context.assets_def.code_versions_by_key.get(context.asset_key)
    if not code_version:
        raise permanent_failure(f"{asset} looks for its sealed version and has no code_version. Give it one.")
    keys = context.partition_keys if context.has_partition_key or context.has_partition_key_range else [UNPARTITIONED]
    if len(keys) != 1:
        return None
    step = lineage_of(context.get_step_execution_context())
    identity = step.made_from[asset] = _identity(code_version, step.loaded, settings)
    if context.run.tags.get(MAKE_AGAIN_TAG):
        return None
    with translated_errors():
        found = handoffs.find_made(asset, keys[0], code_version=code_version, input_versions=step.input_versions())
    return found if found and found.attributes.get(MADE_FROM) == identity else None


def _identity(code_version: str, loaded: Mapping[str, Handoff], settings: Mapping[str, str]) -> str:
    """Digests and not version numbers: the same content under a new number is the same input."""
    inputs = [f"{name}={loaded[name].content_digest}" for name in sorted(loaded)]
    return digest_text(MADE_FROM, code_version, *inputs, *(f"{name}={settings[name]}" for name in sorted(settings)))
