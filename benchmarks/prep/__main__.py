"""Near de-duplication against its peers, Parquet to Parquet, and against the truth.

`python -m benchmarks.prep [--megabytes 200] [--runs 5] [--peers rensa,datasketch]`. Each system is a process of its own
that reads the same file; they take turns. CPU seconds are of the whole process, imports and compiling included; the
first run of ours compiles (3 CPU s, once a machine) and is a warm-up, told by itself. Five-word shingles, Jaccard 0.7.
Slow peers get a slice (`--slice-megabytes`). The truth is every pair of the slice, exactly, by other tokens than ours.
"""

import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.measuring import (
    MB,
    Bars,
    at_least,
    at_most,
    finish,
    in_turns,
    median,
    parser_of,
    print_table,
    progress,
    require_peers,
    rounded,
    run_child,
    scratch,
    some_of,
    whole,
)
from benchmarks.prep.corpus import write_corpus
from benchmarks.prep.sides import SIDES
from benchmarks.prep.truth import pairs_left, removals_with_a_twin, similar_pairs
from benchmarks.prep.whole import measure as measure_whole

PEERS = [name for name in SIDES if name != "headrace"]
JACCARD, NUM_WORDS = 0.7, 5
# datasketch needs a CPU second for three megabytes.
_SLOW = {"datasketch"}


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("prep", __doc__)
    parser.add_argument("--megabytes", type=whole(1), default=200)
    parser.add_argument("--slice-megabytes", type=whole(1), default=20, help="for slow peers and for the truth")
    parser.add_argument("--runs", type=whole(1), default=5)
    parser.add_argument("--peers", type=some_of(PEERS), default=PEERS)
    parser.add_argument(
        "--whole-megabytes", type=whole(1), default=60, help="of 33 shards that are compared as one corpus"
    )
    parser.add_argument("--only", choices=["whole"], help="only this part")
    given = parser.parse_args(arguments)
    if given.only == "whole":
        with scratch("prep-whole") as directory:
            bars, figures = measure_whole(directory, given.whole_megabytes * MB)
        return finish({"benchmark": "prep", **figures}, bars, given.json)
    require_peers({peer: peer for peer in given.peers})
    sides = ["headrace", *given.peers]
    with scratch("prep") as directory:
        corpus, part = directory / "corpus.parquet", directory / "part.parquet"
        num_documents = write_corpus(corpus, given.megabytes * MB, seed=1)
        num_in_part = write_corpus(part, given.slice_megabytes * MB, seed=2)
        progress.print(f"{num_documents:,} documents; {num_in_part:,} in the slice")
        costs: dict[str, list[float]] = {side: [] for side in sides}
        peaks: dict[str, int] = {}
        compiling = 0.0
        for run, side in in_turns("near duplicates", given.runs, sides, num_warm_ups=1):
            on, size = (part, given.slice_megabytes) if side in _SLOW else (corpus, given.megabytes)
            result = run_child("benchmarks.prep.sides", _task(side, on, directory))
            peaks[side] = result.body["peak_bytes"]
            if run >= 0:
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
        "benchmark": "prep",
        "megabytes": given.megabytes,
        "documents": num_documents,
        "mb_per_cpu_s": speeds,
        "peak_bytes": peaks,
        "first_run_cpu_s": rounded(compiling),
        "removed_with_a_twin": {side: rounded(one[0], 4) for side, one in quality.items()},
        "pairs_left": {side: rounded(one[1], 4) for side, one in quality.items()},
    }
    return finish(body, bars, given.json)


def _task(side: str, source: Path, directory: Path) -> dict[str, Any]:
    target = directory / f"{side}.parquet"
    return {"side": side, "source": str(source), "target": str(target), "jaccard": JACCARD, "num_words": NUM_WORDS}


def _quality(side: str, source: Path, directory: Path, pairs: Any, num_documents: int) -> tuple[float, float]:
    kept = set(run_child("benchmarks.prep.sides", _task(side, source, directory)).body["kept"])
    flags = [at in kept for at in range(num_documents)]
    return removals_with_a_twin(pairs, flags, JACCARD), pairs_left(pairs, flags, 0.8)


if __name__ == "__main__":
    sys.exit(main())
