"""The fleet and the queue at one moment, for people: which run holds which GPU until when, and why the others wait.

The plan is made afresh, by the code and from the tags that the daemon uses, so that the answer holds where no daemon
runs. Nothing is written. What is asked here was true a moment ago: a run shown as next may have started meanwhile, and
every "until" is a run's own estimate. GPUs found by looking (not named in a file) are those of the machine asked on.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from headrace.errors import InvalidInput
from headrace.placement.demand import WHOLE, Demand
from headrace.placement.inventory import Gpu, Node
from headrace.placement.placements import Placement
from headrace.placement.snapshot import Hold, Plan, Running, Snapshot, Waiting
from headrace_dagster.launchers.signs_of_life import recorded_silence
from headrace_dagster.queue_views.queue_words import (
    job_name,
    partition_of,
    placement_text,
    run_name,
    short_id,
    since_text,
    until_text,
)

FIVE_LINES = """\
run_coordinator:
  module: headrace_dagster
  class: GpuRunCoordinator
run_launcher: {module: headrace_dagster, class: GpuRunLauncher}
run_monitoring: {enabled: true}"""

State = Literal[
    "next", "held", "impossible", "admitted", "starting", "running", "silent", "ending", "uncounted", "finished"
]
PAST_THE_QUEUE = "The coordinator did not admit it: it was started past the queue, or before there was a coordinator."
_QUEUE_DAEMON = "QUEUED_RUN_COORDINATOR"
# It looks every few seconds, and says so twice a minute.
_DAEMON_SILENT_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class OtherRun:
    """A run that a held one waits for. `until`: by its own estimate, in seconds since the epoch."""

    run_id: str
    name: str = ""
    job: str = ""
    partition: str | None = None
    placement: Placement | None = None
    until: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One run. Times in seconds since the epoch; None: not yet, or nobody knows.

    `state`: *next* starts at the daemon's next look, *held* waits, *impossible* is about to be failed; *admitted* has
    its GPUs and is not launched yet, *silent* runs and gives no sign of life, *ending* still holds what its processes
    have not left; *uncounted* runs outside of the coordinator.
    """

    run_id: str
    state: State
    status: str  # Dagster's
    why: str  # one sentence
    name: str
    job: str
    partition: str | None = None
    demand: Demand | None = None
    queue: str | None = None
    priority: int | None = None
    stage: str = ""
    submitted: float | None = None
    since: float | None = None  # holds its placement since
    until: float | None = None  # when it should end, by its own estimate
    ended: float | None = None
    placement: Placement | None = None
    waits_for: tuple[OtherRun, ...] = ()
    latest: float | None = None  # when it starts at the latest
    reserved: frozenset[tuple[str, str]] = frozenset()  # (node, device)
    makes_room_for: str | None = None  # a run id: it is about to be stopped


@dataclass(frozen=True, kw_only=True)
class DeviceView:
    """`shares`: thousandths, by run. *gone*: not in the inventory any more, and something runs there."""

    device: str
    model: str
    memory_mib: int
    health: Literal["healthy", "sick", "gone"]
    shares: tuple[tuple[str, int], ...] = ()
    reserved_for: str | None = None

    @property
    def free_milli(self) -> int:
        return max(0, WHOLE - sum(milli for _, milli in self.shares)) if self.health == "healthy" else 0


@dataclass(frozen=True, kw_only=True)
class NodeView:
    name: str
    devices: tuple[DeviceView, ...]
    cpu_milli: int
    cpu_milli_held: int
    memory_mib: int
    memory_mib_held: int
    without_gpu: tuple[str, ...] = ()  # run ids that hold CPU or memory here, and no GPU


@dataclass(frozen=True, kw_only=True)
class QueueView:
    """`queued` in the order in which the planner took them; `running` as long as they hold something."""

    at: float
    nodes: tuple[NodeView, ...]
    running: tuple[RunView, ...]
    queued: tuple[RunView, ...]
    daemon_silent_seconds: float | None = None  # None: it has spoken lately; infinite: it never has

    def run(self, run_id: str) -> RunView | None:
        return self._by_id.get(run_id)

    @cached_property
    def _by_id(self) -> dict[str, RunView]:
        return {run.run_id: run for run in (*self.queued, *self.running)}


