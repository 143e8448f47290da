"""One system's exact duplicates, or reading of JSON Lines, as a process: `python -m benchmarks.prep.row_sides TASK`.

The answer is the number of rows that were kept, or read. Copies are equal but for Unicode form, case and blanks.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path


def exact_headrace(source: Path, target: Path) -> int:
    import polars as pl

    from headrace.prep.dedup import copies_of

    documents = pl.read_parquet(source)
    kept = documents.filter(copies_of(documents, ("text",), None).get_column("copy_of").is_null())
    kept.write_parquet(target)
    return kept.height


def exact_polars(source: Path, target: Path) -> int:
    """As one writes it down."""
    import polars as pl

    alike = pl.col("text").str.normalize("NFC").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()
    documents = pl.read_parquet(source).with_columns(alike.alias("key"))
    kept = documents.unique("key", keep="first", maintain_order=True).drop("key")
    kept.write_parquet(target)
    return kept.height


def exact_xxhash(source: Path, target: Path) -> int:
    """A loop over strings, with a set of 128-bit hashes."""
    import unicodedata

    import pyarrow as pa
    import pyarrow.parquet as pq
    import xxhash

    table = pq.read_table(source)
    seen: set[int] = set()
    kept: list[bool] = []
    for text in table.column("text").to_pylist():
        key = xxhash.xxh3_128_intdigest(" ".join(unicodedata.normalize("NFC", text).lower().split()).encode())
        kept.append(key not in seen)
        seen.add(key)
    pq.write_table(table.filter(pa.array(kept)), target)
    return sum(kept)


def read_headrace(source: Path, target: Path) -> int:
    """Documents with ids from their content, the line that each stood in, and what is unreadable set aside."""
    from headrace.prep.corpus import Corpus, ExamplePrompt
    from headrace.prep.sources import read_shard

    corpus = Corpus(
        name="lines",
        files=(str(source),),
        columns={"text": "text", "term": "term", "category": "category"},
        prompt=ExamplePrompt(user="Define {term}."),
    )
    return read_shard(corpus, "shard-00", source.parent).documents.num_rows


def read_polars(source: Path, target: Path) -> int:
    """The columns alone; a line that is no JSON ends it."""
    import polars as pl

    schema = {"term": pl.String, "category": pl.String, "text": pl.String}
    return pl.read_ndjson(source, schema=schema).height


def read_json(source: Path, target: Path) -> int:
    """Python's own reader, line by line, into an Arrow table."""
    import pyarrow as pa

    with source.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return pa.table({name: [row[name] for row in rows] for name in ("term", "category", "text")}).num_rows


SIDES: dict[str, dict[str, Callable[[Path, Path], int]]] = {
    "exact": {"headrace": exact_headrace, "polars": exact_polars, "xxhash": exact_xxhash},
    "read": {"headrace": read_headrace, "polars": read_polars, "json": read_json},
}


def main() -> None:
    task = json.loads(sys.argv[1])
    num_rows = SIDES[task["part"]][task["side"]](Path(task["source"]), Path(task["target"]))
    # Not getrusage's, which begins with what the process that forked this one had.
    peak_bytes = 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    print(json.dumps({"num_rows": num_rows, "peak_bytes": peak_bytes}))


if __name__ == "__main__":
    main()
