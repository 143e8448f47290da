"""All readers of a store: each does its work on a damaged copy and reports wrong results.

Stopping with one of our errors is right. Wrong is another exception, a row or byte that was never sealed under its
name, a unit of work on a rolled-back set, and an abort that damage elsewhere has stopped.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from headrace.errors import HandoffCorrupt, HeadraceError
from headrace.generation.claim_pins import read_claim_pins
from headrace.generation.rolled_back import bad_versions, seal_rolled_back_rows
from headrace.generation.sealed_tables import UNPUBLISHED
from headrace.generation.subject import CampaignSubject, end_under_way
from headrace.handoff.collecting import collect, plan_collection
from headrace.handoff.media.reading import MediaSet
from headrace.registry.model_versions import ModelVersion
from headrace.rollout import interventions
from headrace.rollout.aliases import project
from headrace.rollout.journal import JournalCorrupt
from headrace.rollout.live_evidence import read_live
from headrace.rollout.preparation import preparations
from headrace.rollout.status import read_status
from headrace.rollout.subject import Subject
from headrace.rollout.ticking import Rollout
from headrace.serving.subject import ServiceSubject
from headrace.store.sealed_directory import open_directory
from headrace.store.small_objects import PassedOver
from headrace.store.standings import examine, small_object_keys
from headrace.training import attempts, checkpoints, heldout
from simulation.fuzz.world import FINISHED, SESSIONS, TRAINING, World
from simulation.models import model_of
from simulation.registry import Aliases

_BY: dict[str, Any] = {"by": "fuzz", "reason": "as the fuzz has it"}


class Wrong(Exception):
    """The result differs from what was sealed. `bar`: the bar that it breaks."""

    def __init__(self, bar: str, what: str) -> None:
        super().__init__(what)
        self.bar = bar


@dataclass(frozen=True)
class Truth:
    """The undamaged world's results."""

    world: World

    @cached_property
    def aborted(self) -> dict[str, frozenset[str]]:
        return {name: state.aborted for name in self.names if (state := self.world.state(name))}

    @property
    def names(self) -> tuple[str, str]:
        return self.world.campaign.name, self.world.service.name

    @cached_property
    def versions(self) -> list[tuple[str, str, int]]:
        handoffs = self.world.handoffs
        return [
            (asset, partition, version)
            for asset in handoffs.assets()
            for partition in handoffs.partitions(asset)
            for version in handoffs.versions(asset, partition)
        ]

    @cached_property
    def tables(self) -> dict[tuple[str, str, int], Any]:
        return {name: self.world.handoffs.open(*name).table() for name in self.versions}

    @cached_property
    def rows(self) -> dict[tuple[str, str], Any]:
        """(partition, version set) → its rows, made in an undamaged world."""
        found: dict[tuple[str, str], Any] = {}
        for asset, partition, version in self.versions:
            if asset in ("generated_content", "mirrored_content"):
                content = self.world.handoffs.open(asset, partition, version)
                found[partition, content.attributes["version_set"]] = content.table()
        return found

    @cached_property
    def media(self) -> dict[str, bytes]:
        return _media(self.world)

    @cached_property
    def weights(self) -> dict[str, dict[str, bytes]]:
        store = self.world.store
        return {digest: _files(store, digest) for digest in store.children("weights") if digest != "parts"}


