"""A cluster's nodes as an inventory, and demands in its terms. Pure, over the API's answers.

Kubernetes counts units and chooses the device itself. So a device here is a slot: "0" to "n-1" for whole GPUs,
"RESOURCE#0" and so on for shared ones. It is unknown which physical GPU a pod gets, but no more are promised than
exist.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from headrace.kube.occupancy import run_of
from headrace.kube.resources import NVIDIA, GpuResources, amount, effective_request, mib, milli
from headrace.kube.run_pod import DEVICES, HOSTNAME, PRODUCT, refuse_fraction
from headrace.placement.demand import WHOLE, Demand
from headrace.placement.gpu_models import short_model
from headrace.placement.inventory import Gpu, Inventory, Node

# No device has this name: it stands for a demand that nothing in the cluster may serve.
_NO_MODEL = "NONE-IN-THIS-CLUSTER"
_MEMORY = "nvidia.com/gpu.memory"
_REPLICAS = "nvidia.com/gpu.replicas"
_DIGITS_MAX = 9


def nodes_to_inventory(
    nodes: Iterable[Mapping[str, Any]],
    pods: Iterable[Mapping[str, Any]],
    gpus: GpuResources = NVIDIA,
    *,
    held: Mapping[str, Collection[str]] | None = None,
) -> Inventory:
    """The inventory that the coordinator may use: allocatable resources without other pods' share.

    Nodes that are cordoned, not ready or tainted against our pods keep their slots as unhealthy ones. GPUs of other
    pods are unhealthy slots, taken from the end, after the slots that our runs hold.

    Args:
        pods: of all namespaces. Pods with the label dagster/run-id belong to runs, and placements count them.
        held: by node, slots of runs whose pods may not exist yet; slots of existing pods are read from these.
    """
    by_node: dict[str, list[Mapping[str, Any]]] = {}
    for pod in pods:
        node = (pod.get("spec") or {}).get("nodeName")
        if node and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
            by_node.setdefault(node, []).append(pod)
    found = []
    for node in nodes:
        name = node_name(node)
        on_it = by_node.get(node["metadata"]["name"], [])
        kept = {*(held or {}).get(name, ()), *_held_by_pods(on_it)}
        found.append(_node(node, [pod for pod in on_it if not run_of(pod)], gpus, kept))
    return Inventory(nodes=tuple(found))


def node_name(node: Mapping[str, Any]) -> str:
    """The name that node affinity matches; on some clouds it differs from the node's own name."""
    return _labels(node).get(HOSTNAME) or node["metadata"]["name"]


def node_faults(node: Mapping[str, Any], gpus: GpuResources = NVIDIA) -> list[str]:
    """Why nothing new may run on the node."""
    spec, faults = node.get("spec") or {}, []
    if spec.get("unschedulable"):
        faults.append("cordoned")
    conditions = (node.get("status") or {}).get("conditions") or []
    if not any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions):
        faults.append("not ready")
    return faults + [
        f"tainted {taint.get('key')}:{taint.get('effect')}"
        for taint in spec.get("taints") or []
        if taint.get("effect") in ("NoSchedule", "NoExecute") and not _is_tolerated(taint, gpus)
    ]


def uncounted_gpus(node: Mapping[str, Any], gpus: GpuResources = NVIDIA) -> str | None:
    """Why a node's GPUs are not in the inventory, for people."""
    if _is_time_sliced(node) and gpus.shared != gpus.whole and (count := _count(node, gpus.whole)):
        return (
            f"Node {node_name(node)} gives away {count} {gpus.whole} that are parts of GPUs: they are left out. Set "
            f"shared_gpu_resource: {gpus.whole} to use them for fractions."
        )
    return None


def demand_on(inventory: Inventory, demand: Demand, gpus: GpuResources = NVIDIA) -> Demand:
    """Translates a demand to a cluster's slots.

    A fraction becomes one whole shared unit of an allowed model; whole GPUs avoid shared units, unless `gpu_models`
    names such a unit's model. Call this for each decision, since nodes come and go.

    Raises:
        NotOnePod: this cluster cannot give the fraction.
    """
    if demand.num_gpus == 0:
        return demand
    shared = {gpu.model for node in inventory.nodes for gpu in node.gpus if not gpu.device.isdecimal()}
    if demand.is_shared:
        refuse_fraction(demand, gpus)
        allowed = {model for model in shared if not demand.gpu_models or _is_of(model, demand.gpu_models)}
        return replace(demand, gpu_milli=WHOLE, gpu_models=frozenset(allowed or {_NO_MODEL}))
    if demand.gpu_models or not shared:
        return demand
    whole = {gpu.model for node in inventory.nodes for gpu in node.gpus if gpu.device.isdecimal()}
    return replace(demand, gpu_models=frozenset(whole or {_NO_MODEL}))


