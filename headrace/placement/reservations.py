"""The place of a run that waited too long, and what must be kept free for it until then.

A run is promised the place that is free first by its holders' estimates. Estimates are guesses, so the promise does not
rely on them: nothing that could keep the run waiting is put there, except runs that may be stopped at any moment. The
price is what stands idle while the place drains.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from headrace.placement.demand import WHOLE, Demand
from headrace.placement.fleet import Fleet
from headrace.placement.packing import Packing, best_placement
from headrace.placement.placements import GpuShare, HostShare, Placement
from headrace.placement.snapshot import Running


@dataclass(frozen=True, kw_only=True)
class Place:
    """`placement` is free when `waits_for` have ended: by `latest`, if they end as expected."""

    placement: Placement
    waits_for: tuple[Running, ...]
    latest: float


def first_place(
    fleet: Fleet,
    demand: Demand,
    running: Sequence[Running],
    ends: Mapping[str, float],
    packing: Packing,
    promised: Collection[str] = (),
) -> Place | None:
    """The place that is free first, by the `ends` of the runs in it; None: there is none even when all have ended.

    Args:
        fleet: with `running` in it.
        promised: names of previously promised nodes; the run keeps them while they are suitable.
    """
    by_end = sorted(running, key=lambda run: (ends[run.run_id], run.run_id))
    on_promised = [run for run in by_end if promised and any(node in promised for node in run.placement.nodes)]
    for order in (on_promised, by_end):
        found = fewest(order, lambda ended: _after(fleet, ended, demand, packing))
        if found is not None:
            ended, placement = found
            there = tuple(run for run in ended if overlap(run.placement, placement))
            return Place(
                placement=placement,
                waits_for=there,
                latest=max((ends[run.run_id] for run in there), default=-math.inf),
            )
    return None


def fewest(
    runs: Sequence[Running], attempt: Callable[[Sequence[Running]], Placement | None]
) -> tuple[Sequence[Running], Placement] | None:
    """The shortest prefix of `runs` for which `attempt` succeeds, found by halving, since more runs never fit worse."""
    placement = attempt(runs) if runs else None
    if placement is None:
        return None
    low, high = 1, len(runs)
    while low < high:
        middle = (low + high) // 2
        found = attempt(runs[:middle])
        if found is None:
            low = middle + 1
        else:
            high, placement = middle, found
    return runs[:high], placement


def overlap(one: Placement, other: Placement) -> bool:
    """Whether they share a device, or a host on which both hold CPUs or memory."""
    devices = {(share.node, share.device) for share in other.gpus}
    hosts = {share.node for share in other.hosts}
    return any((share.node, share.device) in devices for share in one.gpus) or any(
        share.node in hosts for share in one.hosts
    )


def kept_free(fleet: Fleet, demand: Demand, placement: Placement) -> Placement:
    """What others may not take of what is free, so that the run starts as soon as its place's holders end.

    Nobody knows which holder ends first. So on one node, this is everything that the demand could use there, up to its
    need. For a gang that may span nodes it is every GPU of the fleet that is wholly free; parts of GPUs, CPUs and
    memory are kept only where it has GPUs already or should get them, since otherwise a few GPUs would close a fleet.
    """
    promised = {(share.node, share.device) for share in placement.gpus}
    spans = demand.gang == "any" and demand.num_gpus > 1
    if demand.is_shared:
        devices = sorted(promised)
    else:
        devices = [
            (name, gpu.device)
            for name in (sorted(fleet.nodes) if spans else placement.nodes)
            for gpu in fleet.nodes[name].gpus
            if (not demand.gpu_models or gpu.model in demand.gpu_models) and demand.milli_on(gpu.memory_mib) <= WHOLE
        ]
    free = {device: milli for device in devices if (milli := fleet.free_milli(*device))}
    whole = [device for device, milli in free.items() if milli == WHOLE]
    if len(whole) >= demand.num_gpus > 0 and not demand.is_shared:
        chosen = sorted(whole, key=lambda device: (device not in promised, device))[: demand.num_gpus]
        free = dict.fromkeys(chosen, WHOLE)
    elif spans:
        free = {device: milli for device, milli in free.items() if milli == WHOLE or device in promised}
    nodes = sorted({*placement.nodes, *(node for node, _ in free)}) if spans else placement.nodes
    return Placement(
        gpus=tuple(GpuShare(node=node, device=device, milli=milli) for (node, device), milli in sorted(free.items())),
        hosts=tuple(_host(fleet, name, demand, spans) for name in nodes),
    )


def _host(fleet: Fleet, name: str, demand: Demand, spans: bool) -> HostShare:
    part = min(len(fleet.nodes[name].gpus), demand.num_gpus) / demand.num_gpus if spans else 1.0
    return HostShare(
        node=name,
        cpu_milli=min(fleet.free_cpu_milli(name), math.ceil(demand.cpu_milli * part)),
        memory_mib=min(fleet.free_memory_mib(name), math.ceil(demand.memory_mib * part)),
    )


def _after(fleet: Fleet, ended: Sequence[Running], demand: Demand, packing: Packing) -> Placement | None:
    twin = fleet.copy()
    for run in ended:
        twin.release(run.run_id)
    return best_placement(twin, demand, packing)
