"""The fleet and the queue at one moment, for people: which run holds which GPU until when, and why others wait.

The plan is made anew, with the daemon's code and from the same tags, so the answer is right even if no daemon runs.
Nothing is written. The answer was true a moment ago: a run shown as next may have started meanwhile, and every "until"
is a run's own estimate. GPUs that are not named in a file are those of the machine that runs the command.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from headrace.command_line.bodies.run_queue import State
from headrace.errors import InvalidInput
from headrace.placement.demand import WHOLE
from headrace.placement.inventory import Gpu, Node
from headrace.placement.placements import HostShare, Placement
from headrace.placement.snapshot import Plan, PlannedRun, Running, Snapshot
from headrace_dagster.launchers.signs_of_life import recorded_silence
from headrace_dagster.queue_views.queue_words import placement_text, run_name, short_id, since_text, until_text

FIVE_LINES = """\
run_coordinator:
  module: headrace_dagster
  class: GpuRunCoordinator
run_launcher: {module: headrace_dagster, class: GpuRunLauncher}
run_monitoring: {enabled: true}"""

PAST_THE_QUEUE = "The coordinator did not admit it: it was started past the queue, or before there was a coordinator."
_QUEUE_DAEMON = "QUEUED_RUN_COORDINATOR"
# The daemon looks every few seconds, and reports that twice a minute.
_DAEMON_SILENT_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One run. Times in seconds since the epoch; None: not yet, or unknown.

    `state`: *next* starts at the daemon's next look, *held* waits, *impossible* will be failed soon; *admitted* has its
    GPUs and is not launched yet, *silent* runs without a sign of life, *ending* holds what its processes have not left
    yet; *uncounted* runs outside of the coordinator.
    """

    run_id: str
    state: State
    why: str  # one sentence
    run: DagsterRun | None = None  # None: Dagster does not know it
    asked: PlannedRun | None = None
    submitted: float | None = None
    since: float | None = None  # holds its placement since
    until: float | None = None  # when it should end, by its own estimate
    ended: float | None = None
    placement: Placement | None = None
    waits_for: "tuple[RunView, ...]" = ()
    latest: float | None = None  # when it starts at the latest
    reserved: frozenset[tuple[str, str]] = frozenset()  # (node, device)
    makes_room_for: str | None = None  # a run id: it is about to be stopped

    @property
    def name(self) -> str:
        return run_name(self.run) if self.run else ""


@dataclass(frozen=True, kw_only=True)
class DeviceView:
    """`shares`: thousandths, by run. *gone*: no longer in the inventory, but a run is on it. `models`: what an engine
    host has loaded there, for people."""

    gpu: Gpu
    health: Literal["healthy", "sick", "gone"]
    shares: Sequence[tuple[str, int]]
    reserved_for: str | None
    models: tuple[str, ...] = ()

    @property
    def free_milli(self) -> int:
        return max(0, WHOLE - sum(milli for _, milli in self.shares)) if self.health == "healthy" else 0


@dataclass(frozen=True, kw_only=True)
class NodeView:
    """`held`: by all its runs; `without_gpu`: ids of runs that hold only CPU or memory here."""

    node: Node
    devices: Sequence[DeviceView]
    held: HostShare
    without_gpu: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class QueueView:
    """`queued` in the planner's order; `running` includes all runs that hold something."""

    at: float
    nodes: Sequence[NodeView]
    running: Sequence[RunView]
    queued: Sequence[RunView]
    daemon_silent_seconds: float | None = None  # None: it has reported lately; infinite: it never has
    num_slots: int | None = None  # how many more runs may start (`max_concurrent_runs`); None: no limit

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
    from headrace.placement.queueing import plan
    from headrace_dagster.coordinator.run_coordinator import GpuRunCoordinator

    coordinator = instance.run_coordinator
    if not isinstance(coordinator, GpuRunCoordinator):
        raise InvalidInput(
            f"This Dagster instance has {type(coordinator).__name__}, which knows nothing of GPUs: put this into "
            f"dagster.yaml, and start its daemon again.\n\n{FIVE_LINES}"
        )
    snapshot, runs = coordinator.snapshot(now)
    heartbeat = instance.get_daemon_heartbeats().get(_QUEUE_DAEMON)
    silent_seconds = now - heartbeat.timestamp if heartbeat else float("inf")
    view = queue_view(snapshot, plan(snapshot, coordinator.policy, now), runs, now)
    return replace(view, daemon_silent_seconds=silent_seconds if silent_seconds > _DAEMON_SILENT_SECONDS else None)


def queue_view(snapshot: Snapshot, plan: Plan, runs: Mapping[str, DagsterRun], now: float) -> QueueView:
    """Combines a plan and its snapshot. Runs that are missing in `runs` have no name."""
    room = {preemption.run_id: preemption.for_run_id for preemption in plan.preemptions}
    running = {run.run_id: _running(run, runs.get(run.run_id), room.get(run.run_id), now) for run in snapshot.running}
    waiting = {
        run.run_id: RunView(
            run_id=run.run_id,
            state="held",
            why="Has not been looked at yet.",
            run=runs.get(run.run_id),
            asked=run,
            submitted=run.submitted,
        )
        for run in snapshot.waiting
    }
    order = dict.fromkeys([*plan.admissions, *plan.holds, *plan.impossible, *waiting])
    return QueueView(
        at=now,
        num_slots=snapshot.num_slots,
        nodes=_nodes(snapshot, plan),
        running=tuple(running.values()),
        queued=tuple(_queued(waiting[run_id], plan, waiting | running) for run_id in order if run_id in waiting),
    )


