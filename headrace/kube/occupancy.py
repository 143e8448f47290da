"""Finds runs that still have something in the cluster. Pure, over Jobs and pods as the API returns them."""

from collections.abc import Iterable, Mapping
from typing import Any

# The label that dagster-k8s puts on Jobs and pods, of runs and of steps.
RUN_ID = "dagster/run-id"


def run_of(manifest: Mapping[str, Any]) -> str | None:
    return ((manifest.get("metadata") or {}).get("labels") or {}).get(RUN_ID)


def occupied_runs(jobs: Iterable[Mapping[str, Any]], pods: Iterable[Mapping[str, Any]]) -> set[str]:
    """Runs with a remaining pod, or with a Job that may still make one.

    Pods count by themselves: deleting a Job without its pods (`kubectl delete --cascade=orphan`, and Dagster's own
    terminate) leaves them on their GPUs until their grace period ends.
    """
    found = {run_of(job) for job in jobs if not is_over(job)}
    found |= {run_of(pod) for pod in pods if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")}
    return {run_id for run_id in found if run_id}


def is_over(job: Mapping[str, Any]) -> bool:
    """Whether a Job makes no further pod."""
    status = job.get("status") or {}
    if any(
        condition.get("type") in ("Complete", "Failed") and condition.get("status") == "True"
        for condition in status.get("conditions") or []
    ):
        return True
    return not status.get("active") and bool(status.get("succeeded") or status.get("failed"))


def is_being_deleted(manifest: Mapping[str, Any]) -> bool:
    return bool((manifest.get("metadata") or {}).get("deletionTimestamp"))
