"""The small objects of bulk generation: who makes a partition, from which inputs, on which set, and how that ended.

| object | says | made |
|---|---|---|
| run pin | which inputs a run and its retries read; after which attempt its own one comes | when a run begins |
| claim | attempt N of a partition on these inputs: its version set | when no attempt serves the run |
| settlement | the attempt is `sealed` or `void` | at its end, before anything is published |

Each is made by exactly one writer and never changed. Claims are a chain for each partition and inputs
(`headrace.store.chain`); a settlement tells of its number too. Mirrors lie under the partition that they mirror.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from headrace.generation.campaign import GENERATION_CODE_VERSION
from headrace.handoff.versions import Handoff
from headrace.keys import digest_text, partition_path
from headrace.store.chain import Chain
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Kind

SETTLED = ".settled.json"
ROOT = "claims/generated_content"
BATCHES = "batches"
_CLAIM_KEY = re.compile(rf"{ROOT}/[^/]+/(mirrors/)?[^/]+/a\d{{4,}}\.json")
_RUN_PIN_KEY = re.compile(rf"{ROOT}/[^/]+/(mirrors/)?runs/[^/]+\.json")
_ID = {"content": "claim", "mirror": "mirror"}
_REMEDY = (
    "Materialize the partition with `regenerate: current_set`: that opens its next attempt; what readers have of the "
    "partition stays."
)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One attempt at one partition. Everything that can change its rows is pinned here or in the version set."""

    id: str
    campaign: str
    partition: str
    # Asset → sealed version that the attempt reads; the digest is over what those versions hold.
    inputs: Mapping[str, Annotated[int, Ge(1)]]
    inputs_digest: str
    attempt: Annotated[int, Ge(1)]
    version_set: str
    # Part of the plan of micro-batches: a resume must cut the rows as the first worker did.
    micro_batch_rows: Annotated[int, Ge(1)]
    # What happens if the set is rolled back before the attempt is settled.
    on_abort: Literal["repin", "finish_unpublished"]
    # Why this attempt was opened, for people.
    reason: str
    root_run_id: str
    created_at: str
    # Of a mirror nothing is published, and its keys are its own.
    kind: Literal["content", "mirror"] = "content"

    def batch_key(self, index: int) -> str:
        return f"{self.batches_prefix}/b{index:05d}.arrow"

    @property
    def batches_prefix(self) -> str:
        return batches_prefix(self.id)


@dataclass(frozen=True, kw_only=True)
class Settlement:
    """How an attempt ended."""

    outcome: Literal["sealed", "void"]
    reason: str
    at: str


@dataclass(frozen=True, kw_only=True)
class RunPin:
    """Which inputs a run and its retries read, and after which attempt their own one comes."""

    inputs: Mapping[str, Annotated[int, Ge(1)]]
    inputs_digest: str
    after_attempt: Annotated[int, Ge(0)] = 0
    # Of a mirror: the set that it is made on.
    version_set: str | None = None


CLAIM = Kind("Claim", Claim, _REMEDY)
SETTLEMENT = Kind("Settlement", Settlement, _REMEDY)
RUN_PIN = Kind(
    "Run pin",
    RunPin,
    "Launch the partition as a new run: nobody can tell any more which inputs this one and its retries began with.",
)


def inputs_digest(prompts: Handoff) -> str:
    """Names the inputs of an attempt by what they hold: the same prompts sealed again are the same inputs."""
    return digest_text("inputs", GENERATION_CODE_VERSION, prompts.asset, prompts.content_digest)


def mirror_digest(prompts: Handoff, version_set: str) -> str:
    """Names a mirror by what its rows follow from; no content has this digest, so the two never share a claim."""
    return digest_text("mirror", inputs_digest(prompts), version_set)


def run_pin_key(partition_key: str, root_run_id: str, kind: str = "content") -> str:
    """Of what a run pinned: the versions that it reads; of a run that mirrors, the set too."""
    return f"{_partition_prefix(partition_key, kind)}/runs/{root_run_id}.json"


def is_claim(key: str) -> bool:
    """Whether a key below ROOT is one of an attempt, not a settlement, a run's pin or a foreign file."""
    return bool(_CLAIM_KEY.fullmatch(key))


def is_run_pin(key: str) -> bool:
    return bool(_RUN_PIN_KEY.fullmatch(key))


def claim_chain(objects: ObjectStore, partition_key: str, digest: str, kind: str = "content") -> Chain[Claim]:
    """The attempts at a partition on these inputs."""
    return Chain(
        store=objects,
        prefix=_prefix(partition_key, digest, kind),
        kind=CLAIM,
        digits=4,
        before="a",
        tells=(SETTLED,),
        remedy=_REMEDY,
    )


def _partition_prefix(partition_key: str, kind: str = "content") -> str:
    # Under the partition that they mirror: garbage collection reads both kinds in one listing.
    return f"{ROOT}/{partition_path(partition_key)}" + ("/mirrors" if kind == "mirror" else "")


def _prefix(partition_key: str, digest: str, kind: str = "content") -> str:
    return f"{_partition_prefix(partition_key, kind)}/{digest[:16]}"


def batches_prefix(claim_id: str) -> str:
    return f"{BATCHES}/{claim_id}"


def attempt_id(kind: str, partition_key: str, digest: str, attempt: int) -> str:
    return digest_text(_ID[kind], partition_key, digest, str(attempt))[:32]
