"""One system's work in a process of its own, from Parquet to Parquet: `python -m benchmarks.prep.sides TASK`.

Each as its documentation shows it, with 128 permutations. The answer is the number of each document that was kept.
"""

import json
import re
import resource
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

_WORD = re.compile(r"\w+")
_NUM_PERMUTATIONS = 128


def headrace(source: Path, target: Path, jaccard: float, num_words: int) -> list[int]:
    import polars as pl

    from headrace.prep.corpus import NearDuplicates
    from headrace.prep.dedup import copies_of

    documents = pl.read_parquet(source)
    settings = NearDuplicates(jaccard=jaccard, shingle_words=num_words, num_permutations=_NUM_PERMUTATIONS)
    kept = copies_of(documents, ("text",), settings).get_column("copy_of").is_null()
    documents.filter(kept).write_parquet(target)
    return kept.arg_true().to_list()


def rensa(source: Path, target: Path, jaccard: float, num_words: int) -> list[int]:
    """Its inline way: a document is kept if none before it is similar by the sketches."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # A peer (make bench-setup), without type stubs.
    library: Any = import_module("rensa")
    table = pq.read_table(source)
    texts = table.column("text").to_pylist()
    lsh = library.RMinHashLSH(threshold=jaccard, num_perm=_NUM_PERMUTATIONS, num_bands=32)
    kept: list[int] = []
    sketches = {}
    for start in range(0, len(texts), 8192):
        batch = [_shingles(text, num_words) for text in texts[start : start + 8192]]
        for at, sketch in enumerate(
            library.RMinHash.from_token_sets(batch, num_perm=_NUM_PERMUTATIONS, seed=42), start=start
        ):
            if any(sketch.jaccard(sketches[other]) >= jaccard for other in lsh.query(sketch)):
                continue
            lsh.insert(at, sketch)
            sketches[at] = sketch
            kept.append(at)
    pq.write_table(table.take(pa.array(kept)), target)
    return kept


def datasketch(source: Path, target: Path, jaccard: float, num_words: int) -> list[int]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasketch import MinHash, MinHashLSH  # pyright: ignore[reportMissingImports]

    table = pq.read_table(source)
    lsh = MinHashLSH(threshold=jaccard, num_perm=_NUM_PERMUTATIONS)
    kept: list[int] = []
    encoded = ([one.encode() for one in _shingles(text, num_words)] for text in table.column("text").to_pylist())
    for at, sketch in enumerate(MinHash.generator(encoded, num_perm=_NUM_PERMUTATIONS, seed=42)):
        if not lsh.query(sketch):
            lsh.insert(at, sketch)
            kept.append(at)
    pq.write_table(table.take(pa.array(kept)), target)
    return kept


SIDES: dict[str, Callable[[Path, Path, float, int], Sequence[int]]] = {
    "headrace": headrace,
    "rensa": rensa,
    "datasketch": datasketch,
}


def _shingles(text: str, num_words: int) -> list[str]:
    words = _WORD.findall(text.lower())
    return [" ".join(words[at : at + num_words]) for at in range(max(1, len(words) - num_words + 1))]


def main() -> None:
    task = json.loads(sys.argv[1])
    kept = SIDES[task["side"]](Path(task["source"]), Path(task["target"]), task["jaccard"], task["num_words"])
    print(json.dumps({"kept": list(kept), "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
