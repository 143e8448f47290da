"""Merges a run's own Kubernetes config with the coordinator's.

The user's config holds, except for what the coordinator counts or pins: GPUs, declared CPU and memory, the node, and
how often a run may be started. Both are configs of dagster-k8s, keys in snake case, as dagster-k8s merged them from the
launcher, the code location and the run's `dagster-k8s/config`.
"""

import copy
from collections.abc import Mapping
from typing import Any

from headrace.kube.resources import GpuResources
from headrace.kube.run_pod import ALLOCATOR

_REQUIRED = "required_during_scheduling_ignored_during_execution"


def merged_config(user: Mapping[str, Any], ours: Mapping[str, Any], gpus: GpuResources) -> dict[str, Any]:
    """Our config on top of the user's; changes neither of the two."""
    merged: dict[str, Any] = copy.deepcopy(dict(user))
    ours = copy.deepcopy(dict(ours))
    for part in (
        "container_config",
        "pod_spec_config",
        "job_spec_config",
        "job_metadata",
        "pod_template_spec_metadata",
    ):
        merged[part] = dict(merged.get(part) or {})
    container = ours.get("container_config", {})
    merged["container_config"]["resources"] = _resources(
        merged["container_config"].get("resources") or {}, container.get("resources", {}), gpus
    )
    if "env" in container:
        merged["container_config"]["env"] = _env(merged["container_config"].get("env") or [], container["env"])
    pod = ours.get("pod_spec_config", {})
    merged["pod_spec_config"]["restart_policy"] = pod["restart_policy"]
    tolerations = list(merged["pod_spec_config"].get("tolerations") or [])
    tolerations += [toleration for toleration in pod.get("tolerations", []) if toleration not in tolerations]
    if tolerations:
        merged["pod_spec_config"]["tolerations"] = tolerations
    if "affinity" in pod:
        merged["pod_spec_config"]["affinity"] = _affinity(
            merged["pod_spec_config"].get("affinity") or {}, pod["affinity"]
        )
    merged["job_spec_config"].update(ours.get("job_spec_config", {}))
    for part, kind in (("job_metadata", "labels"), ("pod_template_spec_metadata", "annotations")):
        if added := ours.get(part, {}).get(kind):
            merged[part][kind] = {**(merged[part].get(kind) or {}), **added}
    return merged


def overridden_gpus(user: Mapping[str, Any], ours: Mapping[str, Any], gpus: GpuResources) -> str | None:
    """Which GPUs the user's config requests but does not get, in one sentence."""
    asked = {
        name: str(count)
        for kind in ("requests", "limits")
        for name, count in (((user.get("container_config") or {}).get("resources") or {}).get(kind) or {}).items()
        if gpus.is_gpu(name)
    }
    given = {
        name: count for name, count in ours["container_config"]["resources"]["limits"].items() if gpus.is_gpu(name)
    }
    if asked in ({}, given):
        return None
    return (
        f"Its Kubernetes config asks for {_words(asked)}, and it was admitted to {_words(given)}, which holds: ask for "
        "GPUs by headrace/gpus."
    )


def _words(counts: Mapping[str, str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "no GPU"


def _env(user: list[dict[str, Any]], ours: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our variables last; PyTorch's allocator settings are a list in one variable, and the user's entries stay."""
    values = {variable["name"]: variable.get("value") for variable in user}
    added = []
    for variable in ours:
        others = values.get(variable["name"]) if variable["name"] == ALLOCATOR else None
        added.append({**variable, "value": f"{others},{variable['value']}"} if others else variable)
    named = {variable["name"] for variable in ours}
    return [*(variable for variable in user if variable["name"] not in named), *added]


def _resources(user: Mapping[str, Any], ours: Mapping[str, Any], gpus: GpuResources) -> dict[str, Any]:
    declared = {name for kind in ours.values() for name in kind}
    merged = {key: value for key, value in user.items() if key not in ("limits", "requests")}
    for kind in ("limits", "requests"):
        # A name that is ours in limits or requests is dropped from both: a limit below our request would be refused.
        kept = {
            name: amount
            for name, amount in (user.get(kind) or {}).items()
            if name not in declared and not gpus.is_gpu(name)
        }
        if both := {**kept, **ours.get(kind, {})}:
            merged[kind] = both
    return merged


def _affinity(user: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Both must hold. Terms are alternatives, so our conditions go into each of the user's terms."""
    merged = dict(user)
    node = dict(merged.get("node_affinity") or {})
    terms = (node.get(_REQUIRED) or {}).get("node_selector_terms") or [{}]
    added = ours["node_affinity"][_REQUIRED]["node_selector_terms"][0]["match_expressions"]
    node[_REQUIRED] = {
        "node_selector_terms": [
            {**term, "match_expressions": [*(term.get("match_expressions") or []), *added]} for term in terms
        ]
    }
    merged["node_affinity"] = node
    return merged