def _queued(run: RunView, plan: Plan, known: Mapping[str, RunView]) -> RunView:
    hold = plan.holds.get(run.run_id)
    promised = next((one for one in plan.reservations if one.run_id == run.run_id), None)
    latest = [one.latest for one in (hold, promised) if one and one.latest is not None]
    run = replace(run, latest=min(latest, default=None), reserved=promised.devices if promised else frozenset())
    if run.run_id in plan.admissions:
        place = plan.admissions[run.run_id]
        where = f", on {placement_text(place)}" if place.nodes else ""
        return replace(run, state="next", why=f"Starts when the daemon looks next{where}.", placement=place)
    if run.run_id in plan.impossible:
        return replace(run, state="impossible", why=plan.impossible[run.run_id])
    if hold is None:
        return run
    return replace(run, why=hold.sentence, waits_for=tuple(known[one] for one in hold.waits_for if one in known))


def _running(run: Running, known: DagsterRun | None, makes_room_for: str | None, now: float) -> RunView:
    until = run.started + run.expected_seconds if run.started else None
    where = placement_text(run.placement) or "nothing that is counted"
    end = f"; should end {until_text(until, now)}" if until else ""
    match known and known.status:
        case _ if run.ending:
            state, why = "ending", f"Is ending: its processes have not all gone, and hold {where} until they have."
        case DagsterRunStatus.QUEUED:
            state, why = "admitted", f"Is admitted to {where}, and about to be launched."
        case DagsterRunStatus.NOT_STARTED | DagsterRunStatus.STARTING:
            state, why = "starting", f"Is starting on {where}{end}."
        case _ if not run.started:
            state, why = "uncounted", PAST_THE_QUEUE
        case _ if silence := recorded_silence(known) if known else None:
            quiet = f"no sign of life since {since_text(silence.since, now)}: {silence.what}"
            state, why = "silent", f"Holds {where}, and gives {quiet}."
        case _:
            state, why = "running", f"Runs on {where}{end}."
    if makes_room_for and not run.ending:
        why = f"{why} It is about to be stopped for {short_id(makes_room_for)}, and will be queued again."
    return RunView(
        run_id=run.run_id,
        state=state,
        why=why,
        run=known,
        asked=run,
        since=run.started or None,
        until=until,
        placement=run.placement,
        makes_room_for=makes_room_for,
    )


def _nodes(snapshot: Snapshot, plan: Plan) -> tuple[NodeView, ...]:
    shares: defaultdict[tuple[str, str], list[tuple[str, int]]] = defaultdict(list)
    hosts: defaultdict[str, list[tuple[str, HostShare]]] = defaultdict(list)
    for run in snapshot.running:
        for share in run.placement.gpus:
            shares[share.node, share.device].append((run.run_id, share.milli))
        for host in run.placement.hosts:
            hosts[host.node].append((run.run_id, host))
    kept = {device: reservation.run_id for reservation in plan.reservations for device in reservation.devices}
    known = {node.name: node for node in snapshot.inventory.nodes}
    gone = sorted({node for node, _ in shares} | set(hosts))
    models = {
        device: tuple(sorted(map(snapshot.residency.label, loaded)))
        for device, loaded in snapshot.residency.loaded.items()
    }
    return tuple(
        _node(known.get(name, Node(name=name)), shares, hosts[name], kept, models)
        for name in dict.fromkeys([*known, *gone])
    )


def _node(
    node: Node,
    shares: Mapping[tuple[str, str], Sequence[tuple[str, int]]],
    hosts: Sequence[tuple[str, HostShare]],
    kept: Mapping[tuple[str, str], str],
    models: Mapping[tuple[str, str], tuple[str, ...]],
) -> NodeView:
    here = {gpu.device for gpu in node.gpus}
    gone = sorted(device for name, device in shares if name == node.name and device not in here)
    devices = [
        DeviceView(
            gpu=gpu,
            health="gone" if gpu.device not in here else "healthy" if gpu.healthy else "sick",
            shares=tuple(shares.get((node.name, gpu.device), ())),
            reserved_for=kept.get((node.name, gpu.device)),
            models=models.get((node.name, gpu.device), ()),
        )
        for gpu in (*node.gpus, *(Gpu(device=device, model="", memory_mib=0) for device in gone))
    ]
    on_gpus = {run_id for device in devices for run_id, _ in device.shares}
    held = HostShare(
        node=node.name,
        cpu_milli=sum(host.cpu_milli for _, host in hosts),
        memory_mib=sum(host.memory_mib for _, host in hosts),
    )
    without_gpu = tuple(run_id for run_id, _ in hosts if run_id not in on_gpus)
    return NodeView(node=node, devices=tuple(devices), held=held, without_gpu=without_gpu)
