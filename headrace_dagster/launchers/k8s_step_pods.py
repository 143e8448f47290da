"""Refuses runs that have GPUs and also run their steps in separate pods.

Recognises them by the executor's name, so it misses executors renamed by `configured(name=…)` and home-made ones. It
also misses config that is baked into the executor (`k8s_job_executor.configured({"step_k8s_config": …})`), but sees op
tags and the run's own `execution` config.
"""

import json
from collections.abc import Mapping

from dagster import DagsterRun
from dagster._core.snap import ExecutionPlanSnapshot

from headrace.kube.resources import GpuResources, gpus_asked

# These names are in dagster-k8s and dagster-celery-k8s.
_STEP_POD_EXECUTORS = {"k8s", "celery-k8s"}
_CONFIG_TAGS = ("dagster-k8s/config", "dagster-k8s/resource_requirements")


def step_pods_refusal(
    run: DagsterRun, plan: ExecutionPlanSnapshot, gpus: GpuResources, *, has_gpus: bool, counts_gpus: bool
) -> str | None:
    """Why a run may not start, in one sentence.

    Args:
        has_gpus: whether the run was admitted to GPUs.
        counts_gpus: whether GPUs that step pods take themselves would be allocated twice.
    """
    if plan.executor_name not in _STEP_POD_EXECUTORS:
        return None
    if has_gpus:
        return (
            f"Run {run.run_id} asks for GPUs, and its executor {plan.executor_name!r} starts each step in a "
            "pod of its own, which they do not reach: use multiprocess_executor or in_process_executor, or drop "
            "headrace/gpus."
        )
    asked = {step.key: found for step in plan.steps if (found := _asked_by_step(step.tags or {}, gpus))}
    if found := gpus_asked(run.run_config.get("execution"), gpus):
        asked["its execution config"] = found
    if asked and counts_gpus:
        culprits = "; ".join(
            f"{where}: {', '.join(f'{count} {name}' for name, count in found.items())}"
            for where, found in asked.items()
        )
        return (
            f"Run {run.run_id} asks for GPUs in step pods ({culprits}), which nobody counts: use multiprocess_executor "
            "or in_process_executor with headrace/gpus."
        )
    return None


def _asked_by_step(tags: Mapping[str, str], gpus: GpuResources) -> dict[str, str]:
    found: dict[str, str] = {}
    for tag in _CONFIG_TAGS:
        try:
            found |= gpus_asked(json.loads(tags.get(tag, "{}")), gpus)
        except ValueError:
            continue  # dagster-k8s fails the step because of it, and says so
    return found