def readers(truth: Truth) -> Iterator[tuple[str, Callable[[World], object]]]:
    """Each reader with its name; they are independent of each other."""
    campaign, service = truth.names
    for name in truth.versions:
        yield f"open {name[0]} v{name[2]} {name[1]}", partial(_open, truth, name)
    for asset, partition in dict.fromkeys((asset, partition) for asset, partition, _ in truth.versions):
        yield f"newest {asset} {partition}", partial(_newest, truth, asset, partition)
    for name in truth.names:
        yield f"status {name}", lambda world, name=name: _status(world, name)
        yield f"tick {name}", partial(_tick, truth, name)
        yield f"abort {name}", partial(_abort, truth, name)
        yield f"pause {name}", lambda world, name=name: interventions.pause(world.journal_of(name), **_BY)
        yield (
            f"aliases {name}",
            lambda world, name=name: project(world.journal_of(name), world.sets, world.store, Aliases()),
        )
        yield f"verify {name}", lambda world, name=name: world.journal_of(name).verify()
    for shard in range(4):
        yield f"generate {shard}", partial(_generate, truth, shard, {})
        yield f"regenerate {shard}", partial(_generate, truth, shard, {"regenerate": "current_set"})
    yield "retry 2", partial(_generate, truth, 2, {"run": "run-2"})
    yield "mirror 0", lambda world: world.mirror(0, "mirror")
    yield "mirror 1", lambda world: world.mirror(1, "another")
    yield "rolled back", lambda world: _rolled_back(world, campaign)
    yield "gc dry run", lambda world: _collect(world, dry=True)
    yield "gc", lambda world: _collect(world, dry=False)
    yield "sessions", partial(_sessions, truth)
    yield "sweep", lambda world: world.router()[1].sweep()
    yield "evidence", lambda world: _evidence(world, service)
    yield "media", partial(_media_same, truth)
    for digest in truth.weights:
        yield f"weights {digest[:8]}", partial(_weights, truth, digest)
    yield "version sets", lambda world: _sets(world)
    yield "training", lambda world: _training(world)
    yield "result", lambda world: _result(world)
    yield "evaluation", lambda world: _evaluation(world)
    yield "examine", lambda world: list(examine(world.store, small_object_keys(world.store)))


def _open(truth: Truth, name: tuple[str, str, int], world: World) -> None:
    if not world.handoffs.open(*name).table().equals(truth.tables[name]):
        raise Wrong("wrong", f"{name} holds other rows")


def _newest(truth: Truth, asset: str, partition: str, world: World) -> None:
    found = world.handoffs.newest(asset, partition)
    if found is not None and not found.table().equals(truth.tables.get((asset, partition, found.version))):
        raise Wrong("wrong", f"the newest of {asset}[{partition}] holds other rows")


def _status(world: World, name: str) -> None:
    read_status(world.store, name, world.clock)
    preparations(world.store, name, 4)


def _subject(world: World, name: str) -> Subject:
    if name == world.service.name:
        return ServiceSubject.of(world.service, world.store)
    return CampaignSubject.of(world.campaign, world.handoffs)


def _tick(truth: Truth, name: str, world: World) -> None:
    models = [_model(version) for version in (1, 2, 3)]
    rollout = Rollout(world.store, name, world.clock, node="node-a")
    rollout.tick(_subject(world, name), models, prepare=lambda version_set: None)
    state = world.state(name)
    if state and truth.aborted[name] & {state.stable, state.candidate, state.proposed}:
        raise Wrong("revived", f"after a tick {name} has a set that was rolled back")


def _abort(truth: Truth, name: str, world: World) -> None:
    """Aborts as the command does, or a person in the launchpad."""
    before = partial(end_under_way, world.handoffs, name, damaged=PassedOver())
    num_objects = len(world.store.bodies)
    try:
        interventions.abort(world.journal_of(name), **_BY, before=before)
    except JournalCorrupt as error:
        own = f"rollout/{name}/journal/"
        if not (error.key or "").startswith(own) or len(world.store.bodies) != num_objects:
            raise Wrong("abort", f"{error.key} stopped the abort of {name}, or something was written") from error
        raise
    except HeadraceError as error:
        raise Wrong("abort", f"the abort of {name} did not work: {error}") from error
    state = world.state(name)
    if state is None or state.candidate is not None or len(state.aborted) != len(truth.aborted[name]) + 1:
        raise Wrong("abort", f"{name} still has its candidate after the abort")


def _generate(truth: Truth, shard: int, how: dict[str, Any], world: World) -> None:
    outcome = world.make(shard, **{"run": "run-again", **how})
    found, partition = outcome.content.attributes["version_set"], world.partition(shard).key
    if found in truth.aborted[world.campaign.name]:
        raise Wrong("revived", f"{partition} was made on a set that was rolled back")
    if world.handoffs.versions(UNPUBLISHED, partition):
        raise Wrong("wrong", f"{partition} has unpublished rows")
    table = outcome.content.table()
    wanted = truth.rows.get((partition, found))
    if table.num_rows != 5 or (wanted is not None and not table.equals(wanted)):
        raise Wrong("wrong", f"{partition} was published with other rows")
    if set(table["version_set"].to_pylist()) != {found}:
        raise Wrong("wrong", f"{partition} has rows of several sets")


