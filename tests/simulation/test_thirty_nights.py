"""Thirty nights of the whole line on one store, with a collection each night: its size levels off, nothing named goes.

The library's own code at every stage (handoffs, attempts, checkpoints, sealed weights, journals, claims, sessions),
with tiny data, under a clock that the test moves. Weights are random bytes; nobody trains and no engine generates.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.clock import FixedClock
from headrace.errors import HandoffMissing
from headrace.generation.bulk import Worker, generate_partition
from headrace.generation.claim_objects import Claim
from headrace.generation.claims import Claims, unsettled
from headrace.handoff.collecting import CollectionReport, collect, plan_collection
from headrace.handoff.schemas import PROMPTS
from headrace.handoff.versions import HandoffStore
from headrace.keys import ContentPartition, prompt_id
from headrace.registry.model_versions import ModelVersion, to_table
from headrace.registry.registered import REGISTERED_VERSION, registered_models
from headrace.rollout.caps import CapLeases
from headrace.rollout.journal import Journal
from headrace.rollout.live_evidence import EvidenceWriter, read_live
from headrace.rollout.preparation import prepare_here
from headrace.rollout.routing import Pin, RoutingTable
from headrace.rollout.states import RolloutState, fold
from headrace.rollout.status import last_trial, previous_stable
from headrace.serving.sessions import SessionPins, pinned_sets
from headrace.store.local import LocalStore
from headrace.store.protection import installed
from headrace.store.sealed_directory import find_directory, open_directory, seal_directory
from headrace.store.small_objects import PassedOver
from headrace.training.attempts import (
    TrainingResult,
    find_result,
    open_attempt,
    publish_result,
    training_key,
)
from headrace.training.checkpoints import (
    Checkpoint,
    CheckpointFile,
    checkpoints_of,
    discard_all,
    is_whole,
    publish,
    write_file,
)
from headrace.training.examples import ASSET, ExamplesInput
from headrace.training.guard import Worker as TrainingWorker
from headrace.training.recipe import Recipe
from headrace.training.session import TrainingRequest
from headrace.training.tables import base_model_table, trained_model_table
from headrace.version_sets.sets import VersionSet, VersionSets
from simulation.campaign_site import EchoRows, make_campaign
from simulation.models import training_result

DAY = 24 * 3600.0
NIGHTS = 30
WEIGHTS_BYTES = 1_000_000
SESSION_SECONDS = 6 * DAY
RECIPE = Recipe(name="flash", model="tiny", steps=2, batch=2, learning_rate=1e-4)
ROUTER = "glossary"


class DatedStore(LocalStore):
    """Objects are as old as the test's clock says."""

    def __init__(self, directory: Path, clock: FixedClock) -> None:
        super().__init__(directory)
        self._test_clock = clock

    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        made = super().create(key, body, durable=False)
        if made:
            self._date(key)
        return made

    @contextmanager
    def write_part(self, key: str) -> Iterator[Any]:
        with super().write_part(key) as part:
            yield part
        self._date(key)

    def _date(self, key: str) -> None:
        os.utime(self.local_path(key), (self._test_clock.now(), self._test_clock.now()))


