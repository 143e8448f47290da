"""A demo-sized run's store content, made by the library itself: a campaign and a service with rolled-back and present
candidates; a sealed, an unfinished and a mirrored partition; a training, weights, media, a collection.
"""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from headrace.clock import FixedClock
from headrace.engines.roles import EngineSettings, Role
from headrace.generation.bulk import Outcome
from headrace.generation.rolled_back import seal_rolled_back_rows
from headrace.handoff.collecting import collect, plan_collection
from headrace.handoff.media.index import MediaItem
from headrace.handoff.media.publishing import publish_media
from headrace.rollout.aliases import project
from headrace.rollout.journal import Journal
from headrace.rollout.live_evidence import EvidenceWriter
from headrace.rollout.plan import Plan, Step
from headrace.rollout.preparation import PreparationRecord, write_preparation
from headrace.rollout.states import RolloutState, fold
from headrace.serving.plan_lease import PlanLease
from headrace.serving.router import Router
from headrace.serving.service import Service
from headrace.store.sealed_directory import seal_directory
from headrace.store.tombstones import Condemned, Tombstone
from headrace.training import attempts, checkpoints, heldout
from headrace.training.guard import Worker as TrainingWorker
from simulation.campaign_site import CampaignSite, make_campaign
from simulation.disk import Disk
from simulation.fuzz.store import FuzzStore
from simulation.models import training_result
from simulation.registry import Aliases

SESSIONS = ("ada", "bob", "cleo")
TRAINING, FINISHED = "t" * 32, "u" * 32


class World(CampaignSite):
    """One process's view of a store with all of that."""

    clock: FixedClock

    def __init__(self, store: FuzzStore, clock: FixedClock | None = None) -> None:
        campaign = make_campaign(rollout=Plan(steps=(Step(weight=0.5, cap=3),)))
        super().__init__(store, campaign, clock or FixedClock())
        self.store = store
        self.readers: list[Any] = []
        role = Role(model="tiny", decoding=campaign.parts["writer"].decoding, engine=EngineSettings(name="echo"))
        self.service = Service(name="chat", roles={"writer": role}, chain=("writer",), session_seconds=600.0)

    def journal_of(self, name: str) -> Journal:
        return Journal(self.store, name, self.clock)

    def state(self, name: str) -> RolloutState | None:
        return fold(self.journal_of(name).entries())

    def make(self, shard: int, run: str = "run", *, killed_after: int | None = None, regenerate: Any = None) -> Outcome:
        """One run of a partition. `killed_after`: a KeyboardInterrupt after so many batches."""
        left = killed_after

        def die() -> None:
            nonlocal left
            if left is not None:
                left -= 1
                if left < 0:
                    raise KeyboardInterrupt

        return self.generate(self.claim(run, shard, regenerate), run=run, before=die)

    def router(self) -> tuple[PlanLease, Router]:
        lease = PlanLease(self.store, self.service.name, "salt", monotonic=lambda: 5.0, clock=self.clock)
        router = Router(store=self.store, service=self.service, lease=lease, gateway="gateway", clock=self.clock)
        return lease, router

    def append(self, name: str, event: str, version: int, **fields: Any) -> None:
        self.roll_out(event, version, journal=self.journal_of(name), **fields)


def build(files: Path) -> World:
    """A store with every kind of object that the library writes."""
    world = World(FuzzStore(Disk(files)))
    for shard in range(4):
        world.put_prompts(shard, [f"Define word {shard}-{row}." for row in range(5)])
    for name in (world.campaign.name, world.service.name):
        _roll_out(world, name)
    world.make(0)
    world.append(world.campaign.name, "started", 3, step=0, weight=1.0, cap=3)
    world.append(world.service.name, "started", 3, step=0, weight=1.0, cap=50)
    world.make(1, "run-1")
    with suppress(KeyboardInterrupt):
        world.make(2, "run-2", killed_after=1)
    world.mirror(0, "mirror")
    _serve(world)
    _train(world, files)
    _collect(world)
    project(world.journal, world.sets, world.store, Aliases())
    return world


