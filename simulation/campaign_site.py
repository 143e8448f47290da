"""A campaign in a store: its rollout, prompts, and runs that make its partitions. Two sites act as two processes."""

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from headrace.clock import Clock, FixedClock
from headrace.engines.echo import EchoEngine
from headrace.engines.roles import EngineSettings
from headrace.engines.rows import ChainRows, GenerationRequest, GenerationResult
from headrace.generation.bulk import Outcome, Worker, generate_partition
from headrace.generation.campaign import Campaign, PromptSource
from headrace.generation.claim_objects import Claim
from headrace.generation.claims import Claims, Regenerate
from headrace.generation.mirroring import Mirror, mirror_partition
from headrace.handoff.schemas import PROMPTS
from headrace.handoff.sealed import Verification
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import ContentPartition, prompt_id
from headrace.rollout.journal import Journal
from headrace.store.objects import ObjectStore
from headrace.version_sets.sets import Decoding, VersionSet, VersionSets
from simulation.models import model_of

DAY = "2026-11-22"


def make_campaign(**changes: Any) -> Campaign:
    """A plain, valid campaign except for `changes`."""
    settings: dict[str, Any] = {
        "name": "glossary",
        "model": "tiny",
        "num_shards": 4,
        "prompts": PromptSource(files="prompts.jsonl", per_shard=6),
        "decoding": Decoding(temperature=0.7, top_p=0.9, max_new_tokens=12),
        "engine": EngineSettings(name="echo"),
        "micro_batch_rows": 2,
    }
    return Campaign(**(settings | changes))


def make_prompts(texts: Sequence[str], campaign: str = "glossary") -> pa.Table:
    ids = [prompt_id(campaign, DAY, text, 0) for text in texts]
    return pa.table([ids, list(range(len(texts))), list(texts), [None] * len(texts)], schema=PROMPTS)


class EchoRows(ChainRows):
    """Rows of the echo engine. `before` runs before each batch and may take time, change the world, or die."""

    @classmethod
    def opened(cls, version_set: VersionSet, before: Callable[[], object] = lambda: None) -> "EchoRows":
        rows = cls.of(version_set.member("writer"), EchoEngine(version_set.member("writer")))
        rows.before = before
        return rows

    before: Callable[[], object]

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        self.before()
        return super().generate(requests)


class CampaignSite:
    def __init__(
        self,
        objects: ObjectStore,
        campaign: Campaign | None = None,
        clock: Clock | None = None,
        *,
        leased: bool = True,
        verification: Verification = "once",
    ) -> None:
        self.objects = objects
        self.campaign = campaign or make_campaign()
        self.clock = clock or FixedClock()
        self.handoffs = HandoffStore(objects, self.clock, leased=leased, verification=verification)
        self.journal = Journal(objects, self.campaign.name, self.clock)
        self.claims = Claims(objects=objects, journal=self.journal, clock=self.clock)
        self.sets = VersionSets(objects)

    def partition(self, shard: int = 0) -> ContentPartition:
        return ContentPartition(day=DAY, campaign=self.campaign.name, shard=shard)

    def version_set(self, version: int) -> VersionSet:
        return self.campaign.version_set({"writer": model_of(self.campaign.model, version)})

    def roll_out(self, event: str, version: int, *, journal: Journal | None = None, **fields: Any) -> VersionSet:
        """Appends an entry about the set of one model version, by default to the campaign's journal."""
        version_set, journal = self.version_set(version), journal or self.journal
        self.sets.put(version_set)
        said = {"version_set": version_set.id, "weights_digest": f"weights-{version}", "num_rows": 0, "reason": "said"}
        journal.append(event, said | fields, expected=journal.head())
        return version_set

    def put_prompts(self, shard: int, texts: Sequence[str]) -> Handoff:
        rows = make_prompts(texts, self.campaign.name)
        return self.handoffs.publish("prompts", self.partition(shard).key, rows, code_version="1", run_id="prompts")

    def prompts(self, shard: int = 0, version: int | None = None) -> Handoff:
        return self.handoffs.open("prompts", self.partition(shard).key, version)

    def claim(self, run: str, shard: int = 0, regenerate: Regenerate | None = None) -> Claim:
        prompts = self.prompts(shard)
        return self.claims.open(self.campaign, self.partition(shard), prompts, root_run_id=run, regenerate=regenerate)

    def generate(
        self, claim: Claim, *, run: str = "run", before: Callable[[], object] = lambda: None, **changes: Any
    ) -> Outcome:
        return generate_partition(claim, **(self._how(run, before) | changes))

    def mirror(self, shard: int, run: str) -> Mirror:
        return mirror_partition(self.partition(shard), "candidate", root_run_id=run, **self._how(run, lambda: None))

    def _how(self, run: str, before: Callable[[], object]) -> dict[str, Any]:
        return {
            "campaign": self.campaign,
            "claims": self.claims,
            "handoffs": self.handoffs,
            "open_engine": lambda version_set: EchoRows.opened(version_set, before),
            "worker": Worker(run_id=run, host="node"),
            "monotonic": lambda: 0.0,
        }
