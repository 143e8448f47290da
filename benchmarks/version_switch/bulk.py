"""Bulk partitions in generation when their set is aborted: real workers, and how many rows of that set are sealed.

`python -m benchmarks.version_switch.bulk JSON` is one worker, which makes one partition as a Dagster run does: claim,
generate, seal, and claim again when it is told that its set was rolled back.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.measuring import Child, progress
from headrace.clock import SystemClock
from headrace.engines.echo import EchoEngine
from headrace.engines.roles import EngineSettings
from headrace.engines.rows import ChainRows, GenerationRequest, GenerationResult
from headrace.errors import RepinRequired
from headrace.generation.bulk import Worker, generate_partition
from headrace.generation.campaign import Campaign, PromptSource
from headrace.generation.claims import Claims, inputs_digest
from headrace.generation.micro_batches import committed
from headrace.generation.rolled_back import void_unsealed
from headrace.generation.sealing import CONTENT
from headrace.handoff.schemas import PROMPTS
from headrace.handoff.versions import HandoffStore
from headrace.keys import ContentPartition, prompt_id
from headrace.rollout import interventions
from headrace.rollout.journal import Journal
from headrace.rollout.states import INITIALIZED, PROPOSED, STARTED
from headrace.rollout.version_sets import Decoding, VersionSet, VersionSets
from headrace.store.local import LocalStore

DAY = "2026-11-22"
NUM_PARTITIONS = 4
_NUM_PROMPTS = 12
_BATCH_SECONDS = 0.08
_WAIT_SECONDS_MAX = 60.0


class SlowEngine(ChainRows):
    """Batches that take long enough for an abort to come in the middle of one."""

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        time.sleep(_BATCH_SECONDS)
        return super().generate(requests)


def _slow(version_set: VersionSet) -> SlowEngine:
    member = version_set.member("writer")
    return SlowEngine.of(member, EchoEngine(member))


class Site:
    """A directory with a campaign whose first day is being generated."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        clock = SystemClock()
        self.campaign = Campaign(
            name="glossary",
            model="words",
            num_shards=NUM_PARTITIONS,
            prompts=PromptSource(files="prompts.jsonl", per_shard=_NUM_PROMPTS),
            decoding=Decoding(temperature=0.0, top_p=1.0, max_new_tokens=8),
            engine=EngineSettings(name="echo"),
            micro_batch_rows=2,
        )
        self.objects = LocalStore(directory)
        self.handoffs = HandoffStore(self.objects, clock)
        self.journal = Journal(self.objects, self.campaign.name, clock)
        self.claims = Claims(objects=self.objects, journal=self.journal, clock=clock)
        self.partitions = [
            ContentPartition(day=DAY, campaign=self.campaign.name, shard=shard) for shard in range(NUM_PARTITIONS)
        ]

    def roll_out(self, event: str, version: int, **fields: Any) -> VersionSet:
        weights = f"weights {version}"
        wanted = self.campaign.version_set(model_version=str(version), weights_digest=weights, weights_uri="")
        VersionSets(self.objects).put(wanted)
        body = {"version_set": wanted.id, "weights_digest": weights, "reason": "measured", **fields}
        self.journal.append(event, body, expected=self.journal.head())
        return wanted

    def put_prompts(self) -> None:
        for partition in self.partitions:
            texts = [f"word {partition.shard} {number}" for number in range(_NUM_PROMPTS)]
            ids = [prompt_id(self.campaign.name, DAY, text, 0) for text in texts]
            columns = [ids, list(range(len(texts))), texts, [None] * len(texts)]
            rows = pa.table(columns, schema=PROMPTS)
            self.handoffs.publish("prompts", partition.key, rows, code_version="1", run_id="prompts")

    def num_late_rows(self, version_set: str) -> int:
        """Rows of attempts on an aborted set that were settled as sealed after the abort, by file times."""
        aborted_at = self._made_at(f"rollout/{self.campaign.name}/journal/{self.journal.head():08d}.json")
        keys = [key for key in self.objects.list("claims") if key.endswith(".settled.json")]
        late = [
            key
            for key in keys
            if json.loads(self.objects.read(key))["outcome"] == "sealed"
            and json.loads(self.objects.read(key.replace(".settled.json", ".json")))["version_set"] == version_set
            and self._made_at(key) > aborted_at
        ]
        return len(late) * _NUM_PROMPTS

    def _made_at(self, key: str) -> int:
        """Nanoseconds: when the object got its name."""
        return self.objects.local_path(key).stat().st_ctime_ns

    def num_mixed(self) -> int:
        """Sealed versions with rows of more than one set."""
        newest = [self.handoffs.open(CONTENT, partition) for partition in self.handoffs.partitions(CONTENT)]
        return sum(len(set(one.table(["version_set"])["version_set"].to_pylist())) > 1 for one in newest)


def bulk_abort(directory: Path, *, num_batches: int) -> dict[str, int]:
    """Abort a set once each of its partitions has `num_batches` batches.

    Returns:
        units: partitions; late_rows: rows of the aborted set that were sealed; mixed: partitions of two sets.
    """
    progress.print(f"bulk: aborted after {num_batches} batches of {_NUM_PROMPTS // 2}")
    site = Site(directory)
    site.put_prompts()
    site.roll_out(INITIALIZED, 1)
    candidate = site.roll_out(PROPOSED, 2)
    site.roll_out(STARTED, 2, step=0, weight=1.0, num_rows=0, cap=None)
    module = "benchmarks.version_switch.bulk"
    workers = [Child(module, {"directory": str(directory), "shard": partition.shard}) for partition in site.partitions]
    _wait_for_batches(site, num_batches)
    void_unsealed(site.claims, site.campaign.name, about_to_abort=candidate.id)
    interventions.abort(site.journal, by="benchmark", reason="measured")
    void_unsealed(site.claims, site.campaign.name)
    for worker in workers:
        worker.result(seconds_max=_WAIT_SECONDS_MAX)
    return {"units": len(workers), "late_rows": site.num_late_rows(candidate.id), "mixed": site.num_mixed()}


def _wait_for_batches(site: Site, num_batches: int) -> None:
    ends = time.monotonic() + _WAIT_SECONDS_MAX
    while time.monotonic() < ends:
        if all(_num_committed(site, partition) >= num_batches for partition in site.partitions):
            return
        time.sleep(0.005)
    raise TimeoutError(f"The partitions do not have {num_batches} batches each after {_WAIT_SECONDS_MAX:.0f} s.")


def _num_committed(site: Site, partition: ContentPartition) -> int:
    prompts = site.handoffs.open("prompts", partition.key)
    attempts = site.claims.attempts(partition.key, inputs_digest(prompts))
    return len(committed(site.objects, attempts[-1])) if attempts else 0


def _work(directory: Path, shard: int) -> dict[str, Any]:
    site = Site(directory)
    partition = site.partitions[shard]
    num_repins = 0
    while True:
        prompts = site.handoffs.open("prompts", partition.key)
        claim = site.claims.open(site.campaign, partition, prompts, root_run_id=f"run-{shard}")
        try:
            generate_partition(
                claim,
                campaign=site.campaign,
                claims=site.claims,
                handoffs=site.handoffs,
                open_engine=lambda version_set: SlowEngine.of(
                    member := version_set.member("writer"), EchoEngine(member)
                ),
                worker=Worker(run_id=f"run-{shard}", host="here"),
            )
        except RepinRequired:
            num_repins += 1
            continue
        return {"version_set": claim.version_set, "attempt": claim.attempt, "num_repins": num_repins}


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    print(json.dumps(_work(Path(task["directory"]), task["shard"])))
