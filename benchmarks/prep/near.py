"""Near de-duplication against its peers, Parquet to Parquet, and against the truth.

Each system is a process of its own that reads the same file; they take turns. CPU seconds are of the whole process,
imports and compiling included; the first run of ours compiles (once a machine) and is a warm-up, told by itself.
Five-word shingles, Jaccard 0.7. Slow peers get a slice. The truth is every pair of the slice, exactly, by other tokens
than ours.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.measuring import (
    MB,
    Bars,
    at_least,
    at_most,
    in_turns,
    median,
    print_table,
    progress,
    rounded,
    run_child,
)
from benchmarks.prep.corpus import write_corpus
from benchmarks.prep.parts import Given, Outcome
from benchmarks.prep.truth import pairs_left, removals_with_a_twin, similar_pairs

PEERS: dict[str, str | Path] = {"rensa": "rensa", "datasketch": "datasketch"}
JACCARD, NUM_WORDS = 0.7, 5
# datasketch needs a CPU second for three megabytes.
_SLOW = {"datasketch"}


def run(given: Given, directory: Path) -> Outcome:
    sides = ["headrace", *(peer for peer in given.peers if peer in PEERS)]
    corpus, part = directory / "corpus.parquet", directory / "part.parquet"
    num_documents = write_corpus(corpus, given.megabytes * MB, seed=1)
    num_in_part = write_corpus(part, given.slice_megabytes * MB, seed=2)
    progress.print(f"{num_documents:,} documents; {num_in_part:,} in the slice")
    costs: dict[str, list[float]] = {side: [] for side in sides}
    peaks: dict[str, int] = {}
    compiling = 0.0
    for turn, side in in_turns("near duplicates", given.runs, sides, num_warm_ups=1):
        on, size = (part, given.slice_megabytes) if side in _SLOW else (corpus, given.megabytes)
        result = run_child("benchmarks.prep.sides", _task(side, on, directory))
        peaks[side] = result.body["peak_bytes"]
        if turn >= 0:
            costs[side].append(size / result.cpu_seconds)
        elif side == "headrace":
            compiling = result.cpu_seconds
    progress.print("the truth: every pair of the slice")
    texts = pq.read_table(part).column("text").to_pylist()
    pairs = similar_pairs(texts, NUM_WORDS, JACCARD)
    quality = {side: _quality(side, part, directory, pairs, len(texts)) for side in sides}
    speeds = {side: rounded(median(found)) for side, found in costs.items()}
    print_table(
        f"Near de-duplication, {given.megabytes} MB; quality on {given.slice_megabytes} MB",
        ["system", "MB a CPU s", "peak MB", "removed with a twin", "pairs ≥ 0.8 left"],
        [
            [side, f"{speeds[side]:g}", f"{peaks[side] / MB:.0f}", *(f"{share:.2%}" for share in quality[side])]
            for side in sides
        ],
        caption=f"Our first run, which compiles: {compiling:.1f} CPU s.",
    )
    twins, left = quality["headrace"]
    bars: Bars = {
        "near_mb_per_cpu_s": at_least(speeds["headrace"], 30.0),
        "near_removals_with_twin": at_least(rounded(twins, 4), 0.98),
        "near_pairs_left": at_most(rounded(left, 4), 0.001),
    }
    body: dict[str, Any] = {
        "megabytes": given.megabytes,
        "documents": num_documents,
        "mb_per_cpu_s": speeds,
        "peak_bytes": peaks,
        "first_run_cpu_s": rounded(compiling),
        "removed_with_a_twin": {side: rounded(one[0], 4) for side, one in quality.items()},
        "pairs_left": {side: rounded(one[1], 4) for side, one in quality.items()},
    }
    return Outcome(body=body, bars=bars)


def _task(side: str, source: Path, directory: Path) -> dict[str, Any]:
    target = directory / f"{side}.parquet"
    return {"side": side, "source": str(source), "target": str(target), "jaccard": JACCARD, "num_words": NUM_WORDS}


def _quality(side: str, source: Path, directory: Path, pairs: Any, num_documents: int) -> tuple[float, float]:
    kept: Sequence[int] = run_child("benchmarks.prep.sides", _task(side, source, directory)).body["kept"]
    found = set(kept)
    flags = [at in found for at in range(num_documents)]
    return removals_with_a_twin(pairs, flags, JACCARD), pairs_left(pairs, flags, 0.8)