class Line:
    """The pipeline of one campaign, whose rollout live sessions follow too."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = FixedClock(1_795_000_000.0)
        self.store = DatedStore(directory / "store", self.clock)
        self.handoffs = HandoffStore(self.store, self.clock, leased=False)
        self.campaign = make_campaign(num_shards=1)
        self.journal = Journal(self.store, self.campaign.name, self.clock)
        self.claims = Claims(objects=self.store, journal=self.journal, clock=self.clock)
        self.pins = SessionPins(self.store, ROUTER, self.clock, lease_seconds=SESSION_SECONDS, by="gateway")
        self.chance = random.Random(7)
        self.days: list[str] = []
        self.num_bytes_made = 0
        self.num_versions = 0

    @property
    def state(self) -> RolloutState | None:
        return fold(self.journal.entries())

    def seal(self, name: str, **attributes: str) -> Any:
        source = self.directory / name
        source.mkdir()
        (source / "model.safetensors").write_bytes(self.chance.randbytes(WEIGHTS_BYTES))
        (source / "config.json").write_text(f'{{"name": "{name}"}}')
        self.num_bytes_made += WEIGHTS_BYTES
        return seal_directory(self.store, source, attributes=attributes, clock=self.clock)

    def publish(self, asset: str, partition: str, rows: pa.Table) -> Any:
        return self.handoffs.publish(asset, partition, rows, code_version="1", run_id="night")

    def night(self, number: int) -> CollectionReport:
        examples = self.prepare(number)
        if number == 0:
            self.base = self.seal("base")
            self.publish("base_model", RECIPE.key, base_model_table(self.base))
        result = self.train(number, examples)
        if result:
            self.register(result)
            self.roll_out(number)
        self.serve(number)
        self.generate(number)
        self.clock.advance(DAY / 2)
        report = collect(self.store, self.clock, plan_collection(self.store, self.clock))
        self.clock.advance(DAY / 2)
        return report

    def prepare(self, number: int) -> Any:
        for asset, size in (("raw_documents", 2000), ("clean_documents", 2000), (ASSET, 4000)):
            table = pa.table(
                {"x": [self.chance.randbytes(8) for _ in range(size // 8)], "night": [number] * (size // 8)}
            )
            sealed = self.publish(asset, "shard-00", table)
        return sealed

    def train(self, number: int, examples: Any) -> TrainingResult | None:
        """Each fifth night's training dies behind a checkpoint, and the next night's has other data."""
        inputs = ExamplesInput(partition="shard-00", version=examples.version, content_digest=examples.content_digest)
        request = TrainingRequest(recipe=RECIPE, base_weights_digest=self.base.digest, inputs=(inputs,))
        training_id = request.training_id
        dead = TrainingWorker(pid=2**22 - 1, started=1)
        attempt = open_attempt(
            self.store, training_id, worker=dead, run_id="r", clock=self.clock, recipe=RECIPE.key, host="elsewhere"
        )
        prefix = training_key(training_id, "parts", f"nonce{number}")
        files: list[CheckpointFile] = []
        with write_file(self.store, prefix, "rank-0.pt", files.append) as file:
            file.write(self.chance.randbytes(3 * WEIGHTS_BYTES))
        self.num_bytes_made += 3 * WEIGHTS_BYTES
        publish(
            self.store,
            Checkpoint(
                training_id=training_id, step=1, attempt=attempt, world_size=1, prefix=prefix, files=tuple(files)
            ),
        )
        self.unfinished = training_id
        if number % 5 == 4:
            return None
        names = {"training_id": training_id, "model": RECIPE.model, "recipe": RECIPE.name}
        weights = self.seal(f"trained-{number}", **names)
        result = training_result(training_id, attempt, weights_digest=weights.digest, world_size=1)
        publish_result(self.store, result, b'{"step": 1, "loss": 2.0}\n' * 200)
        if number % 5 != 3:  # else it is killed before it has cleaned up
            discard_all(self.store, training_id)
        self.publish("trained_model", RECIPE.key, trained_model_table(self.store, result, mlflow_run_id=""))
        return result

    def register(self, result: TrainingResult) -> None:
        self.num_versions += 1
        rows = [
            ModelVersion(
                model_name=RECIPE.model,
                version=str(1 if kind == "base" else 1 + self.num_versions),
                kind=kind,
                weights_digest=digest,
                weights_uri=f"headrace://weights/{digest}",
                heldout_loss=3.0,
                heldout_tokens=1000,
                heldout_digest="h",
                recipe=RECIPE.name,
                zero_stage=2,
                mlflow_run_id="",
                registered_at=self.clock.now(),
            )
            for kind, digest in (("base", self.base.digest), ("trained", result.weights_digest))
        ]
        self.publish(REGISTERED_VERSION, RECIPE.key, to_table(rows))

    def roll_out(self, number: int) -> None:
        """Two of three candidates are promoted, the third is rolled back; each was fetched and tried before."""
        base, trained = registered_models(self.handoffs, damaged=PassedOver())
        if self.state is None:
            self.add("initialized", self.keep(base))
        candidate = self.keep(trained)
        proposal = self.add("proposed", candidate).number

        def prepared() -> VersionSet:
            for member in candidate.members:
                open_directory(self.store, member.weights_digest, clock=self.clock)
            return candidate

        record = prepare_here(self.store, ROUTER, proposal, prepared, node="node", clock=self.clock, seconds_max=60.0)
        assert record.ok, record.error
        trial = self.add("started", candidate, step=0, weight=0.1, cap=1000).number
        assert CapLeases(self.store, ROUTER, self.clock).take(trial, 1000, count=50, by="gateway") == 50
        evidence = EvidenceWriter(self.store, ROUTER, f"gateway-{number}", self.clock)
        for client in range(20):
            evidence.record(trial, candidate.id, {"latency_ms": 10.0}, client=f"client-{client}", entry=trial)
        evidence.flush()
        self.serve(number)
        self.add("aborted" if number % 3 == 2 else "promoted", candidate, num_rows=100, evict=False)

    def keep(self, model: ModelVersion) -> VersionSet:
        version_set = self.campaign.version_set({"writer": model})
        VersionSets(self.store).put(version_set)
        return version_set

    def add(self, event: str, version_set: VersionSet, **fields: Any) -> Any:
        self.clock.advance(60)
        digest = version_set.members[0].weights_digest
        body = {"version_set": version_set.id, "weights_digest": digest, "num_rows": 0, "reason": event, **fields}
        return self.journal.append(event, body, expected=self.journal.head())

    def serve(self, number: int) -> None:
        """Each tenth night sessions begin on what is on trial, and what is stable, and keep it for six days."""
        self.pins.sweep()
        if (state := self.state) is None or number % 10:
            return
        table = RoutingTable.of(state, "salt", is_counted=True)
        chosen = state.candidate or state.stable
        pin = Pin(chosen, state.head, "weight", state.trial)
        self.pins.hold(f"session {number} {chosen}", lambda: table, lambda last: self.pins.chosen(pin))

    def generate(self, number: int) -> None:
        day = f"2026-{11 + number // 28:02d}-{1 + number % 28:02d}"
        partition = ContentPartition(day=day, campaign=self.campaign.name, shard=0)
        texts = [f"Define word {number} {index}." for index in range(12)]
        ids = [prompt_id(self.campaign.name, day, text, 0) for text in texts]
        prompts = pa.table([ids, list(range(len(texts))), texts, [None] * len(texts)], schema=PROMPTS)
        sealed = self.publish("prompts", partition.key, prompts)
        claim = self.claims.open(self.campaign, partition, sealed, root_run_id=f"run-{number}")
        if number % 10 == 3:
            self.left = claim
            return
        self.finish(claim)
        if number % 10 == 9:
            # Its worker died six nights ago: it is finished on the set of its claim.
            self.finish(self.left)

    def finish(self, claim: Claim) -> None:
        generate_partition(
            claim,
            campaign=self.campaign,
            claims=self.claims,
            handoffs=self.handoffs,
            open_engine=self.opened,
            worker=Worker(run_id="run", host="node"),
            monotonic=lambda: 0.0,
        )
        self.days.append(claim.partition)

    def opened(self, version_set: VersionSet) -> EchoRows:
        for member in version_set.members:
            open_directory(self.store, member.weights_digest, clock=self.clock)
        return EchoRows.opened(version_set)

    def num_bytes(self) -> int:
        return sum(entry.num_bytes for root in self.store.children("") for entry in self._entries(root))

    def _entries(self, root: str) -> list[Any]:
        return [] if root.startswith(".") else self.store.entries(root)

    def check_that_all_that_is_named_is_there(self, *, is_last: bool = False) -> None:
        sets, state, entries = VersionSets(self.store), self.state, self.journal.entries()
        assert state is not None
        named = {state.stable, state.candidate, state.proposed, previous_stable(entries)} - {None}
        pinned = pinned_sets(self.store, ROUTER, self.clock.now(), damaged=PassedOver())
        models = registered_models(self.handoffs, damaged=PassedOver())
        digests = {model.weights_digest for model in models} | {self.base.digest}
        under_way = {claim.version_set for claim in unsettled(self.store, self.campaign.name)}
        for one in named | pinned | under_way:
            digests |= {member.weights_digest for member in sets.get(str(one)).members}
        for digest in digests:
            # Not opened before the last night: that would keep them for a day.
            found = find_directory(self.store, digest)
            assert found, f"{digest[:12]} is named, and is not there"
            assert all(self.store.local_path(f"{found.key}/{file.name}").is_file() for file in found.files)
            if is_last:
                weights = open_directory(self.store, digest, clock=self.clock) / "model.safetensors"
                assert weights.stat().st_size == WEIGHTS_BYTES
        # Every row that was ever published names a set that is there, whatever became of its weights.
        for key in self.days:
            content = self.handoffs.open("generated_content", key)
            assert content.num_rows == 12
            assert {sets.get(one).id for one in content.table()["version_set"].to_pylist()} <= set(sets.ids())
        assert self.journal.verify() == len(entries)
        trial = last_trial(entries)
        assert trial is not None
        assert read_live(self.store, ROUTER, trial.trial)
        if find_result(self.store, self.unfinished) is None:
            (checkpoint,) = checkpoints_of(self.store, self.unfinished, damaged=PassedOver())
            assert is_whole(self.store, checkpoint)


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def test_after_thirty_nights_the_store_is_as_large_as_after_fifteen(line: Line) -> None:
    sizes: list[int] = []
    kinds: dict[str, int] = {}
    for number in range(NIGHTS):
        report = line.night(number)
        assert report.damaged == ()
        for one in report.leavings:
            kinds[one.kind] = kinds.get(one.kind, 0) + 1
        line.check_that_all_that_is_named_is_there(is_last=number == NIGHTS - 1)
        sizes.append(line.num_bytes())
    assert sizes[-1] <= 1.1 * sizes[14]
    assert max(sizes[15:]) <= 1.1 * max(sizes[:15])
    # It would not by itself: what was made is many times what is left.
    assert line.num_bytes_made > 8 * sizes[-1]
    assert {"weights", "checkpoint", "evidence", "micro-batches"} <= kinds.keys()


@pytest.mark.parametrize("silent", ["generation", "rollout", "serving"])
def test_a_room_that_does_not_say_what_it_names_is_found_out(
    line: Line, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = {name: room for name, room in installed().items() if name != silent}
    monkeypatch.setattr("headrace.handoff.collecting.installed", lambda: rooms)

    def nights() -> None:
        for number in range(NIGHTS):
            line.night(number)
            line.check_that_all_that_is_named_is_there()

    with pytest.raises((AssertionError, HandoffMissing)):
        nights()
