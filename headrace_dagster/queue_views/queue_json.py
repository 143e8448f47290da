"""The output of `headrace queue --json` and `headrace why --json`. Keys are added, never renamed; times: UTC, ISO 8601.

A run: `run_id`, `state` (next, held, impossible, admitted, starting, running, ending, uncounted, finished), `status`
(Dagster's), `why`, `name`, `job`, `partition`, `demand` (`text`, `num_gpus`, `gpu_share`, `gpu_memory_mib`,
`gpu_models`, `gang`, `cpus`, `memory_mib`), `queue`, `priority`, `stage`, `submitted`, `since`, `until`, `ended`,
`latest`, `placement` (`gpus`: `node`, `device`, `share`; `hosts`: `node`, `cpus`, `memory_mib`), `waits_for` (`run_id`,
`name`, `job`, `partition`, `until`), `reserved` (`node`, `device`), `makes_room_for`. Unknown values are null.

A queue: `at`, `daemon_silent_seconds` (null: it has reported lately; -1: never), `nodes` (`node`, `cpus`, `cpus_held`,
`memory_mib`, `memory_mib_held`, `gpus`: `device`, `model`, `memory_mib`, `health`, `free`, `reserved_for`, `held_by`:
`run_id`, `share`), `running` and `queued` (runs, queued ones in order), `num_queued` (unaffected by `--limit`).
"""

import math
from typing import Any

from headrace.clock import iso
from headrace.placement.demand import WHOLE, Demand
from headrace.placement.placements import Placement
from headrace_dagster.queue_views.queue_view import NodeView, QueueView, RunView
from headrace_dagster.queue_views.queue_words import demand_text, partition_in, stated_job

_CPU = 1000


def queue_body(view: QueueView, *, limit: int | None = None) -> dict[str, Any]:
    silent = view.daemon_silent_seconds
    return {
        "at": iso(view.at),
        "daemon_silent_seconds": -1 if silent == math.inf else silent,
        "nodes": [_node_body(node) for node in view.nodes],
        "running": [run_body(run) for run in view.running],
        "queued": [run_body(run) for run in view.queued[:limit]],
        "num_queued": len(view.queued),
    }


def run_body(run: RunView) -> dict[str, Any]:
    asked = run.asked
    return {
        **_name_body(run),
        "state": run.state,
        "status": run.run.status.value if run.run else None,
        "why": run.why,
        "demand": _demand_body(asked.demand) if asked else None,
        "queue": asked.queue if asked else None,
        "priority": asked.priority if asked else None,
        "stage": asked.stage or None if asked else None,
        **{name: _iso(getattr(run, name)) for name in ("submitted", "since", "until", "ended", "latest")},
        "placement": _placement_body(run.placement) if run.placement else None,
        "waits_for": [{**_name_body(other), "until": _iso(other.until)} for other in run.waits_for],
        "reserved": [{"node": node, "device": device} for node, device in sorted(run.reserved)],
        "makes_room_for": run.makes_room_for,
    }


def _name_body(run: RunView) -> dict[str, Any]:
    known = run.run
    return {
        "run_id": run.run_id,
        "name": run.name or None,
        "job": stated_job(known.job_name) or None if known else None,
        "partition": partition_in(known.tags) if known else None,
    }


def _demand_body(demand: Demand) -> dict[str, Any]:
    return {
        "text": demand_text(demand),
        "num_gpus": demand.num_gpus,
        "gpu_share": demand.gpu_milli / WHOLE if demand.num_gpus else 0,
        "gpu_memory_mib": demand.gpu_memory_mib,
        "gpu_models": sorted(demand.gpu_models),
        "gang": demand.gang,
        "cpus": demand.cpu_milli / _CPU,
        "memory_mib": demand.memory_mib,
    }


def _placement_body(placement: Placement) -> dict[str, Any]:
    return {
        "gpus": [{"node": one.node, "device": one.device, "share": one.milli / WHOLE} for one in placement.gpus],
        "hosts": [
            {"node": host.node, "cpus": host.cpu_milli / _CPU, "memory_mib": host.memory_mib}
            for host in placement.hosts
        ],
    }


def _node_body(view: NodeView) -> dict[str, Any]:
    return {
        "node": view.node.name,
        "cpus": view.node.cpu_milli / _CPU,
        "cpus_held": view.held.cpu_milli / _CPU,
        "memory_mib": view.node.memory_mib,
        "memory_mib_held": view.held.memory_mib,
        "gpus": [
            {
                "device": device.gpu.device,
                "model": device.gpu.model or None,
                "memory_mib": device.gpu.memory_mib or None,
                "health": device.health,
                "free": device.free_milli / WHOLE,
                "reserved_for": device.reserved_for,
                "held_by": [{"run_id": run_id, "share": milli / WHOLE} for run_id, milli in device.shares],
            }
            for device in view.devices
        ],
    }


def _iso(at: float | None) -> str | None:
    return None if at is None else iso(at)
