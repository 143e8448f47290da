"""Near de-duplication against its peers, Parquet to Parquet, and against the truth.

Each system is a process of its own that reads the same file; they take turns. Ours is there twice: `headrace` is
de-duplication alone by the function that decides in a run, as much as the peers do; `headrace-path` is all that the
runs of one shard do but for sealing: ids, quality rules, the normal form, twins, the split. CPU seconds are of the
whole process, imports and compiling included; the first run of ours compiles (once a machine) and is a warm-up, told by
itself.
Five-token shingles, Jaccard 0.7. Slow peers get a slice, datatrove once. The truth is every pair of the slice, exactly,
by each system's own tokens, and by `\\w+` for all: texts that differ in signs alone are twins by `\\w+`, and are not by
our rule. datatrove's tokens are spaCy's, which only `\\w+` stands for here.

Memory is the peak of what was resident, VmHWM: with libraries' code and the mapped pages of temporary files.
"""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.measuring import (
    MB,
    Bars,
    ChildResult,
    at_least,
    at_most,
    in_turns,
    median,
    print_table,
    progress,
    rounded,
    run_child,
)
from benchmarks.parts import Outcome
from benchmarks.prep.corpus import write_corpus
from benchmarks.prep.parts import Given
from benchmarks.prep.truth import Truth, Verdict
from pipelines.setup import DATATROVE

PEERS: dict[str, str | Path] = {
    "rensa": "rensa",
    "datasketch": "datasketch",
    "datatrove": DATATROVE / "bin/python",
}
JACCARD, NUM_TOKENS = 0.7, 5
_SIMILAR = 0.8
# CPU seconds a megabyte: a third, and three.
_ON_SLICE, _ONCE = {"datasketch", "datatrove"}, {"datatrove"}
_OURSELVES = ("headrace", "headrace-path")
_OURS, _PLAIN = "our tokens", r"\w+"
_MEMORY_BYTES_MAX = 300 * MB


def run(given: Given, directory: Path) -> Outcome:
    sides = [*_OURSELVES, *(peer for peer in given.peers if peer in PEERS)]
    corpus, part = directory / "corpus.parquet", directory / "part.parquet"
    num_documents = write_corpus(corpus, given.megabytes * MB, seed=1)
    num_in_part = write_corpus(part, given.slice_megabytes * MB, seed=2)
    progress.print(f"{num_documents:,} documents; {num_in_part:,} in the slice")
    costs: dict[str, list[float]] = {side: [] for side in sides}
    peaks: dict[str, int] = {}
    kept: dict[str, list[int]] = {}
    compiling = 0.0
    for turn, side in in_turns("near duplicates", given.runs, sides, num_warm_ups=1):
        if side in _ONCE and turn != 0:
            continue
        on, megabytes = (part, given.slice_megabytes) if side in _ON_SLICE else (corpus, given.megabytes)
        result = deduplicated(side, on, directory, JACCARD, NUM_TOKENS)
        peaks[side], kept[side] = result.body["peak_bytes"], result.body["kept"]
        if turn >= 0:
            costs[side].append(megabytes / result.cpu_seconds)
        elif side == "headrace":
            compiling = result.cpu_seconds
    for side in {*sides} - _ON_SLICE:
        kept[side] = deduplicated(side, part, directory, JACCARD, NUM_TOKENS).body["kept"]
    progress.print("the truth: every pair of the slice")
    texts = pq.read_table(part).column("text").to_pylist()
    truths = {tokens: Truth.of(texts, tokens, NUM_TOKENS, JACCARD) for tokens in (_OURS, _PLAIN)}
    verdicts = {
        side: {tokens: truth.judge(kept[side], JACCARD, _SIMILAR) for tokens, truth in truths.items()} for side in sides
    }
    speeds = {side: rounded(median(found)) for side, found in costs.items()}
    print_table(
        f"Near de-duplication, {given.megabytes} MB; quality on {given.slice_megabytes} MB",
        [
            *("system", "MB a CPU s", "peak MB", "removed with a twin, own tokens", r"by \w+"),
            *(f"pairs ≥ {_SIMILAR} left, own tokens", r"by \w+"),
        ],
        [[side, f"{speeds[side]:g}", f"{peaks[side] / MB:.0f}", *_shares(side, verdicts[side])] for side in sides],
        caption=f"Our first run, which compiles: {compiling:.1f} CPU s.",
    )
    ours = verdicts["headrace"][_OURS]
    bars: Bars = {
        "near_mb_per_cpu_s": at_least(speeds["headrace"], 30.0),
        "near_removals_with_twin": at_least(rounded(ours.with_a_twin, 4), 0.98),
        "near_pairs_left": at_most(rounded(ours.pairs_left, 4), 0.001),
        "near_bytes_over_the_texts": at_most(peaks["headrace"] - given.megabytes * MB, _MEMORY_BYTES_MAX),
    }
    body: dict[str, Any] = {
        "megabytes": given.megabytes,
        "documents": num_documents,
        "mb_per_cpu_s": speeds,
        "peak_bytes": peaks,
        "first_run_cpu_s": rounded(compiling),
        "removed_with_a_twin": _by_tokens(verdicts, "with_a_twin"),
        "pairs_left": _by_tokens(verdicts, "pairs_left"),
    }
    return Outcome(body=body, bars=bars)


def deduplicated(
    side: str, source: Path, directory: Path, jaccard: float, num_tokens: int, shingles: str = "words"
) -> ChildResult:
    """One system's run in a process of its own; `shingles`: as in `sides`."""
    task = {
        "side": side,
        "source": str(source),
        "target": str(directory / f"{side}.parquet"),
        "jaccard": jaccard,
        "num_tokens": num_tokens,
        "shingles": shingles,
    }
    needed = PEERS.get(side)
    return run_child(
        "benchmarks.prep.sides",
        task,
        # Of this benchmark alone, or the first run would find what an earlier one had compiled.
        environment={"NUMBA_CACHE_DIR": str(directory / "compiled")},
        interpreter=needed if isinstance(needed, Path) else None,
    )


def _shares(side: str, verdicts: dict[str, Verdict]) -> list[str]:
    own, plain = verdicts[_OURS if side in _OURSELVES else _PLAIN], verdicts[_PLAIN]
    shares = (own.with_a_twin, plain.with_a_twin, own.pairs_left, plain.pairs_left)
    return [f"{share:.2%}" for share in shares]


def _by_tokens(verdicts: dict[str, dict[str, Verdict]], share: str) -> dict[str, dict[str, float]]:
    return {
        side: {tokens: rounded(getattr(verdict, share), 4) for tokens, verdict in found.items()}
        for side, found in verdicts.items()
    }