def _roll_out(world: World, name: str) -> None:
    """Set 1 is stable, set 2 was tried and rolled back, set 3 is proposed and prepared: it starts later."""
    world.append(name, "initialized", 1)
    world.append(name, "started", 2, step=0, weight=1.0, cap=4)
    if name == world.campaign.name:
        world.make(3, "run-3")
    world.append(name, "aborted", 2, evict=True)
    if name == world.campaign.name:
        seal_rolled_back_rows(world.handoffs, world.claims, name, run_id="rows")
        world.make(3, "run-4", regenerate="rolled_back")
    world.append(name, "proposed", 3)
    state = world.state(name)
    assert state is not None
    for node in ("node-a", "node-b"):
        record = PreparationRecord(node=node, ok=True, seconds=1.0, members=("writer",), at=world.clock.now())
        write_preparation(world.store, name, state.proposal, record)


def _serve(world: World) -> None:
    """Sessions on the candidate and on the stable set, places under its cap, and two gateways' measurements."""
    state = world.state(world.service.name)
    assert state is not None
    lease, router = world.router()
    lease.poll()
    router.replenish()
    for session in SESSIONS:
        asyncio.run(router.resolve_session(session))
    lease.close()
    for gateway in ("gateway-a", "gateway-b"):
        writer = EvidenceWriter(world.store, world.service.name, gateway, world.clock)
        for version_set in filter(None, (state.stable, state.candidate)):
            for number in range(20):
                values = {"error": float(number % 5 == 0), "latency_seconds": 0.1 + number / 100}
                writer.record(state.trial, version_set, values, client="one", entry=state.head)
        writer.flush()


def _train(world: World, files: Path) -> None:
    store = world.store
    worker = TrainingWorker(pid=1, started=1)
    for run in ("run-a", "run-b"):
        attempt = attempts.open_attempt(store, TRAINING, worker=worker, run_id=run, clock=world.clock, host="elsewhere")
    for step in (5, 10):
        prefix, done = attempts.training_key(TRAINING, "parts", f"{step:032x}"), list[checkpoints.CheckpointFile]()
        with checkpoints.write_file(store, prefix, "rank-0.pt", done.append) as file:
            file.write(bytes(range(256)) * (step + 1))
        checkpoint = checkpoints.Checkpoint(
            training_id=TRAINING, step=step, attempt=attempt, world_size=1, prefix=prefix, files=tuple(done)
        )
        checkpoints.publish(store, checkpoint)
    attempt = attempts.open_attempt(store, FINISHED, worker=worker, run_id="r", clock=world.clock, host="elsewhere")
    result = training_result(FINISHED, attempt, world_size=1)
    attempts.publish_result(store, result, b'{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n')
    source = files / "source"
    source.mkdir()
    (source / "model.safetensors").write_bytes(bytes(range(256)) * 8)
    (source / "config.json").write_text("{}")
    sealed = seal_directory(store, source, attributes={"training_id": TRAINING})
    evaluation = heldout.Evaluation(
        weights_digest=sealed.digest,
        heldout_digest="h" * 64,
        heldout_loss=2.5,
        heldout_tokens=100,
        samples=("a → b",),
        seconds=1.0,
    )
    heldout.publish_evaluation(store, evaluation)
    items = [
        MediaItem(item_id=f"item-{number}", media_type="image/png", content=bytes([number]) * 300)
        for number in range(4)
    ]
    publish_media(world.handoffs, "pictures", "all", items, code_version="1", run_id="run", shard_bytes=700)


def _collect(world: World) -> None:
    """A collected version, a reader's lease, and a killed collector's leftovers."""
    schema = pa.schema([("x", pa.int64())])
    for number in range(4):
        table = pa.table({"x": [number, number + 1]}, schema=schema)
        world.handoffs.publish("docs", "all", table, code_version="1", run_id=f"run-{number}")
    collect(world.store, world.clock, plan_collection(world.store, world.clock, grace_seconds=-1.0))
    kept = world.handoffs.open("docs", "all", 3)
    tombstone = Tombstone(nonce="f" * 32, collector="c" * 32)
    tombstone.create(world.store, Condemned(prefix="handoff/docs/all/parts/" + "f" * 32, clears=False))
    tombstone.decide(world.store, "collect", at="then")
    kept.hold()
    # This version is being read as long as the world exists.
    world.readers.append(kept)
