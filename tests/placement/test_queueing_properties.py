"""What holds for every order of events: capacity, whole gangs, no idle GPU that could work, bounded waiting, an end."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from headrace.placement.demand import WHOLE, Demand
from headrace.placement.fifo_waits import FifoWaits
from headrace.placement.fleet import Fleet
from headrace.placement.inventory import Inventory
from headrace.placement.packing import best_placement
from headrace.placement.queueing import Preempting, QueuePolicy, plan
from headrace.placement.snapshot import Plan, Reservation, Running, Snapshot, Waiting
from tests.placement.queueing_builders import make_fleet

# Too long is 100 s for gangs, 150 s for others.
FIFO_WAIT_SECONDS = 200.0
FIRM = QueuePolicy(gang_patience=0.5, patience=0.75)
STOPPING = replace(FIRM, preemption=Preempting(min_run_seconds=20.0, preemptions_max=2))

demands = st.one_of(
    st.builds(
        Demand,
        num_gpus=st.integers(1, 4),
        gang=st.sampled_from(["node", "any"]),
        cpu_milli=st.sampled_from([0, 4_000, 12_000]),
        gpu_models=st.sampled_from([frozenset(), frozenset({"A100"})]),
    ),
    st.builds(Demand, num_gpus=st.just(1), gpu_milli=st.sampled_from([250, 500, 700])),
    st.builds(Demand, cpu_milli=st.sampled_from([1_000, 16_000]), memory_mib=st.sampled_from([0, 30_000])),
)


class World:
    """A clock, a fleet and runs; whatever a plan says is done."""

    def __init__(self, inventory: Inventory, policy: QueuePolicy, *, measured: bool = False) -> None:
        """`measured`: how long is too long follows from the backlog; else it is the same for all."""
        self.inventory, self.policy, self.now = inventory, policy, 1_000.0
        self.waits = FifoWaits() if measured else None
        self.promised: tuple[Reservation, ...] = ()
        self.waiting: dict[str, Waiting] = {}
        self.running: dict[str, Running] = {}
        self.seconds: dict[str, float] = {}
        self.admitted: dict[str, Waiting] = {}
        self.waited: dict[str, float] = {}
        self.num_stops = Counter()
        self.num_submitted = 0

    def submit(self, demand: Demand, seconds: float, **fields) -> str:
        run_id = f"run-{self.num_submitted:04d}"
        self.num_submitted += 1
        self.seconds[run_id] = seconds
        self.waiting[run_id] = Waiting(
            run_id=run_id,
            demand=demand,
            submitted=self.now,
            **{"expected_seconds": seconds, "fifo_wait_seconds": FIFO_WAIT_SECONDS, **fields},
        )
        return run_id

    def snapshot(self) -> Snapshot:
        snapshot = Snapshot(
            inventory=self.inventory, waiting=tuple(self.waiting.values()), running=tuple(self.running.values())
        )
        return self.waits.look(snapshot, self.policy, self.now) if self.waits else snapshot

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for run_id, run in list(self.running.items()):
            if run.ending or run.started + self.seconds[run_id] <= self.now:
                del self.running[run_id]
                if run.ending:
                    self._queue_again(run)

    def decided(self) -> Plan:
        return plan(self.snapshot(), self.policy, self.now, self.promised)

    def step(self) -> Plan:
        decision = self.decided()
        self.promised = decision.reservations
        for run_id, placement in decision.admissions.items():
            run = self.waiting.pop(run_id)
            self.waited[run_id] = self.now - max(run.submitted, run.preempted_at)
            self.running[run_id] = run.started(placement, self.now)
            self.admitted[run_id] = run
        for stop in decision.preemptions:
            self.running[stop.run_id] = replace(self.running[stop.run_id], ending=True)
            self.num_stops[stop.run_id] += 1
        for run_id in decision.impossible:
            del self.waiting[run_id]
        return decision

    def _queue_again(self, run: Running) -> None:
        before = self.admitted[run.run_id]
        self.waiting[run.run_id] = replace(
            before,
            preempted_at=self.now,
            ran_seconds=before.ran_seconds + self.now - run.started,
            num_preemptions=run.num_preemptions + 1,
        )


class Queue(RuleBasedStateMachine):
    policy = FIRM
    measured = False

    def __init__(self) -> None:
        super().__init__()
        self.world = World(make_fleet(2, 4, 4, cpus=16), self.policy, measured=self.measured)
        self.whole = self.world.inventory
        self.last: Plan | None = None

    @rule(
        demand=demands,
        seconds=st.sampled_from([5.0, 60.0, 400.0]),
        factor=st.sampled_from([0.1, 1.0, 10.0]),
        priority=st.sampled_from([0, 0, 5]),
        queue=st.sampled_from(["default", "batch"]),
        preemptible=st.booleans(),
    )
    def submit(self, demand, seconds, factor, priority, queue, preemptible):
        fields = {"expected_seconds": seconds * factor, "priority": priority, "queue": queue}
        self.world.submit(demand, seconds, preemptible=preemptible, **fields)

    @rule(seconds=st.sampled_from([1.0, 30.0, 120.0]))
    def time_passes(self, seconds):
        self.world.advance(seconds)

    @rule(node=st.integers(0, 2), device=st.integers(0, 3), what=st.sampled_from(["sick", "gone", "back"]))
    def a_gpu_changes(self, node, device, what):
        nodes = []
        for index, old in enumerate(self.whole.nodes):
            current = self.world.inventory.nodes[index]
            if index == node:
                gpus = {gpu.device: gpu for gpu in current.gpus}
                mine = next((gpu for gpu in old.gpus if gpu.device == str(device)), None)
                if mine:
                    gpus.pop(mine.device, None)
                    if what != "gone":
                        gpus[mine.device] = replace(mine, healthy=what == "back")
                current = replace(current, gpus=tuple(gpus[name] for name in sorted(gpus)))
            nodes.append(current)
        self.world.inventory = Inventory(nodes=tuple(nodes))

    @rule()
    def decide(self):
        world, before = self.world, self.world.snapshot()
        promised = world.promised
        assert plan(before, world.policy, world.now, promised) == plan(before, world.policy, world.now, promised)
        demands_of = {run.run_id: run.demand for run in before.waiting}
        decision = world.step()
        assert set(decision.admissions) | set(decision.holds) | set(decision.impossible) == set(demands_of)
        assert len(decision.reservations) <= 2
        for run_id, placement in decision.admissions.items():
            self._holds_all_of_its_demand(demands_of[run_id], placement)
        self._nobody_holds_too_much(decision)
        self._nothing_idles_that_could_work(decision)
        for hold in decision.holds.values():
            assert hold.sentence.endswith(".")
            assert hold.run_id not in hold.waits_for

    @invariant()
    def nobody_is_lost(self):
        assert not set(self.world.waiting) & set(self.world.running)

    def _holds_all_of_its_demand(self, demand, placement):
        assert len(placement.gpus) == demand.num_gpus
        assert len({(share.node, share.device) for share in placement.gpus}) == demand.num_gpus
        assert len({share.node for share in placement.gpus}) <= 1 or demand.gang == "any"
        assert sum(host.cpu_milli for host in placement.hosts) >= demand.cpu_milli
        assert sum(host.memory_mib for host in placement.hosts) >= demand.memory_mib

    def _nobody_holds_too_much(self, decision):
        """New runs stand on healthy devices within every capacity, counted without the library's own fleet."""
        milli, cpus, memory = Counter(), Counter(), Counter()
        for run in self.world.running.values():
            for share in run.placement.gpus:
                milli[share.node, share.device] += share.milli
            for host in run.placement.hosts:
                cpus[host.node] += host.cpu_milli
                memory[host.node] += host.memory_mib
        healthy = {(node.name, gpu.device) for node in self.world.inventory.nodes for gpu in node.gpus if gpu.healthy}
        for placement in decision.admissions.values():
            assert all((share.node, share.device) in healthy for share in placement.gpus)
        assert all(milli[device] <= WHOLE for device in healthy)
        for node in self.world.inventory.nodes:
            assert cpus[node.name] <= node.cpu_milli
            assert memory[node.name] <= node.memory_mib

    def _nothing_idles_that_could_work(self, decision):
        if decision.reservations:
            return
        fleet = Fleet(self.world.inventory)
        for run in self.world.running.values():
            fleet.take(run.run_id, run.placement, found=True)
        for run_id in decision.holds:
            assert best_placement(fleet, self.world.waiting[run_id].demand) is None


