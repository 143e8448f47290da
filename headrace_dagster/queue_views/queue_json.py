"""The queue and its runs in the shape that `headrace queue --json` and `headrace why --json` print."""

import math

from headrace.clock import iso
from headrace.command_line.bodies.run_queue import (
    DemandBody,
    DeviceBody,
    GpuBody,
    GpuShareBody,
    HeldShareBody,
    HostShareBody,
    NodeBody,
    PlacementBody,
    QueueBody,
    QueuedRunBody,
    WaitedForBody,
)
from headrace.placement.demand import WHOLE, Demand
from headrace.placement.placements import Placement
from headrace_dagster.queue_views.queue_view import NodeView, QueueView, RunView
from headrace_dagster.queue_views.queue_words import demand_text, partition_in, stated_job

_CPU = 1000


def queue_body(view: QueueView, *, limit: int | None = None) -> QueueBody:
    silent = view.daemon_silent_seconds
    return QueueBody(
        at=iso(view.at),
        daemon_silent_seconds=-1 if silent == math.inf else silent,
        nodes=tuple(map(_node_body, view.nodes)),
        running=tuple(map(run_body, view.running)),
        queued=tuple(map(run_body, view.queued[:limit])),
        num_queued=len(view.queued),
    )


def run_body(run: RunView) -> QueuedRunBody:
    asked = run.asked
    return QueuedRunBody(
        run_id=run.run_id,
        name=run.name or None,
        job=_job(run),
        partition=_partition(run),
        state=run.state,
        status=run.run.status.value if run.run else None,
        why=run.why,
        demand=_demand_body(asked.demand) if asked else None,
        queue=asked.queue if asked else None,
        priority=asked.priority if asked else None,
        stage=asked.stage or None if asked else None,
        submitted=_iso(run.submitted),
        since=_iso(run.since),
        until=_iso(run.until),
        ended=_iso(run.ended),
        latest=_iso(run.latest),
        placement=_placement_body(run.placement) if run.placement else None,
        waits_for=tuple(
            WaitedForBody(
                run_id=other.run_id,
                name=other.name or None,
                job=_job(other),
                partition=_partition(other),
                until=_iso(other.until),
            )
            for other in run.waits_for
        ),
        reserved=tuple(DeviceBody(node=node, device=device) for node, device in sorted(run.reserved)),
        makes_room_for=run.makes_room_for,
    )


def _job(run: RunView) -> str | None:
    return stated_job(run.run.job_name) or None if run.run else None


def _partition(run: RunView) -> str | None:
    return partition_in(run.run.tags) if run.run else None


def _demand_body(demand: Demand) -> DemandBody:
    return DemandBody(
        text=demand_text(demand),
        num_gpus=demand.num_gpus,
        gpu_share=demand.gpu_milli / WHOLE if demand.num_gpus else 0,
        gpu_memory_mib=demand.gpu_memory_mib,
        gpu_models=tuple(sorted(demand.gpu_models)),
        gang=demand.gang,
        cpus=demand.cpu_milli / _CPU,
        memory_mib=demand.memory_mib,
    )


def _placement_body(placement: Placement) -> PlacementBody:
    return PlacementBody(
        gpus=tuple(GpuShareBody(node=one.node, device=one.device, share=one.milli / WHOLE) for one in placement.gpus),
        hosts=tuple(
            HostShareBody(node=host.node, cpus=host.cpu_milli / _CPU, memory_mib=host.memory_mib)
            for host in placement.hosts
        ),
    )


def _node_body(view: NodeView) -> NodeBody:
    return NodeBody(
        node=view.node.name,
        cpus=view.node.cpu_milli / _CPU,
        cpus_held=view.held.cpu_milli / _CPU,
        memory_mib=view.node.memory_mib,
        memory_mib_held=view.held.memory_mib,
        gpus=tuple(
            GpuBody(
                device=device.gpu.device,
                model=device.gpu.model or None,
                memory_mib=device.gpu.memory_mib or None,
                health=device.health,
                free=device.free_milli / WHOLE,
                reserved_for=device.reserved_for,
                held_by=tuple(HeldShareBody(run_id=run_id, share=milli / WHOLE) for run_id, milli in device.shares),
                loaded=device.models,
            )
            for device in view.devices
        ),
    )


def _iso(at: float | None) -> str | None:
    return None if at is None else iso(at)
