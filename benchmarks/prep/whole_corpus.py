"""De-duplication of a whole corpus: 32 shards by 4 processes at a time, as Dagster's runs do it, and by one process.

Verdicts must be equal; CPU seconds are of a process's second time, without its start, which a run pays once. Of a
shard that is added only its own signatures are counted against its share: keys are merged and decided on anew for the
whole corpus, which is told beside it.
"""

import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measuring import MB, Bars, at_least, at_most, print_table, progress, rounded, run_child
from benchmarks.parts import Outcome
from benchmarks.prep.corpus import write_corpus
from benchmarks.prep.parts import Given
from headrace.handoff.content_digest import digest_of
from headrace.handoff.schemas import DOCUMENT_SIGNATURES, LABELS, RAW_DOCUMENTS
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.prep import whole_corpus as compared
from headrace.prep.corpus import Corpus
from headrace.prep.dedup_settings import Deduplication
from headrace.prep.example_forms import ExamplePrompt
from headrace.prep.verdicts import CorpusShard, Judged, judged_shards
from headrace.store.local import LocalStore

_NUM_SHARDS, _NUM_PROCESSES = 32, 4


def run(given: Given, directory: Path) -> Outcome:
    """Seals raw documents of one shard more than are compared first, and compares both ways."""
    num_bytes = given.megabytes * MB
    source = directory / "whole.parquet"
    write_corpus(source, num_bytes, seed=3)
    _seal_raw(directory, pq.read_table(source))
    sealed = _Sealed(directory, _NUM_SHARDS)
    run_child("benchmarks.prep.whole_corpus", _task(directory, "one", _NUM_SHARDS))  # compiles
    one = run_child("benchmarks.prep.whole_corpus", _task(directory, "one", _NUM_SHARDS)).body
    signing = _side_by_side([_task(directory, "sign", _NUM_SHARDS, key) for key in sealed.corpus.shard_keys])
    filling = _side_by_side([_task(directory, "bucket", _NUM_SHARDS, key) for key in sealed.corpus.dedup.bucket_keys])
    deciding = run_child("benchmarks.prep.whole_corpus", _task(directory, "decide", _NUM_SHARDS)).body
    many = signing + filling + deciding["cpu_seconds"]
    progress.print("a shard is added")
    more = _NUM_SHARDS + 1
    added = _side_by_side([_task(directory, "sign", more, sealed.added_key)])
    merging = _side_by_side([_task(directory, "bucket", more, key) for key in sealed.corpus.dedup.bucket_keys])
    merged = run_child("benchmarks.prep.whole_corpus", _task(directory, "decide", more)).body
    again = run_child("benchmarks.prep.whole_corpus", _task(directory, "one", more)).body
    share = again["cpu_seconds"] / more
    print_table(
        f"A whole corpus, {num_bytes // MB} MB in {_NUM_SHARDS} shards",
        ["work", "CPU s"],
        [
            ["one process", f"{one['cpu_seconds']:.2f}"],
            [f"{_NUM_SHARDS} signatures, {_NUM_PROCESSES} at a time", f"{signing:.2f}"],
            ["buckets", f"{filling:.2f}"],
            ["duplicates", f"{deciding['cpu_seconds']:.2f}"],
            ["signatures of an added shard", f"{added:.2f}"],
            ["buckets and duplicates with it", f"{merging + merged['cpu_seconds']:.2f}"],
            ["a shard's share of the work", f"{share:.2f}"],
        ],
    )
    bars: Bars = {
        "whole_verdicts_equal": at_least(
            float(one["digests"] == deciding["digests"] and again["digests"] == merged["digests"]), 1.0
        ),
        "whole_work_ratio": at_most(rounded(many / one["cpu_seconds"]), 1.15),
        "added_shard_ratio": at_most(rounded(added / share), 1.2),
    }
    figures = {
        "one_cpu_s": one["cpu_seconds"],
        "many_cpu_s": rounded(many),
        "merging_with_added_cpu_s": rounded(merging + merged["cpu_seconds"]),
        "num_dropped": one["num_dropped"],
    }
    return Outcome(body=figures, bars=bars)


