"""One system's exact duplicates, or reading of JSON Lines, as a process: `python -m benchmarks.prep.row_sides TASK`.

The answer is the number of rows that were kept, or read, and the CPU seconds of that: of finding the copies among texts
in memory; of reading all of it, with the process's start. Copies are equal but for Unicode form, case and blanks.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

Answer = tuple[int, float]


def exact_headrace(source: Path) -> Answer:
    import pyarrow.parquet as pq

    from benchmarks.prep.ours import kept_of, raw_documents

    with pq.ParquetFile(source) as file:
        raw = raw_documents(file.iter_batches())
    started = time.process_time()
    return len(kept_of(raw, None)), time.process_time() - started


def exact_polars(source: Path) -> Answer:
    """As one writes it down."""
    import polars as pl

    documents = pl.read_parquet(source)
    started = time.process_time()
    alike = pl.col("text").str.normalize("NFC").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()
    kept = documents.with_columns(alike.alias("key")).unique("key", keep="first", maintain_order=True)
    return kept.height, time.process_time() - started


def exact_xxhash(source: Path) -> Answer:
    """A loop over strings, with a set of 128-bit hashes."""
    import unicodedata

    import pyarrow.parquet as pq
    import xxhash

    table = pq.read_table(source)
    started = time.process_time()
    seen: set[int] = set()
    for text in table.column("text").to_pylist():
        key = " ".join(unicodedata.normalize("NFC", text).lower().split())
        seen.add(xxhash.xxh3_128_intdigest(key.encode()))
    return len(seen), time.process_time() - started


def read_headrace(source: Path) -> Answer:
    """Documents with ids from their content, the line that each stood in, and what is unreadable set aside."""
    from headrace.prep.corpus import Corpus
    from headrace.prep.example_forms import ExamplePrompt
    from headrace.prep.sources import read_shard

    corpus = Corpus(
        name="lines",
        files=(str(source),),
        columns={"text": "text", "term": "term", "category": "category"},
        prompt=ExamplePrompt(user="Define {term}."),
    )
    return read_shard(corpus, "shard-00", source.parent).documents.num_rows, time.process_time()


def read_polars(source: Path) -> Answer:
    """The columns alone; a line that is no JSON ends it."""
    import polars as pl

    schema = {"term": pl.String, "category": pl.String, "text": pl.String}
    return pl.read_ndjson(source, schema=schema).height, time.process_time()


def read_json(source: Path) -> Answer:
    """Python's own reader, line by line, into an Arrow table."""
    import pyarrow as pa

    with source.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    table = pa.table({name: [row[name] for row in rows] for name in ("term", "category", "text")})
    return table.num_rows, time.process_time()


SIDES: dict[str, dict[str, Callable[[Path], Answer]]] = {
    "exact": {"headrace": exact_headrace, "polars": exact_polars, "xxhash": exact_xxhash},
    "read": {"headrace": read_headrace, "polars": read_polars, "json": read_json},
}


def main() -> None:
    task = json.loads(sys.argv[1])
    num_rows, cpu_seconds = SIDES[task["part"]][task["side"]](Path(task["source"]))
    # Not getrusage's, which begins with what the process that forked this one had.
    peak_bytes = 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    print(json.dumps({"num_rows": num_rows, "cpu_seconds": cpu_seconds, "peak_bytes": peak_bytes}))


if __name__ == "__main__":
    main()
