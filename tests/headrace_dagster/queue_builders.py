"""A made-up fleet of three nodes: whole GPUs, shares, a sick one, a gang that waits for eight."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dagster as dg
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.utils import make_new_run_id

from headrace.placement.demand import Demand
from headrace.placement.inventory import Gpu, Inventory, Node
from headrace.placement.placements import GpuShare, HostShare, Placement
from headrace.placement.snapshot import Hold, Plan, Reservation, Running, Snapshot, Waiting
from headrace_dagster.queue_views.queue_view import QueueView, queue_view

NOW = 1_790_000_000.0
MINUTE = 60.0
TRAINING, PICTURES, TEXTS, PREP = "1c07aaaa", "88e2bbbb", "99e2cccc", "77d1dddd"
GANG, SMALL, NEXT, NEVER = "a1b2eeee", "b2c3ffff", "c3d40000", "d4e51111"
_REST = "-0000-4000-8000-000000000000"


def run_id(beginning: str) -> str:
    return beginning + _REST


def make_run(
    beginning: str,
    *,
    job_name: str = "__ASSET_JOB",
    assets: tuple[str, ...] = (),
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED,
    tags: Mapping[str, str] | None = None,
) -> DagsterRun:
    return DagsterRun(
        job_name=job_name,
        run_id=run_id(beginning) if len(beginning) == 8 else make_new_run_id(),
        status=status,
        asset_selection=frozenset(dg.AssetKey.from_user_string(asset) for asset in assets) or None,
        tags=dict(tags or {}),
        # Dagster queues no run that it could not launch.
        remote_job_origin=RemoteJobOrigin(
            repository_origin=RemoteRepositoryOrigin(
                code_location_origin=RegisteredCodeLocationOrigin("made up"), repository_name="made up"
            ),
            job_name=job_name,
        ),
    )


def make_node(name: str, *, num_gpus: int = 4, sick: tuple[int, ...] = (), model: str = "H100") -> Node:
    gpus = (
        Gpu(device=str(number), model=model, memory_mib=81_559, healthy=number not in sick)
        for number in range(num_gpus)
    )
    return Node(name=name, gpus=tuple(gpus), cpu_milli=64_000, memory_mib=262_144)


def shares(node: str, devices: str, milli: int = 1000) -> tuple[GpuShare, ...]:
    return tuple(GpuShare(node=node, device=device, milli=milli) for device in devices)


def make_running(beginning: str, placement: Placement, **stated: Any) -> Running:
    return Running(
        **{
            "run_id": run_id(beginning),
            "demand": Demand(num_gpus=len(placement.gpus)),
            "placement": placement,
            "started": NOW - 30 * MINUTE,
            "expected_seconds": 45 * MINUTE,
            **stated,
        }
    )


def make_waiting(beginning: str, demand: Demand, **stated: Any) -> Waiting:
    return Waiting(
        **{
            "run_id": run_id(beginning),
            "demand": demand,
            "submitted": NOW - 12 * MINUTE,
            "expected_seconds": 3600.0,
            **stated,
        }
    )


def made_up_view(**stated: Any) -> QueueView:
    """Twelve GPUs; what waits was planned by hand, so that each kind of answer is there."""
    inventory = Inventory(nodes=(make_node("node-a"), make_node("node-b", sick=(3,)), make_node("node-c")))
    running = (
        make_running(
            TRAINING,
            Placement(
                gpus=shares("node-a", "0123"), hosts=(HostShare(node="node-a", cpu_milli=32_000, memory_mib=131_072),)
            ),
            stage="training",
            priority=5,
        ),
        make_running(PICTURES, Placement(gpus=shares("node-b", "0", 500)), expected_seconds=20 * MINUTE),
        make_running(TEXTS, Placement(gpus=shares("node-b", "0", 300)), expected_seconds=33 * MINUTE),
        make_running(PREP, Placement(hosts=(HostShare(node="node-c", cpu_milli=8_000, memory_mib=16_384),))),
    )
    waiting = (
        make_waiting(GANG, Demand(num_gpus=8, gang="any"), priority=5, stage="training"),
        make_waiting(SMALL, Demand(num_gpus=1, gpu_milli=250), queue="nightly"),
        make_waiting(NEXT, Demand(num_gpus=1), submitted=NOW - 5),
        make_waiting(NEVER, Demand(num_gpus=64)),
    )
    kept = frozenset({("node-c", device) for device in "0123"})
    plan = Plan(
        admissions={run_id(NEXT): Placement(gpus=shares("node-b", "1"))},
        holds={
            run_id(GANG): Hold(
                run_id=run_id(GANG),
                sentence="Needs 8 GPUs, 6 are free or kept for it: waits for 1c07aaaa.",
                waits_for=(run_id(TRAINING),),
                latest=NOW + 15 * MINUTE,
            ),
            run_id(SMALL): Hold(run_id=run_id(SMALL), sentence="Waits for pool small_models: 2 of 2 slots are taken."),
        },
        impossible={run_id(NEVER): "It asks for 64 GPUs on one node, and the largest node (node-a) has 4."},
        reservations=(Reservation(run_id=run_id(GANG), devices=kept, latest=NOW + 15 * MINUTE),),
    )
    runs = [
        make_run(TRAINING, assets=("trained_model",), tags={"dagster/partition": "qwen|base"}),
        make_run(PICTURES, assets=("generated_content",), tags={"dagster/partition": "2026-11-22|glossary-00"}),
        make_run(TEXTS, assets=("generated_content",), tags={"dagster/partition": "2026-11-22|glossary-01"}),
        make_run(PREP, job_name="prepare", tags={"dagster/partition": "shard-07"}),
        make_run(GANG, job_name="nightly_training", status=dg.DagsterRunStatus.QUEUED),
        make_run(SMALL, assets=("labels", "clips", "clean_documents"), status=dg.DagsterRunStatus.QUEUED),
        make_run(NEXT, assets=("clips",), status=dg.DagsterRunStatus.QUEUED),
        make_run(NEVER, assets=("trained_model",), status=dg.DagsterRunStatus.QUEUED),
    ]
    snapshot = Snapshot(inventory=inventory, waiting=waiting, running=running)
    return replace(queue_view(snapshot, plan, {run.run_id: run for run in runs}, NOW), **stated)
