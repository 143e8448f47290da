"""Builds the pod of one run: from its placement to a request for Kubernetes.

A run is one pod. Kubernetes counts whole units of a resource. So a fraction of a GPU is one unit of a resource that the
cluster itself shares; otherwise it is refused, since the coordinator would count a whole GPU as half free. A gang on
several nodes would need several pods, and is refused.

Configs have the form of the `dagster-k8s/config` tag, keys in snake case.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from headrace.errors import InvalidInput
from headrace.kube.resources import GpuResources
from headrace.placement.demand import WHOLE, Demand
from headrace.placement.placements import Placement

HOSTNAME = "kubernetes.io/hostname"
# GPU feature discovery sets this label on nodes.
PRODUCT = "nvidia.com/gpu.product"
QUEUE_NAME = "kueue.x-k8s.io/queue-name"
ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"
DEVICES = "headrace/devices"
"""A label of the run's pod, not a tag: the node's slots that it holds, so that no other pod counts against these."""


class NotOnePod(InvalidInput):
    """One pod of this cluster cannot have what the run was admitted to."""


@dataclass(frozen=True, kw_only=True)
class PodWishes:
    """Requests beside the placement itself.

    `products` are the accepted values of the node label nvidia.com/gpu.product; none: any. `kueue_queue` is a
    LocalQueue's name: the Job is created suspended, and Kueue, not the placement, decides where and when it runs.
    """

    gpus: GpuResources = field(default_factory=GpuResources)
    products: Collection[str] = ()
    kueue_queue: str = ""


def run_pod_config(demand: Demand, placement: Placement, wishes: PodWishes = PodWishes()) -> dict[str, Any]:
    """The config of the pod that holds a placement.

    A run without GPUs gets NVIDIA_VISIBLE_DEVICES=void: CUDA images say `all`, and would see every GPU of a node whose
    runtime obeys them. Unlike a MIG slice, a time-slice has no memory of its own: PyTorch (2.10 and later) is told its
    share.

    Raises:
        NotOnePod: a gang on several nodes, a fraction without a shared resource, or a device that no cluster offers.
    """
    counts = _units(demand, wishes) if wishes.kueue_queue else _placed_units(demand, placement, wishes)
    config: dict[str, Any] = {
        "container_config": {"resources": _resources(demand, counts)},
        "pod_spec_config": {"restart_policy": "Never"},
        # A second pod for the same run would find it started, and end without work.
        "job_spec_config": {"backoff_limit": 0, "parallelism": 1, "completions": 1},
    }
    if counts:
        taint = {"key": wishes.gpus.whole, "operator": "Exists", "effect": "NoSchedule"}
        config["pod_spec_config"]["tolerations"] = [taint]
    else:
        config["container_config"]["env"] = [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]
    if wishes.gpus.shared in counts and "/mig-" not in wishes.gpus.shared:
        fraction = wishes.gpus.shared_milli / WHOLE
        config["container_config"]["env"] = [{"name": ALLOCATOR, "value": f"per_process_memory_fraction:{fraction:g}"}]
    expressions = _affinity(placement, wishes, has_gpus=bool(counts))
    if expressions:
        config["pod_spec_config"]["affinity"] = {
            "node_affinity": {
                "required_during_scheduling_ignored_during_execution": {
                    "node_selector_terms": [{"match_expressions": expressions}]
                }
            }
        }
    if wishes.kueue_queue:
        config["job_metadata"] = {"labels": {QUEUE_NAME: wishes.kueue_queue}}
        config["job_spec_config"]["suspend"] = True
    elif placement.gpus:
        devices = ",".join(share.device for share in placement.gpus)
        config["pod_template_spec_metadata"] = {"annotations": {DEVICES: devices}}
    return config


def _units(demand: Demand, wishes: PodWishes) -> Counter[str]:
    """Units of each resource, from the demand alone."""
    if demand.num_gpus == 0:
        return Counter()
    if demand.is_shared:
        refuse_fraction(demand, wishes.gpus)
        return Counter({wishes.gpus.shared: 1})
    if demand.gang == "any" and demand.num_gpus > 1:
        raise NotOnePod(
            f"The run asks for {demand.num_gpus} GPUs on any nodes, and is one pod on one node: say headrace/gang=node."
        )
    return Counter({wishes.gpus.whole: demand.num_gpus})


def _placed_units(demand: Demand, placement: Placement, wishes: PodWishes) -> Counter[str]:
    """Units of each resource, from the placement."""
    if len(placement.nodes) > 1:
        raise NotOnePod(
            f"The run's GPUs are on {len(placement.nodes)} nodes ({', '.join(placement.nodes)}), and it is one pod on "
            "one node: say headrace/gang=node, or ask for fewer GPUs."
        )
    if demand.is_shared:
        refuse_fraction(demand, wishes.gpus)
    counts: Counter[str] = Counter()
    for share in placement.gpus:
        resource = wishes.gpus.resource_of(share.device)
        if resource is None:
            raise NotOnePod(
                f"Device {share.device!r} of node {share.node} is not a slot of a cluster: Kubernetes gives out "
                "counts, so the inventory must come from its nodes."
            )
        is_shared_unit = not share.device.isdecimal()
        if share.milli < WHOLE or (demand.is_shared and not is_shared_unit):
            raise NotOnePod(
                f"The run was admitted to {share.milli}/{WHOLE} of {share.node}:{share.device}, and a pod takes whole "
                "units: its demand was not translated for Kubernetes before it was placed."
            )
        if is_shared_unit and not demand.is_shared and not demand.gpu_models:
            raise NotOnePod(
                f"The run asks for a whole GPU and was admitted to {share.node}:{share.device}, a part of one: its "
                "demand was not translated for Kubernetes before it was placed."
            )
        counts[resource] += 1
    if len(counts) > 1:
        raise NotOnePod(
            f"The run was admitted to devices of several kinds ({', '.join(sorted(counts))}): name one in "
            "headrace/gpu_models."
        )
    return counts


def refuse_fraction(demand: Demand, gpus: GpuResources) -> None:
    """Raises: NotOnePod: this cluster cannot give the fraction."""
    if not gpus.shared:
        raise NotOnePod(
            f"The run asks for {demand.gpu_milli}/{WHOLE} of a GPU, and this cluster gives away whole ones "
            f"({gpus.whole}): ask for 1, or set shared_gpu_resource where the cluster shares GPUs."
        )
    if demand.gpu_milli > gpus.shared_milli:
        raise NotOnePod(
            f"The run asks for {demand.gpu_milli}/{WHOLE} of a GPU, and a unit of {gpus.shared} is "
            f"{gpus.shared_milli}/{WHOLE}; two units may be of two GPUs. Ask for less, or for 1."
        )


def _resources(demand: Demand, counts: Counter[str]) -> dict[str, dict[str, str]]:
    limits = {name: str(count) for name, count in sorted(counts.items())}
    requests = dict(limits)
    if demand.cpu_milli:
        # No limit: it would throttle the run on an idle node, and the request alone reserves.
        requests["cpu"] = f"{demand.cpu_milli}m"
    if demand.memory_mib:
        limits["memory"] = requests["memory"] = f"{demand.memory_mib}Mi"
    return {"limits": limits, "requests": requests}


def _affinity(placement: Placement, wishes: PodWishes, *, has_gpus: bool) -> list[dict[str, Any]]:
    expressions = []
    if not wishes.kueue_queue and placement.nodes:
        expressions.append({"key": HOSTNAME, "operator": "In", "values": list(placement.nodes)})
    if has_gpus and wishes.products:
        expressions.append({"key": PRODUCT, "operator": "In", "values": sorted(wishes.products)})
    return expressions
