"""A step's inputs: the versions that it loaded, recorded in the manifests of what it seals.

An asset whose rows depend only on its code, inputs and settings can call `sealed_already` before it works: a repeated
run then returns the existing version. Dagster itself never skips a launched run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import dagster as dg

from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import digest_text
from headrace_dagster.failures import permanent_failure, translated_errors
from headrace_dagster.handoff_names import handoff_name, sole_partition

MAKE_AGAIN_TAG = "headrace/make_again"
"""Set it, with any value, and the run makes everything again that `sealed_already` would return."""
# An attribute of versions that `sealed_already` can find.
MADE_FROM = "made_from"
METADATA = "metadata"


@dataclass
class StepLineage:
    """One running step's loaded inputs, "asset[partition]" to handoff, and its outputs' stated origin."""

    loaded: dict[str, Handoff] = field(default_factory=dict)
    made_from: dict[str, str] = field(default_factory=dict)

    def input_versions(self) -> dict[str, str]:
        return {name: f"v{each.version} {each.content_digest}" for name, each in self.loaded.items()}


# Module-level, since a step may load through one IO manager and store through another; weak, so that nothing outlives
# its step.
_steps: WeakKeyDictionary[Any, StepLineage] = WeakKeyDictionary()


def lineage_of(step_context: Any) -> StepLineage:
    return _steps.setdefault(step_context, StepLineage())


def remember_loaded(context: dg.InputContext, handoffs: Mapping[str, Handoff]) -> None:
    try:
        step = context.step_context
    except dg.DagsterInvariantViolationError:  # loaded by hand, outside any step
        return
    lineage_of(step).loaded.update({f"{each.asset}[{each.partition}]": each for each in handoffs.values()})


def sealed_already(context: dg.AssetExecutionContext, handoffs: HandoffStore, **settings: str) -> Handoff | None:
    """The version that this code made from exactly these inputs and settings: return it instead of making it again.

    Call it at the top of an asset's body, and only if the rows depend on nothing but the asset's code version, its
    loaded inputs and `settings` (digests or values of everything else that it reads). What the run then makes is sealed
    with this identity and its metadata, which a later run that returns it shows again: keep timings out of it. The
    result is also None in a run of several partitions, whose inputs cannot be told apart; in a run tagged
    `headrace/make_again`; if only an older version fits (readers open the newest); and if the sealed version is
    damaged.

    Raises:
        dg.Failure: the asset has no code version, so changed code would go unnoticed.
    """
    asset = context.asset_key.to_user_string()
    code_version = context.assets_def.code_versions_by_key.get(context.asset_key)
    if not code_version:
        raise permanent_failure(f"{asset} looks for its sealed version and has no code_version. Give it one.")
    stated = context.assets_def.metadata_by_key.get(context.asset_key)
    is_partitioned = context.has_partition_key or context.has_partition_key_range
    keys = context.partition_keys if is_partitioned else [sole_partition(stated)]
    if len(keys) != 1:
        return None
    step = lineage_of(context.get_step_execution_context())
    identity = step.made_from[asset] = _identity(code_version, step.loaded, settings)
    if context.run.tags.get(MAKE_AGAIN_TAG):
        return None
    with translated_errors():
        name, versions = handoff_name(context.asset_key, stated), step.input_versions()
        found = handoffs.find_made(name, keys[0], code_version=code_version, input_versions=versions)
    return found if found and found.attributes.get(MADE_FROM) == identity else None


def _identity(code_version: str, loaded: Mapping[str, Handoff], settings: Mapping[str, str]) -> str:
    """Over digests, not version numbers: the same content under a new number is the same input."""
    inputs = [f"{name}={loaded[name].content_digest}" for name in sorted(loaded)]
    return digest_text(MADE_FROM, code_version, *inputs, *(f"{name}={settings[name]}" for name in sorted(settings)))