def products_of(nodes: Iterable[Mapping[str, Any]], models: Collection[str]) -> frozenset[str]:
    """Values of the label nvidia.com/gpu.product that belong to one of the models."""
    products = {_labels(node).get(PRODUCT, "") for node in nodes}
    return frozenset(product for product in products if product and _model(product) in models)


def _is_of(model: str, allowed: Collection[str]) -> bool:
    return model in allowed or any(model.startswith(f"{name}-") for name in allowed)


def _node(node: Mapping[str, Any], others: list[Mapping[str, Any]], gpus: GpuResources, kept: Collection[str]) -> Node:
    labels = _labels(node)
    is_well = not node_faults(node, gpus)
    product, memory_mib = labels.get(PRODUCT, ""), _number_in(labels.get(_MEMORY))
    slots: list[Gpu] = []
    if not _is_time_sliced(node) and _count(node, gpus.whole):
        devices = [str(slot) for slot in range(_count(node, gpus.whole))]
        taken = _taken(others, gpus.whole)
        slots += _slots(devices, _model(product), memory_mib, is_well, taken, kept)
    if gpus.shared and _count(node, gpus.shared) and (gpus.shared != gpus.whole or _is_time_sliced(node)):
        devices = [gpus.shared_device(slot) for slot in range(_count(node, gpus.shared))]
        own_product = labels.get(f"{gpus.shared}.product") if gpus.shared != gpus.whole else None
        own_memory = labels.get(f"{gpus.shared}.memory") if gpus.shared != gpus.whole else None
        model = _model(own_product) if own_product else f"{_model(product.removesuffix('-SHARED'))}-SHARED"
        unit_mib = _number_in(own_memory) if own_memory else memory_mib * gpus.shared_milli // WHOLE
        slots += _slots(devices, model, unit_mib, is_well, _taken(others, gpus.shared), kept)
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    cpu_milli, host_mib = milli(allocatable.get("cpu", 0)), mib(allocatable.get("memory", 0))
    for pod in others:
        cpu_milli -= milli(effective_request(pod["spec"], "cpu"))
        host_mib -= mib(effective_request(pod["spec"], "memory"))
    return Node(
        name=node_name(node),
        gpus=tuple(slots),
        cpu_milli=max(0, cpu_milli) if is_well else 0,
        memory_mib=max(0, host_mib) if is_well else 0,
    )


def _slots(
    devices: list[str], model: str, memory_mib: int, is_well: bool, num_taken: int, kept: Collection[str]
) -> list[Gpu]:
    free_first = [device for device in devices if device not in kept]
    # More is taken than our runs leave: two schedulers collided. Our runs keep their slots, and nothing is free.
    taken = set(free_first[max(0, len(free_first) - num_taken) :]) if num_taken else set()
    return [
        Gpu(device=device, model=model, memory_mib=memory_mib, healthy=is_well and device not in taken)
        for device in devices
    ]


def _held_by_pods(pods: Iterable[Mapping[str, Any]]) -> set[str]:
    annotations = [(pod["metadata"].get("annotations") or {}).get(DEVICES, "") for pod in pods if run_of(pod)]
    return {device for text in annotations for device in text.split(",") if device}


def _taken(pods: Iterable[Mapping[str, Any]], resource: str) -> int:
    return int(sum(effective_request(pod["spec"], resource) for pod in pods))


def _count(node: Mapping[str, Any], resource: str) -> int:
    return int(amount(((node.get("status") or {}).get("allocatable") or {}).get(resource, 0)))


def _number_in(label: str | None) -> int:
    """The number in a label, or 0 for unknown: anybody may write labels."""
    return int(label) if label and label.isascii() and label.isdigit() and len(label) <= _DIGITS_MAX else 0


def _is_time_sliced(node: Mapping[str, Any]) -> bool:
    """Whether the node's `nvidia.com/gpu` units are parts of GPUs."""
    replicas = _labels(node).get(_REPLICAS, "1")
    # If the units are renamed, the node does not offer `nvidia.com/gpu`.
    return _number_in(replicas) > 1


def _is_tolerated(taint: Mapping[str, Any], gpus: GpuResources) -> bool:
    return taint.get("key") == gpus.whole and taint.get("effect") == "NoSchedule"


def _labels(node: Mapping[str, Any]) -> Mapping[str, str]:
    return (node.get("metadata") or {}).get("labels") or {}


def _model(product: str) -> str:
    return short_model(product) or product