class _Sealed:
    """The corpus in its store, with as many shards as are looked at."""

    def __init__(self, directory: Path, num_shards: int) -> None:
        self.handoffs = HandoffStore(LocalStore(directory / "store"))
        self.corpus = Corpus(
            name="whole",
            files=("none",),
            prompt=ExamplePrompt(user="Write."),
            num_shards=num_shards,
            dedup=Deduplication(one_run_below=0),
        )
        self.added_key = f"shard-{num_shards:02d}"

    def inputs(self, key: str) -> tuple[Handoff, Handoff]:
        return self.handoffs.open("raw_documents", key), self.handoffs.open("labels", key)

    def shard(self, key: str) -> CorpusShard:
        return CorpusShard(key=key, raw=self.inputs(key)[0].table(), labels={})

    def seal(self, asset: str, key: str, rows: Any, inputs: Sequence[Handoff], **options: Any) -> None:
        made_of = {f"{one.asset}[{one.partition}]": f"v{one.version} {one.content_digest}" for one in inputs}
        attributes = compared.made_by_of_bucket(self.corpus)
        self.handoffs.publish(
            asset, key, rows, code_version="1", run_id="r", input_versions=made_of, attributes=attributes, **options
        )


def _seal_raw(directory: Path, documents: pa.Table) -> None:
    sealed = _Sealed(directory, _NUM_SHARDS + 1)
    num_rows = documents.num_rows // (_NUM_SHARDS + 1)
    for at, key in enumerate(sealed.corpus.shard_keys):
        texts = documents.slice(at * num_rows, num_rows).column("text").to_pylist()
        columns = {
            "document_id": [f"{key} {row}" for row in range(num_rows)],
            **{name: [None] * num_rows for name in ("term", "category")},
            "text": texts,
            "examples": [[]] * num_rows,
            "source_file": [key] * num_rows,
            "source_line": range(num_rows),
        }
        sealed.seal("raw_documents", key, pa.table(columns, schema=RAW_DOCUMENTS), ())
        sealed.seal("labels", key, LABELS.empty_table(), ())


def _task(directory: Path, step: str, num_shards: int, key: str = "") -> dict[str, Any]:
    return {"directory": str(directory), "step": step, "num_shards": num_shards, "key": key}


def _side_by_side(tasks: Sequence[dict[str, Any]]) -> float:
    """CPU seconds of the work of all."""
    with ThreadPoolExecutor(_NUM_PROCESSES) as pool:
        done = pool.map(lambda task: run_child("benchmarks.prep.whole_corpus", task).body["cpu_seconds"], tasks)
        return sum(done)


def _work(task: dict[str, Any]) -> dict[str, Any]:
    sealed = _Sealed(Path(task["directory"]), task["num_shards"])
    # The first time is what a run pays once: libraries, compiled loops, tables of characters, the store's first use.
    _step(sealed, task["step"], task["key"])
    before = time.process_time()
    judged = _step(sealed, task["step"], task["key"])
    found: dict[str, Any] = {"cpu_seconds": time.process_time() - before}
    if judged:
        found["digests"] = {one: digest_of(table) for one, table in judged.of_shard.items()}
        found["num_dropped"] = sum(table.num_rows for table in judged.of_shard.values())
    return found


def _step(sealed: _Sealed, step: str, key: str) -> Judged | None:
    if step == "sign":
        batches = compared.signatures(sealed.corpus, sealed.shard(key))
        sealed.seal("document_signatures", key, batches, sealed.inputs(key), schema=DOCUMENT_SIGNATURES)
        return None
    if step == "bucket":
        signed = {one: sealed.handoffs.open("document_signatures", one) for one in sealed.corpus.shard_keys}
        sealed.seal("duplicate_buckets", key, compared.bucket(sealed.corpus, key, signed), [*signed.values()])
        return None
    shards = [sealed.shard(one) for one in sealed.corpus.shard_keys]
    inputs = [one for shard in shards for one in sealed.inputs(shard.key)]
    if step == "one":
        return judged_shards(sealed.corpus, shards)
    return compared.duplicates(sealed.corpus, sealed.handoffs, shards, inputs)


if __name__ == "__main__":
    print(json.dumps(_work(json.loads(sys.argv[1]))))
