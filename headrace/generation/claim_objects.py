"""The small objects of bulk generation: a partition's inputs and version set, and how each attempt ended.

| object | content | made |
|---|---|---|
| run pin | the inputs of a run and its retries; the attempt after which its own one comes | when a run begins |
| claim | attempt N of a partition on these inputs: its version set | when no attempt serves the run |
| settlement | the attempt is `sealed` or `void` | at its end, before anything is published |

Exactly one writer makes each, and nobody changes it. Claims form a chain for each partition and inputs
(`headrace.store.chain`), in which a settlement also proves its number. Mirrors lie under the partition that they
mirror.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from headrace.handoff.manifest import Manifest
from headrace.handoff.versions import Handoff
from headrace.keys import digest_text, partition_path
from headrace.store.chain import Chain
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Kind

SETTLED = ".settled.json"
ROOT = "claims/generated_content"
BATCHES = "batches"
# Never raised: what is sealed, and an attempt under way, stay as they are when later code would give other rows.
_INPUTS_VERSION = "1"
_CLAIM_KEY = re.compile(rf"{ROOT}/[^/]+/(mirrors/)?[^/]+/a\d{{4,}}\.json")
_RUN_PIN_KEY = re.compile(rf"{ROOT}/[^/]+/(mirrors/)?runs/[^/]+\.json")
_ID = {"content": "claim", "mirror": "mirror"}
_REMEDY = (
    "Materialize the partition with `regenerate: current_set`: that opens its next attempt; what readers have of the "
    "partition stays."
)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One attempt at one partition. It pins, with the version set, everything that can change its rows."""

    id: str
    campaign: str
    partition: str
    # Asset → sealed version that the attempt reads; the digest covers those versions' content.
    inputs: Mapping[str, Annotated[int, Ge(1)]]
    inputs_digest: str
    attempt: Annotated[int, Ge(1)]
    version_set: str
    # Part of the micro-batch plan: a resumed attempt must divide the rows as before.
    micro_batch_rows: Annotated[int, Ge(1)]
    # What happens if the set is rolled back before the attempt is settled.
    on_abort: Literal["repin", "finish_unpublished"]
    # Why this attempt was opened, for people.
    reason: str
    root_run_id: str
    created_at: str
    # Nothing of a mirror is published, and it has its own keys.
    kind: Literal["content", "mirror"] = "content"

    def batch_key(self, index: int, role: str = "") -> str:
        """Of a role that paints or speaks, or of the texts."""
        return f"{self.batches_of(role)}/b{index:05d}.arrow"

    def batches_of(self, role: str) -> str:
        return f"{self.batches_prefix}/{role}" if role else self.batches_prefix

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
    """The inputs of a run and its retries, and the attempt after which its own one comes."""

    inputs: Mapping[str, Annotated[int, Ge(1)]]
    inputs_digest: str
    after_attempt: Annotated[int, Ge(0)] = 0
    # For a mirror: the set that makes it.
    version_set: str | None = None


CLAIM = Kind("Claim", Claim, _REMEDY)
SETTLEMENT = Kind("Settlement", Settlement, _REMEDY)
RUN_PIN = Kind(
    "Run pin",
    RunPin,
    "Launch the partition as a new run: nobody can tell any more which inputs this one and its retries began with.",
)


def inputs_digest(prompts: Handoff | Manifest) -> str:
    """Identifies an attempt's inputs by content: the same prompts sealed again are the same inputs."""
    return digest_text("inputs", _INPUTS_VERSION, prompts.asset, prompts.content_digest)


def mirror_digest(prompts: Handoff | Manifest, version_set: str) -> str:
    """Identifies a mirror by its inputs and set. No content has this digest, so the two never share a claim."""
    return digest_text("mirror", inputs_digest(prompts), version_set)


def run_pin_key(partition_key: str, root_run_id: str, kind: str = "content") -> str:
    """The key of a run's pin: the versions that it reads, and for a mirror the set."""
    return f"{_partition_prefix(partition_key, kind)}/runs/{root_run_id}.json"


def is_claim(key: str) -> bool:
    """Whether a key below ROOT is a claim, not a settlement, a run's pin or a foreign file."""
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
    # Under the partition that they mirror, so garbage collection lists both kinds at once.
    return f"{ROOT}/{partition_path(partition_key)}" + ("/mirrors" if kind == "mirror" else "")


def _prefix(partition_key: str, digest: str, kind: str = "content") -> str:
    return f"{_partition_prefix(partition_key, kind)}/{digest[:16]}"


def batches_prefix(claim_id: str) -> str:
    return f"{BATCHES}/{claim_id}"


def attempt_id(kind: str, partition_key: str, digest: str, attempt: int) -> str:
    return digest_text(_ID[kind], partition_key, digest, str(attempt))[:32]