def read_queue(instance: DagsterInstance, now: float) -> QueueView:
    """Reads runs and plans once.

    Raises:
        InvalidInput: the instance has another coordinator.
    """
    snapshot, plan, runs = _planned(instance, now)
    return queue_view(snapshot, plan, runs, now, daemon_silent_seconds=_daemon_silent_seconds(instance, now))


def _planned(instance: DagsterInstance, now: float) -> tuple[Snapshot, Plan, Mapping[str, DagsterRun]]:
    from headrace.placement.queueing import plan
    from headrace_dagster.coordinator.run_coordinator import GpuRunCoordinator

    coordinator = instance.run_coordinator
    if not isinstance(coordinator, GpuRunCoordinator):
        raise InvalidInput(
            f"This Dagster instance has {type(coordinator).__name__}, which knows nothing of GPUs: put this into "
            f"dagster.yaml, and start its daemon again.\n\n{FIVE_LINES}"
        )
    snapshot, runs = coordinator.snapshot(now)
    return snapshot, plan(snapshot, coordinator.policy, now), runs


def queue_view(
    snapshot: Snapshot,
    plan: Plan,
    runs: Mapping[str, DagsterRun],
    now: float,
    *,
    daemon_silent_seconds: float | None = None,
) -> QueueView:
    """Puts together what was planned and what it was planned from. Runs that `runs` lacks have no name."""
    waiting = {run.run_id: run for run in snapshot.waiting}
    others = {
        run.run_id: _other(run.run_id, runs, placement=run.placement, until=_until(run)) for run in snapshot.running
    }
    reserved = {reservation.run_id: reservation for reservation in plan.reservations}
    room = {preemption.run_id: preemption.for_run_id for preemption in plan.preemptions}
    queued = []
    for run_id in dict.fromkeys([*plan.admissions, *plan.holds, *plan.impossible, *waiting]):
        if run_id not in waiting:
            continue
        hold = plan.holds.get(run_id, Hold(run_id=run_id, sentence="Has not been looked at yet."))
        reservation = reserved.get(run_id)
        state, why = _queued_state(run_id, plan, hold)
        queued.append(
            RunView(
                state=state,
                why=why,
                submitted=waiting[run_id].submitted,
                waits_for=tuple(others.get(other) or _other(other, runs) for other in hold.waits_for),
                latest=_earliest(hold.latest, reservation.latest if reservation else None),
                reserved=reservation.devices if reservation else frozenset(),
                placement=plan.admissions.get(run_id),
                **_common(waiting[run_id], runs),
            )
        )
    return QueueView(
        at=now,
        nodes=_nodes(snapshot, plan),
        running=tuple(_running(run, runs, room.get(run.run_id), now) for run in snapshot.running),
        queued=tuple(queued),
        daemon_silent_seconds=daemon_silent_seconds,
    )


def _queued_state(run_id: str, plan: Plan, hold: Hold) -> tuple[State, str]:
    if run_id in plan.admissions:
        where = placement_text(plan.admissions[run_id])
        return "next", f"Starts when the daemon looks next{f', on {where}' if where else ''}."
    if run_id in plan.impossible:
        return "impossible", plan.impossible[run_id]
    return "held", hold.sentence


def _running(run: Running, runs: Mapping[str, DagsterRun], makes_room_for: str | None, now: float) -> RunView:
    status = runs[run.run_id].status if run.run_id in runs else None
    until = _until(run)
    where = placement_text(run.placement) or "nothing that is counted"
    end = f"; should end {until_text(until, now)}" if until else ""
    match status:
        case _ if run.ending:
            state, why = "ending", f"Is ending: its processes have not all gone, and hold {where} until they have."
        case DagsterRunStatus.QUEUED:
            state, why = "admitted", f"Is admitted to {where}, and about to be launched."
        case DagsterRunStatus.NOT_STARTED | DagsterRunStatus.STARTING:
            state, why = "starting", f"Is starting on {where}{end}."
        case _ if not run.started:
            state, why = "uncounted", PAST_THE_QUEUE
        case _ if silence := recorded_silence(runs[run.run_id]) if run.run_id in runs else None:
            quiet = f"no sign of life since {since_text(silence.since, now)}: {silence.what}"
            state, why = "silent", f"Holds {where}, and gives {quiet}."
        case _:
            state, why = "running", f"Runs on {where}{end}."
    if makes_room_for and not run.ending:
        why = f"{why} It is about to be stopped for {short_id(makes_room_for)}, and will be queued again."
    return RunView(
        state=state,
        why=why,
        since=run.started or None,
        until=until,
        placement=run.placement,
        makes_room_for=makes_room_for,
        **_common(run, runs),
    )


