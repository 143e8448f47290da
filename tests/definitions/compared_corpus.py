"""Prepares a corpus whose shards are compared, as the code location does it; prints what happened.

A process of its own, since the graph is made from the corpus file when definitions are loaded.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from pipelines.definitions import defs
from resources.settings import settings_from_environment
from tests.prep.builders import gloss, write_jsonl

REPOSITORY = defs.get_repository_def()
SETTINGS = settings_from_environment()
SHARDS = ("shard-00", "shard-01", "shard-02")
REQUESTED = (
    *("labels", "document_embeddings", "document_signatures", "duplicate_buckets", "duplicates", "clean_documents"),
)


class Corpus:
    def __init__(self) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        self.cursor: Any = None
        self.file = SETTINGS.corpus
        self.handoffs = HandoffStore(LocalStore(Path(SETTINGS.home) / "store"))

    def write_shard(self, shard: str, numbers: range) -> None:
        self.write_rows(shard, map(gloss, numbers))

    def write_rows(self, shard: str, rows: Iterable[Mapping[str, Any]]) -> None:
        write_jsonl(Path(SETTINGS.home) / f"corpus/{shard}.jsonl", rows)

    def set(self, **dedup: Any) -> None:
        body = yaml.safe_load(self.file.read_text())
        self.file.write_text(yaml.safe_dump(body | {"dedup": dedup}))

    def run(self, job: str, *partitions: str | None, again: bool = False) -> list[str]:
        """The messages of runs that failed."""
        failed = []
        for partition in partitions:
            result = REPOSITORY.get_job(job).execute_in_process(
                instance=self.instance,
                partition_key=partition,
                raise_on_error=False,
                tags={"headrace/make_again": "1"} if again else {},
            )
            failed += [
                event.step_failure_data.error.message
                for event in result.filter_events(lambda each: each.is_step_failure)
                if event.step_failure_data.error
            ]
        return failed

    def requested(self) -> dict[str, list[str | None]]:
        """What this tick of the automation asks for."""
        found = dg.evaluate_automation_conditions(defs, self.instance, cursor=self.cursor)
        self.cursor = found.cursor
        there = {key.to_user_string() for key in REPOSITORY.asset_graph.get_all_asset_keys()}
        wanted = {key: found.get_requested_partitions(dg.AssetKey(key)) for key in REQUESTED if key in there}
        return {key: sorted(partitions, key=str) for key, partitions in wanted.items() if partitions}

    def version(self, asset: str, partition: str) -> int:
        return self.handoffs.open(asset, partition).version

    def rows(self, asset: str, partition: str) -> list[dict[str, Any]]:
        return self.handoffs.open(asset, partition).table().to_pylist()

    def kept(self, shards: Sequence[str] = SHARDS) -> dict[str, list[str]]:
        return {
            shard: self.handoffs.open("clean_documents", shard).table(["term"]).column("term").to_pylist()
            for shard in shards
        }


def main() -> dict[str, Any]:
    corpus = Corpus()
    told: dict[str, Any] = {}
    corpus.requested()
    for number, shard in enumerate(SHARDS):
        corpus.write_shard(shard, range(number * 40, number * 40 + 60))
    told["prepared"] = corpus.run("prepare", *SHARDS[:2])
    told["with two of three shards"] = corpus.requested()
    told["without the third"] = corpus.run("find_duplicates", None)
    corpus.run("prepare", SHARDS[2])
    told["with all shards"] = corpus.requested()
    told["duplicates found"] = corpus.run("find_duplicates", None)
    told["with duplicates"] = corpus.requested()
    told["cleaned"] = corpus.run("make_examples", *SHARDS)
    told["in one run"] = corpus.kept()
    told["empty signatures"] = [corpus.handoffs.open("document_signatures", shard).num_rows for shard in SHARDS]
    corpus.requested()

    corpus.set(one_run_below=0, num_buckets=2)
    corpus.run("prepare", *SHARDS)
    told["buckets filled"] = corpus.run("compare_bucket", "bucket-00", "bucket-01")
    told["found by many runs"] = corpus.run("find_duplicates", None, again=True)
    told["version by many runs"] = corpus.version("duplicates", "all")
    corpus.run("make_examples", *SHARDS)
    told["in many runs"] = corpus.kept()
    corpus.requested()

    # What the third shard had in common with the second.
    corpus.write_shard(SHARDS[1], range(40, 70))
    corpus.run("prepare", SHARDS[1])
    told["after a change"] = corpus.requested()
    told["too early"] = corpus.run("make_examples", SHARDS[1])
    corpus.run("find_duplicates", None)
    told["after its duplicates"] = corpus.requested()
    corpus.run("make_examples", *SHARDS)
    told["versions"] = {shard: corpus.version("clean_documents", shard) for shard in SHARDS}
    told["after the change"] = corpus.kept()
    return told


if __name__ == "__main__":
    json.dump(main(), sys.stdout)
