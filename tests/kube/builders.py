"""Nodes, pods and placements as the tests of this room use them."""

from typing import Any

from headrace.placement.placements import GpuShare, HostShare, Placement

GPU = "nvidia.com/gpu"
SLICE = "nvidia.com/mig-1g.10gb"
SHARED = "nvidia.com/gpu.shared"


def make_node(
    name: str = "node-a",
    *,
    gpus: int = 4,
    product: str = "NVIDIA-H100-80GB-HBM3",
    memory_mib: int = 81559,
    labels: dict[str, str] | None = None,
    allocatable: dict[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    own = {"kubernetes.io/hostname": name, "nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": str(memory_mib)}
    return {
        "metadata": {"name": name, "labels": own | (labels or {})},
        "spec": spec,
        "status": {
            "allocatable": {GPU: str(gpus), "cpu": "32", "memory": "262144Mi"} | (allocatable or {}),
            "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}],
        },
    }


def make_pod(
    node: str = "node-a",
    *,
    gpus: int = 1,
    resource: str = GPU,
    run_id: str | None = None,
    devices: str = "",
    phase: str = "Running",
    cpu: str = "1",
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "a-pod", "labels": {"dagster/run-id": run_id} if run_id else {}}
    if devices:
        metadata["annotations"] = {"headrace/devices": devices}
    resources = {"limits": {resource: str(gpus), "memory": "1Gi"}, "requests": {resource: str(gpus), "cpu": cpu}}
    return {
        "metadata": metadata,
        "spec": {"nodeName": node, "containers": [{"name": "main", "resources": resources}]},
        "status": {"phase": phase},
    }


def placed(
    *devices: str, node: str = "node-a", milli: int = 1000, cpu_milli: int = 0, memory_mib: int = 0
) -> Placement:
    hosts = (HostShare(node=node, cpu_milli=cpu_milli, memory_mib=memory_mib),) if cpu_milli or memory_mib else ()
    return Placement(gpus=tuple(GpuShare(node=node, device=each, milli=milli) for each in devices), hosts=hosts)


def make_job(**changes: Any) -> dict[str, Any]:
    """A Job that is right; changes go into the pod's spec."""
    container = {
        "name": "dagster",
        "image": "pipelines:1",
        "resources": {"limits": {GPU: "2", "memory": "1Gi"}, "requests": {GPU: "2", "cpu": "500m", "memory": "1Gi"}},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "dagster-run-1", "labels": {"dagster/run-id": "1"}},
        "spec": {
            "backoffLimit": 0,
            "template": {"spec": {"restartPolicy": "Never", "containers": [container]} | changes},
        },
    }