def _until(run: Running) -> float | None:
    return run.started + run.expected_seconds if run.started else None


def _common(run: Waiting | Running, runs: Mapping[str, DagsterRun]) -> dict:
    known = runs.get(run.run_id)
    return {
        "run_id": run.run_id,
        "status": known.status.value if known else "",
        "name": run_name(known) if known else "",
        "job": job_name(known) if known else "",
        "partition": partition_of(known) if known else None,
        "demand": run.demand,
        "queue": run.queue,
        "priority": run.priority,
        "stage": run.stage,
    }


def _other(
    run_id: str, runs: Mapping[str, DagsterRun], *, placement: Placement | None = None, until: float | None = None
) -> OtherRun:
    run = runs.get(run_id)
    return OtherRun(
        run_id=run_id,
        name=run_name(run) if run else "",
        job=job_name(run) if run else "",
        partition=partition_of(run) if run else None,
        placement=placement,
        until=until,
    )


def _nodes(snapshot: Snapshot, plan: Plan) -> tuple[NodeView, ...]:
    known = {node.name: node for node in snapshot.inventory.nodes}
    shares: dict[tuple[str, str], list[tuple[str, int]]] = defaultdict(list)
    hosts: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    has_gpu = set()
    for run in snapshot.running:
        for share in run.placement.gpus:
            shares[share.node, share.device].append((run.run_id, share.milli))
            has_gpu.add((run.run_id, share.node))
        for host in run.placement.hosts:
            hosts[host.node].append((run.run_id, host.cpu_milli, host.memory_mib))
    kept = {device: reservation.run_id for reservation in plan.reservations for device in reservation.devices}
    names = [*known, *sorted(({node for node, _ in shares} | set(hosts)) - set(known))]
    return tuple(
        NodeView(
            name=name,
            devices=tuple(_devices(known.get(name, Node(name=name)), shares, kept)),
            cpu_milli=known[name].cpu_milli if name in known else 0,
            cpu_milli_held=sum(cpu for _, cpu, _ in hosts[name]),
            memory_mib=known[name].memory_mib if name in known else 0,
            memory_mib_held=sum(memory for _, _, memory in hosts[name]),
            without_gpu=tuple(run_id for run_id, _, _ in hosts[name] if (run_id, name) not in has_gpu),
        )
        for name in names
    )


def _devices(
    node: Node, shares: Mapping[tuple[str, str], list[tuple[str, int]]], kept: Mapping[tuple[str, str], str]
) -> Iterable[DeviceView]:
    here = {gpu.device for gpu in node.gpus}
    gone = sorted(device for name, device in shares if name == node.name and device not in here)
    for gpu in (*node.gpus, *(Gpu(device=device, model="", memory_mib=0) for device in gone)):
        yield DeviceView(
            device=gpu.device,
            model=gpu.model,
            memory_mib=gpu.memory_mib,
            health="gone" if gpu.device not in here else "healthy" if gpu.healthy else "sick",
            shares=tuple(shares.get((node.name, gpu.device), ())),
            reserved_for=kept.get((node.name, gpu.device)),
        )


def _earliest(*times: float | None) -> float | None:
    return min((time for time in times if time is not None), default=None)


def _daemon_silent_seconds(instance: DagsterInstance, now: float) -> float | None:
    heartbeat = instance.get_daemon_heartbeats().get(_QUEUE_DAEMON)
    silent_seconds = now - heartbeat.timestamp if heartbeat else float("inf")
    return silent_seconds if silent_seconds > _DAEMON_SILENT_SECONDS else None
