"""Bulk partitions in generation when their set is aborted: real workers, and how many rows of that set are sealed.

`python -m benchmarks.version_switch.bulk JSON` is one worker, which makes one partition as a Dagster run does: claim,
generate, seal, and claim again when it is told that its set was rolled back.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import Child, progress
from headrace.clock import SystemClock
from headrace.errors import RepinRequired
from headrace.generation.claim_objects import inputs_digest
from headrace.generation.micro_batches import committed
from headrace.generation.rolled_back import void_unsealed
from headrace.handoff.row_tables import CONTENT
from headrace.rollout import interventions
from headrace.rollout.states import INITIALIZED, PROPOSED, STARTED
from headrace.store.local import LocalStore
from simulation.campaign_site import CampaignSite, make_campaign

NUM_PARTITIONS = 4
_NUM_PROMPTS = 12
# Long enough for an abort to come in the middle of a batch.
_BATCH_SECONDS = 0.08
_WAIT_SECONDS_MAX = 60.0


class Site(CampaignSite):
    """A directory with a campaign whose first day is being generated."""

    def __init__(self, directory: Path, *, leased: bool) -> None:
        self.store = LocalStore(directory)
        super().__init__(self.store, make_campaign(num_shards=NUM_PARTITIONS), SystemClock(), leased=leased)

    def num_committed(self, shard: int) -> int:
        attempts = self.claims.attempts(self.partition(shard).key, inputs_digest(self.prompts(shard)))
        return len(committed(self.objects, attempts[-1])) if attempts else 0

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
        return self.store.local_path(key).stat().st_ctime_ns

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
    # Whoever looks on holds no leases, which would be renewed while the directory is taken away.
    site = Site(directory, leased=False)
    for shard in range(NUM_PARTITIONS):
        site.put_prompts(shard, [f"word {shard} {number}" for number in range(_NUM_PROMPTS)])
    site.roll_out(INITIALIZED, 1)
    candidate = site.roll_out(PROPOSED, 2)
    site.roll_out(STARTED, 2, step=0, weight=1.0, num_rows=0, cap=None)
    module = "benchmarks.version_switch.bulk"
    workers = [Child(module, {"directory": str(directory), "shard": shard}) for shard in range(NUM_PARTITIONS)]
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
        if all(site.num_committed(shard) >= num_batches for shard in range(NUM_PARTITIONS)):
            return
        time.sleep(0.005)
    raise TimeoutError(f"The partitions do not have {num_batches} batches each after {_WAIT_SECONDS_MAX:.0f} s.")


def _work(directory: Path, shard: int) -> dict[str, Any]:
    site = Site(directory, leased=True)
    num_repins = 0
    while True:
        claim = site.claim(f"run-{shard}", shard)
        try:
            site.generate(claim, run=f"run-{shard}", before=lambda: time.sleep(_BATCH_SECONDS))
        except RepinRequired:
            num_repins += 1
            continue
        return {"version_set": claim.version_set, "attempt": claim.attempt, "num_repins": num_repins}


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    print(json.dumps(_work(Path(task["directory"]), task["shard"])))
