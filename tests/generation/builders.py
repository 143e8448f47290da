"""Builders for bulk generation: a store with a rollout, a campaign and prompts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from headrace.clock import FixedClock
from headrace.engines.echo import EchoEngine
from headrace.engines.rows import ChainRows, GenerationRequest, GenerationResult, RowMaker
from headrace.generation.bulk import Outcome, Worker, generate_partition
from headrace.generation.campaign import Campaign
from headrace.generation.claim_objects import Claim
from headrace.generation.claims import Claims, Regenerate
from headrace.generation.mirroring import Mirror, mirror_partition
from headrace.generation.requests import prompts_for
from headrace.generation.subject import end_under_way
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import ContentPartition
from headrace.rollout import interventions
from headrace.rollout.journal import Journal
from headrace.rollout.states import ABORTED, INITIALIZED, PROMOTED, STARTED, RolloutState
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import PassedOver
from headrace.version_sets.sets import Member, VersionSet, VersionSets
from simulation.campaign_site import DAY, make_campaign, make_prompts
from simulation.models import model_of
from tests.rollout.builders import state_of


def make_partition(shard: int = 0, day: str = DAY) -> ContentPartition:
    return ContentPartition(day=day, campaign="glossary", shard=shard)


def make_version_set(model_version: int = 1, **changes: Any) -> VersionSet:
    return make_campaign(**changes).version_set({"writer": model_of("tiny", model_version)})


def make_member(**changes: Any) -> Member:
    return replace(make_version_set().member("writer"), **changes)


TEXTS = [f"Define the noun word{'s' * index}." for index in range(7)]


@dataclass
class Site:
    """One store with everything that a generation run finds there. Two sites on one directory are two processes."""

    directory: Path
    campaign: Campaign = field(default_factory=make_campaign)
    clock: FixedClock = field(default_factory=FixedClock)
    partition: ContentPartition = field(default_factory=make_partition)
    open_store: Callable[[Path], ObjectStore] = LocalStore

    def __post_init__(self) -> None:
        self.objects = self.open_store(self.directory)
        self.handoffs = HandoffStore(self.objects, self.clock)
        self.journal = Journal(self.objects, self.campaign.name, self.clock)
        self.claims = Claims(objects=self.objects, journal=self.journal, clock=self.clock)

    def roll_out(self, event: str, model_version: int = 1, **fields: Any) -> str:
        """Append a rollout event about the set of one model version; returns the set's id."""
        version_set = make_version_set(model_version)
        VersionSets(self.objects).put(version_set)
        body = {
            "version_set": version_set.id,
            "weights_digest": f"weights-{model_version}",
            "num_rows": 0,
            "reason": "",
        }
        self.journal.append(event, body | fields, expected=self.journal.head())
        return version_set.id

    def initialize(self, model_version: int = 1) -> str:
        return self.roll_out(INITIALIZED, model_version)

    def start(self, model_version: int, weight: float = 1.0, cap: int | None = None) -> str:
        return self.roll_out(STARTED, model_version, step=0, weight=weight, cap=cap)

    @property
    def state(self) -> RolloutState:
        return state_of(self.journal)

    def abort(self, model_version: int) -> str:
        return self.roll_out(ABORTED, model_version)

    def abort_by_hand(self) -> PassedOver:
        """As `headrace rollout abort` does. Returns the damaged objects that it passed over."""
        damaged = PassedOver()
        interventions.abort(
            self.journal,
            by="ana",
            reason="worse",
            before=partial(end_under_way, self.handoffs, self.campaign.name, damaged=damaged),
        )
        return damaged

    def promote(self, model_version: int) -> str:
        return self.roll_out(PROMOTED, model_version)

    def put_prompts(self, texts: Sequence[str] = TEXTS) -> Handoff:
        return self.seal_prompts(make_prompts(texts))

    def seal_prompts(self, table: pa.Table, attributes: Mapping[str, str] | None = None) -> Handoff:
        return self.handoffs.publish(
            "prompts", self.partition.key, table, code_version="1", run_id="prompts-run", attributes=attributes
        )

    def draw_prompts(self, home: Path) -> Handoff:
        """Seals what the campaign's own prompt files hold."""
        return self.seal_prompts(prompts_for(self.campaign, self.partition, home))

    def open_claim(self, run: str = "run-1", regenerate: Regenerate | None = None) -> Claim:
        prompts = self.handoffs.open("prompts", self.partition.key)
        return self.claims.open(self.campaign, self.partition, prompts, root_run_id=run, regenerate=regenerate)

    def generate(self, claim: Claim | None = None, engine: RowMaker | None = None, **changes: Any) -> Outcome:
        return generate_partition(claim or self.open_claim(), **(self._work("run-1", engine) | changes))

    def mirror(self, wanted: str = "candidate", engine: RowMaker | None = None, **changes: Any) -> Mirror:
        arguments = {"root_run_id": "run-mirror", **self._work("run-mirror", engine)}
        return mirror_partition(self.partition, wanted, **(arguments | changes))

    def _work(self, run: str, engine: RowMaker | None) -> dict[str, Any]:
        return {
            "campaign": self.campaign,
            "claims": self.claims,
            "handoffs": self.handoffs,
            "open_engine": lambda version_set: engine or echo_rows(version_set.member("writer")),
            "worker": Worker(run_id=run, host="node-a"),
            "monotonic": lambda: 0.0,
        }

    def content_rows(self) -> list[dict[str, Any]]:
        return self.handoffs.open("generated_content", self.partition.key).table().to_pylist()


def make_site(directory: Path, **changes: Any) -> Site:
    """A site with a stable set and prompts: ready to generate."""
    site = Site(directory, **changes)
    site.initialize()
    site.put_prompts()
    return site


def echo_rows(member: Member | None = None) -> ChainRows:
    member = member or make_member()
    return ChainRows.of(member, EchoEngine(member))


class ScriptedEngine:
    """An engine that does what a test says: fails on some prompts, calls back before each batch."""

    name = "scripted"
    build = ""
    deterministic = True

    def __init__(self, *, fails: Any = lambda prompt: False, before: Any = lambda: None) -> None:
        self.fails = fails
        self.before = before
        self.batches: list[list[str]] = []
        self._echo = echo_rows()

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        self.before()
        self.batches.append([request.prompt for request in requests])
        for request in requests:
            if error := self.fails(request.prompt):
                raise error
        return self._echo.generate(requests)

    def close(self) -> None:
        self._echo.close()


def make_mirrored_site(directory: Path) -> Site:
    """A partition that is sealed on the stable set, and a candidate."""
    site = make_site(directory)
    site.generate()
    site.start(2, weight=0.1)
    return site