def _rolled_back(world: World, name: str) -> None:
    state = world.state(name)
    if state is not None:
        bad_versions(world.handoffs, state.aborted, campaign=name, damaged=PassedOver())
        seal_rolled_back_rows(world.handoffs, world.claims, name, run_id="again")


def _collect(world: World, *, dry: bool) -> None:
    """The grace time is over, so everything without protection goes."""
    store = world.store
    try:
        plan = plan_collection(store, world.clock, grace_seconds=-1.0)
        read_claim_pins(store, damaged=PassedOver())
        if not dry:
            collect(store, world.clock, plan)
    except HeadraceError as error:
        raise Wrong("stopped", f"the collection was stopped: {error}") from error


def _sessions(truth: Truth, world: World) -> None:
    lease, router = world.router()
    lease.poll()
    if lease.table() is None:
        return
    _quietly(router.replenish)
    for session in SESSIONS:
        pin = asyncio.run(router.resolve_session(session))
        if pin.version_set in truth.aborted[world.service.name]:
            raise Wrong("revived", f"session {session} got a set that was rolled back")
    for unit in range(20):
        if router.resolve(f"unit-{unit}").version_set in truth.aborted[world.service.name]:
            raise Wrong("revived", f"unit {unit} got a set that was rolled back")


def _quietly(work: Callable[[], None]) -> None:
    """Treats our errors like a router's background thread, which tries again later."""
    try:
        work()
    except HeadraceError:
        return


def _evidence(world: World, name: str) -> None:
    for metrics in read_live(world.store, name, 5, damaged=PassedOver()).values():
        for metric, sample in metrics.items():
            if sample.num not in (20, 40) or not 0 <= sample.mean <= 1:
                raise Wrong("wrong", f"{metric} is {sample}")


def _media(world: World) -> dict[str, bytes]:
    return {
        item.item_id: b"".join(map(bytes, chunks))
        for item, chunks in MediaSet.open(world.handoffs.open("pictures", "all")).contents()
    }


def _media_same(truth: Truth, world: World) -> None:
    if _media(world) != truth.media:
        raise Wrong("wrong", "the pictures are others")


def _files(store: Any, digest: str) -> dict[str, bytes]:
    directory = open_directory(store, digest)
    return {path.name: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def _weights(truth: Truth, digest: str, world: World) -> None:
    if _files(world.store, digest) != truth.weights[digest]:
        raise Wrong("wrong", f"the weights {digest[:8]} are others")


def _sets(world: World) -> None:
    for version in (1, 2, 3):
        wanted = world.version_set(version)
        try:
            found = world.sets.get(wanted.id)
        except HandoffCorrupt:
            continue
        if found != wanted:
            raise Wrong("wrong", f"set {version} is another")


def _training(world: World) -> None:
    store = world.store
    found = checkpoints.newest_whole(store, TRAINING, world_size=1)
    if found is not None and found.step not in (5, 10):
        raise Wrong("wrong", f"a checkpoint says step {found.step}")
    attempts.newest_attempt(store, TRAINING)


def _result(world: World) -> None:
    result = attempts.find_result(world.store, FINISHED)
    if result is not None:
        if (result.steps, result.train_loss_last) != (2, 1.5):
            raise Wrong("wrong", "the training's result is another")
        attempts.read_curve(world.store, result)


def _evaluation(world: World) -> None:
    for weights in world.store.children("evaluations"):
        found = heldout.find_evaluation(world.store, weights, "h" * 64)
        if found is not None and found.heldout_loss != 2.5:
            raise Wrong("wrong", "the held-out loss is another")


def _model(version: int) -> ModelVersion:
    return model_of("tiny", version, weights_uri="file:///weights", heldout_digest="h" * 64)