class StoppingQueue(Queue):
    policy = STOPPING


class MeasuredQueue(Queue):
    policy = replace(STOPPING, order="shortest_first")
    measured = True


TestQueue = Queue.TestCase
TestStoppingQueue = StoppingQueue.TestCase
TestMeasuredQueue = MeasuredQueue.TestCase


@given(
    demand=demands,
    stream=st.sampled_from(
        [Demand(num_gpus=1), Demand(num_gpus=1, gpu_milli=600), Demand(cpu_milli=9_000), Demand(num_gpus=2)]
    ),
    priority=st.sampled_from([0, 9]),
    estimate=st.sampled_from([0.01, 1.0, 100.0]),
)
def test_no_stream_of_others_keeps_a_run_waiting(demand, stream, priority, estimate):
    """The stream asks for more than there is, for ever; each of its runs takes 20 s."""
    world = World(make_fleet(2, 4, cpus=16), FIRM)

    def arrive(count: int) -> None:
        for _ in range(count):
            world.submit(stream, 20.0, priority=priority, expected_seconds=20.0 * estimate)

    arrive(10)
    world.step()
    run_id = world.submit(demand, 50.0, expected_seconds=9_999.0)
    # Ahead of it at worst: what came within 50 s after it (a gang is less patient), two at a time; then one drain.
    bound = 150.0 + (10 + 3 * 50 / 10) * 20.0 / 2 + 20.0
    starts_within(world, run_id, bound, lambda: arrive(3))


