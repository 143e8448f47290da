"""Models that stay on GPUs break nothing that holds without them: capacity, order, promises, an end of every wait."""

from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import rule

from headrace.placement.demand import Demand
from headrace.placement.fleet import Fleet
from headrace.placement.ordering import has_aged
from headrace.placement.packing import best_placement
from headrace.placement.queueing import QueuePolicy, plan
from headrace.placement.residency import Device, Residency
from headrace.placement.snapshot import Plan, Snapshot
from tests.placement.queueing_builders import make_fleet
from tests.placement.test_queueing_properties import (
    FIRM,
    STOPPING,
    Queue,
    World,
    demands,
    jobs_of_several_gpus,
    keeps_its_promises,
    starts_within,
)

MODELS = ("painter", "speaker", "writer")
BRING_SECONDS = {"painter": 40.0, "writer": 15.0}  # the speaker was never measured
loads = st.frozensets(st.sampled_from(MODELS), max_size=2)


class WarmWorld(World):
    """GPUs keep what runs there have loaded, one run's models at a time; a host empties one when it is told to."""

    def __init__(self, *arguments, **named) -> None:
        super().__init__(*arguments, **named)
        self.loaded: dict[Device, frozenset[str]] = {}
        self.leaving: set[Device] = set()

    def snapshot(self) -> Snapshot:
        residency = Residency(
            nodes=frozenset(node.name for node in self.inventory.nodes),
            loaded={device: models for device, models in self.loaded.items() if models},
            bring_seconds=BRING_SECONDS,
        )
        snapshot = replace(super().snapshot(), residency=residency)
        return self.waits.look(snapshot, self.policy, self.now) if self.waits else snapshot

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        for device in self.leaving:
            self.loaded[device] = self.loaded.get(device, frozenset()) & self.at_work(device)
        self.leaving = set()

    def step(self) -> Plan:
        before = dict(self.running)
        decision = super().step()
        for run_id, placement in decision.admissions.items():
            run = self.running[run_id]
            for share in placement.gpus:
                device = (share.node, share.device)
                found = self.loaded.get(device, frozenset())
                if not run.loads:
                    assert found <= self.at_work(device), "who computes by itself meets no model that nobody uses"
                else:
                    # What is at work beside it stays.
                    self.loaded[device] = self.at_work(device)
        for eviction in decision.evictions:
            assert eviction.for_run_id in decision.holds
            self.leaving.add((eviction.node, eviction.device))
        assert before.keys() <= self.running.keys()
        return decision

    def at_work(self, device: Device) -> frozenset[str]:
        return frozenset(
            model
            for run in self.running.values()
            if device in {(share.node, share.device) for share in run.placement.gpus}
            for model in run.loads
        )


class WarmQueue(Queue):
    def __init__(self) -> None:
        super().__init__()
        self.world = WarmWorld(make_fleet(2, 4, 4, cpus=16), self.policy, measured=self.measured)

    @rule(demand=demands, seconds=st.sampled_from([5.0, 60.0, 400.0]), loads=loads)
    def submit_with_models(self, demand, seconds, loads):
        self.world.submit(demand, seconds, loads=loads)

    def _nothing_idles_that_could_work(self, decision):
        """But for who is sooner elsewhere, or waits until models have left."""
        fleet = Fleet(self.world.inventory)
        for run in self.world.running.values():
            fleet.take(run.run_id, run.placement, found=True)
        emptied = {eviction.for_run_id for eviction in decision.evictions}
        for run_id, hold in decision.holds.items():
            run = self.world.waiting[run_id]
            if hold.sentence.startswith("Waits for GPU"):
                assert not has_aged(run, self.policy, self.world.now), "who waited too long waits for no model"
                assert run.loads
                assert decision.look_again_at is not None
            elif run_id in emptied:
                assert not run.loads or run.demand.num_gpus > 1
            elif not emptied and not decision.reservations:
                assert best_placement(fleet, run.demand) is None


class WarmStoppingQueue(WarmQueue):
    policy = STOPPING
    measured = True


class WarmShortestQueue(WarmQueue):
    policy = replace(FIRM, order="shortest_first")


TestWarmQueue = WarmQueue.TestCase
TestWarmStoppingQueue = WarmStoppingQueue.TestCase
TestWarmShortestQueue = WarmShortestQueue.TestCase


@given(
    demand=demands, own=loads, priority=st.sampled_from([0, 9]), order=st.sampled_from(["submission", "shortest_first"])
)
def test_no_stream_of_warm_runs_keeps_a_run_waiting(demand, own, priority, order):
    """The stream's model is on every GPU, its runs are shorter, and there are more of them than fit, for ever."""
    world = WarmWorld(make_fleet(2, 4, cpus=16), QueuePolicy(gang_patience=0.5, patience=0.75, order=order))
    stream = Demand(num_gpus=1)

    def arrive(count: int) -> None:
        for _ in range(count):
            world.submit(stream, 20.0, priority=priority, expected_seconds=20.0, loads=frozenset({"writer"}))

    arrive(10)
    world.step()
    run_id = world.submit(demand, 50.0, expected_seconds=9_999.0, loads=own)
    # As without models; and a look more, in which they leave.
    starts_within(world, run_id, 150.0 + (10 + 3 * 50 / 10) * 20.0 / 2 + 20.0 + 10.0, lambda: arrive(3))


@given(
    jobs=jobs_of_several_gpus,
    nodes=st.sampled_from([(6,), (3, 3)]),
    stopping=st.booleans(),
    measured=st.booleans(),
    own=st.sampled_from([frozenset({"painter"}), frozenset({"writer", "speaker"})]),
)
def test_models_push_no_promised_place_back_but_for_the_time_that_they_take_to_leave(
    jobs, nodes, stopping, measured, own
):
    world = WarmWorld(make_fleet(*nodes), STOPPING if stopping else FIRM, measured=measured)
    keeps_its_promises(world, jobs, loads=own)


@given(
    estimate=st.floats(1.0, 1e6),
    bring=st.floats(1.0, 1e4),
    others=st.integers(0, 3),
    patience=st.floats(1.0, 1e6),
)
# A saving of less than what is between two moments of the clock.
@example(estimate=1.0, bring=1.843781674024342, others=0, patience=7.0)
def test_a_run_that_waits_for_a_gpu_which_never_ends_is_put_elsewhere(estimate, bring, others, patience):
    """A wait of `bring` after the estimate has passed at most, looking only when the plan says so."""
    world = WarmWorld(make_fleet(2 + others), FIRM)
    first = world.submit(Demand(num_gpus=1), float("inf"), expected_seconds=estimate, loads=frozenset({"painter"}))
    world.step()
    assert first in world.running
    world.loaded = {("node-a", world.running[first].placement.gpus[0].device): frozenset({"painter"})}
    run_id = world.submit(Demand(num_gpus=1), 10.0, loads=frozenset({"painter"}), fifo_wait_seconds=patience)
    began = world.now
    while run_id in world.waiting:
        snapshot = world.snapshot()
        snapshot = replace(snapshot, residency=replace(snapshot.residency, bring_seconds={"painter": bring}))
        decision = plan(snapshot, FIRM, world.now)
        if run_id in decision.admissions:
            return
        assert decision.look_again_at is not None
        assert decision.look_again_at > world.now
        world.now = decision.look_again_at
        assert world.now - began <= 2 * bring + 1.0
