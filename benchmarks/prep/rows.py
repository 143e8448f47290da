"""Exact duplicates among texts in memory, and JSON Lines, from the file to a table: beside what one writes oneself.

Each system is a process of its own that reads the same file; they take turns. CPU seconds of reading are of the whole
process, imports included. Of exact duplicates: pages, of which one in ten is a copy in other letters and with other
blanks. Of reading: pages, and short documents of 200 characters, where a row costs more than its bytes. Ours also gives
every document its id, and sets aside what it cannot read.
"""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measuring import MB, Bars, at_least, in_turns, median, print_table, rounded, run_child
from benchmarks.parts import Outcome
from benchmarks.prep.parts import Given
from benchmarks.prep.row_sides import SIDES
from benchmarks.prep.web_pages import write_pages

_SHORT_CHARACTERS = 200
_COPY_SHARE = 0.1


def run_exact(given: Given, directory: Path) -> Outcome:
    source = directory / "pages.parquet"
    write_pages(directory / "once.parquet", given.megabytes * MB, seed=1)
    _write_with_copies(directory / "once.parquet", source)
    num_bytes = sum(map(_num_bytes, pq.ParquetFile(source).iter_batches(columns=["text"])))
    speeds, rows, peaks = _compare("exact", {"pages": source}, {"pages": num_bytes}, given)
    _print("Exact duplicates", "kept", speeds, rows, peaks)
    bars: Bars = {"exact_mb_per_cpu_s": at_least(speeds["headrace"]["pages"], 100.0)}
    return Outcome(body={"mb_per_cpu_s": speeds, "kept": rows, "peak_bytes": peaks}, bars=bars)


def run_read(given: Given, directory: Path) -> Outcome:
    write_pages(directory / "pages.parquet", given.megabytes * MB, seed=1)
    sources = {kind: directory / f"{kind}.jsonl" for kind in ("pages", "short")}
    with sources["pages"].open("w") as pages, sources["short"].open("w") as short:
        for batch in pq.ParquetFile(directory / "pages.parquet").iter_batches(columns=["text"]):
            for text in batch.column("text").to_pylist():
                pages.write(_line(text))
                for at in range(0, len(text), _SHORT_CHARACTERS):
                    short.write(_line(text[at : at + _SHORT_CHARACTERS]))
    sizes = {kind: source.stat().st_size for kind, source in sources.items()}
    speeds, rows, peaks = _compare("read", sources, sizes, given)
    _print("JSON Lines to a table", "read", speeds, rows, peaks)
    bars: Bars = {f"read_{kind}_mb_per_cpu_s": at_least(speed, 50.0) for kind, speed in speeds["headrace"].items()}
    return Outcome(body={"mb_per_cpu_s": speeds, "read": rows, "peak_bytes": peaks}, bars=bars)


_Table = dict[str, dict[str, Any]]


def _compare(part: str, sources: dict[str, Path], sizes: dict[str, int], given: Given) -> tuple[_Table, _Table, _Table]:
    """Side → kind of file → MB a CPU second, rows, peak bytes."""
    cases = [(side, kind) for side in SIDES[part] for kind in sources]
    costs: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    rows, peaks = ({side: dict.fromkeys(sources, 0) for side in SIDES[part]} for _ in range(2))
    for turn, case in in_turns(part, given.runs, cases, num_warm_ups=1):
        side, kind = case
        task = {"part": part, "side": side, "source": str(sources[kind])}
        found = run_child("benchmarks.prep.row_sides", task).body
        rows[side][kind], peaks[side][kind] = found["num_rows"], found["peak_bytes"]
        if turn >= 0:
            costs[case].append(sizes[kind] / MB / found["cpu_seconds"])
    speeds: _Table = {side: {kind: rounded(median(costs[side, kind])) for kind in sources} for side in SIDES[part]}
    return speeds, rows, peaks


def _print(title: str, done: str, speeds: _Table, rows: _Table, peaks: _Table) -> None:
    print_table(
        title,
        ["system", "file", "MB a CPU s", f"rows {done}", "peak MB"],
        [
            [side, kind, f"{speed:g}", f"{rows[side][kind]:,}", f"{peaks[side][kind] / MB:.0f}"]
            for side, kinds in speeds.items()
            for kind, speed in kinds.items()
        ],
    )


def _write_with_copies(once: Path, target: Path) -> None:
    draw = random.Random(3)
    with pq.ParquetFile(once) as pages, pq.ParquetWriter(target, pa.schema([("text", pa.string())])) as writer:
        for batch in pages.iter_batches(columns=["text"]):
            texts: list[str] = batch.column("text").to_pylist()
            copies = draw.sample(texts, int(len(texts) * _COPY_SHARE))
            texts += [text.replace("a", "A").replace(". ", ".  ") for text in copies]
            draw.shuffle(texts)
            writer.write_table(pa.table({"text": texts}))


def _num_bytes(batch: pa.RecordBatch) -> int:
    return sum(len(text.encode()) for text in batch.column("text").to_pylist())


def _line(text: str) -> str:
    return json.dumps({"term": text[:30], "category": "page", "text": text}, ensure_ascii=False) + "\n"