def starts_within(world: World, run_id: str, seconds: float, meanwhile: Callable[[], object]) -> None:
    """Of a world that began at 1,000 s, in looks every 10 s."""
    while run_id in world.waiting:
        assert world.now - 1_000.0 <= seconds + 10.0
        meanwhile()
        world.step()
        world.advance(10.0)


jobs_of_several_gpus = st.lists(
    st.tuples(
        st.integers(1, 4), st.sampled_from([10.0, 90.0, 300.0]), st.sampled_from([0.1, 1.0, 10.0]), st.booleans()
    ),
    min_size=8,
    max_size=40,
)


@given(
    jobs=jobs_of_several_gpus,
    nodes=st.sampled_from([(6,), (3, 3)]),
    stopping=st.booleans(),
    measured=st.booleans(),
    order=st.sampled_from(["submission", "shortest_first"]),
)
def test_a_promised_place_is_never_pushed_back(jobs, nodes, stopping, measured, order):
    policy = replace(STOPPING if stopping else FIRM, order=order)
    keeps_its_promises(World(make_fleet(*nodes), policy, measured=measured), jobs)


def keeps_its_promises(world: World, jobs: Sequence[Any], **fields: Any) -> None:
    """T0: the first instant at which what is free, and what those that run release when they really end, will do.

    Args: fields: of each run of one GPU.
    """
    gang = "any" if len(world.inventory.nodes) > 1 else "node"
    due: dict[str, float] = {}
    arrivals = list(jobs)
    grace = 0.0
    while arrivals or world.waiting:
        for gpus, seconds, factor, preemptible in arrivals[:3]:
            told = {"expected_seconds": seconds * factor, "preemptible": preemptible, **(fields if gpus == 1 else {})}
            world.submit(Demand(num_gpus=gpus, gang=gang), seconds, **told)
        del arrivals[:3]
        waiting_before = dict(world.waiting)
        decision = world.step()
        for run_id in decision.admissions:
            assert world.now <= due.get(run_id, world.now) + grace
            due.pop(run_id, None)
        for reservation in decision.reservations:
            if reservation.run_id not in due:
                due[reservation.run_id] = _due_at(world, waiting_before[reservation.run_id].demand)
        # Whoever is stopped, and models that must leave, are gone after one second: the grace. Some models can leave
        # only when the last run has ended, and its end is seen up to a second late.
        if decision.preemptions or decision.evictions:
            grace = max(grace, 2.0 if decision.evictions else 1.0)
            world.advance(1.0)
            continue
        ends = [run.started + world.seconds[run.run_id] for run in world.running.values()]
        times = [*ends, *([decision.look_again_at] if decision.look_again_at else []), world.now + 15.0]
        world.advance(max(1e-6, min(times) - world.now))


def _due_at(world: World, demand: Demand) -> float:
    fleet = Fleet(world.inventory)
    for run in world.running.values():
        fleet.take(run.run_id, run.placement, found=True)
    for run in sorted(world.running.values(), key=lambda run: run.started + world.seconds[run.run_id]):
        fleet.release(run.run_id)
        if best_placement(fleet, demand) is not None:
            return max(world.now, run.started + world.seconds[run.run_id])
    return float("inf")


@given(
    demand=demands,
    stream=st.sampled_from([Demand(num_gpus=1), Demand(num_gpus=1, gpu_milli=600), Demand(num_gpus=2)]),
    preemptible=st.booleans(),
    stopping=st.booleans(),
    order=st.sampled_from(["submission", "shortest_first"]),
)
def test_no_load_keeps_a_run_waiting_though_its_patience_follows_the_backlog(
    demand, stream, preemptible, stopping, order
):
    """Three times as much comes as can be done, for ever, and of the highest priority; a part of it is short."""
    world = World(make_fleet(2, 4, cpus=16), replace(STOPPING if stopping else FIRM, order=order), measured=True)

    def arrive(count: int) -> None:
        for _ in range(count):
            world.submit(stream, 20.0, priority=9, preemptible=preemptible)
        world.submit(stream, 0.5, priority=9, preemptible=preemptible)

    arrive(20)
    world.step()
    run_id = world.submit(demand, 50.0, preemptible=preemptible)
    steps = 0
    while run_id in world.waiting:
        assert steps < 100
        arrive(9)
        world.step()
        world.advance(10.0)
        steps += 1


@given(
    jobs=st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from([30.0, 200.0]), st.sampled_from([0, 0, 1, 9])),
        min_size=5,
        max_size=30,
    )
)
def test_preemption_ends_though_no_run_keeps_anything_of_its_work(jobs):
    world = World(make_fleet(4), STOPPING)
    for gpus, seconds, priority in jobs:
        world.submit(Demand(num_gpus=gpus), seconds, priority=priority, preemptible=True)
        world.step()
        world.advance(25.0)
    steps = 0
    while world.waiting or world.running:
        world.step()
        world.advance(10.0)
        steps += 1
        assert steps < 100 * len(jobs)
    assert max(world.num_stops.values(), default=0) <= 2
    assert set(world.waited) == set(world.seconds)
