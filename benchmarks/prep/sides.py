"""One system's work in a process of its own, from Parquet to Parquet: `python -m benchmarks.prep.sides TASK`.

Each as its documentation shows it, with 128 permutations (datatrove: its 14 buckets of 8), and all write what pyarrow
writes by default, snappy. The answer is the number of each document that was kept. `shingles`: what peers compare,
sequences of `words` or of `characters`; ours has its token rule, datatrove its own.
"""

import json
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

_WORD = re.compile(r"\w+")
_NUM_PERMUTATIONS = 128
# As the source has.
_ROW_GROUP_ROWS = 16_384
_BATCH_ROWS = 4096


def headrace(source: Path, target: Path, jaccard: float, num_tokens: int, shingles: str) -> list[int]:
    """De-duplication alone, as the peers do it, by the function that decides in a run."""
    import numpy as np
    import pyarrow.parquet as pq

    from benchmarks.prep.ours import kept_of, raw_documents

    with pq.ParquetFile(source) as file:
        raw = raw_documents(file.iter_batches(_BATCH_ROWS))
    kept = kept_of(raw, _near(jaccard, num_tokens))
    texts = raw.select(["text"])
    # In parts, since all at once would be held.
    with pq.ParquetWriter(target, texts.schema) as writer:
        for start in range(0, texts.num_rows, _ROW_GROUP_ROWS):
            first, stop = np.searchsorted(kept, [start, start + _ROW_GROUP_ROWS])
            writer.write_table(texts.slice(start, _ROW_GROUP_ROWS).take(kept[first:stop] - start))
    return kept.tolist()


def headrace_path(source: Path, target: Path, jaccard: float, num_tokens: int, shingles: str) -> list[int]:
    """All that two runs do with a corpus of one shard, except to seal what they made: ids, rules, twins and split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from benchmarks.prep.ours import without_copies
    from headrace.prep.clean_shards import clean_shard
    from headrace.prep.corpus import Corpus
    from headrace.prep.example_forms import ExamplePrompt
    from headrace.prep.sources import read_shard

    corpus = Corpus(
        name="texts",
        files=(str(source),),
        columns={"text": "text"},
        prompt=ExamplePrompt(user="Write."),
        near_duplicates=_near(jaccard, num_tokens),
    )
    raw = read_shard(corpus, "shard-00", source.parent).documents
    kept, verdict = without_copies(corpus, raw)
    documents = clean_shard(corpus, raw, {}, verdict).documents
    with pq.ParquetWriter(target, documents.schema) as writer:
        for batch in documents.to_batches():
            writer.write_table(pa.Table.from_batches([batch]))
    return kept.tolist()


def _near(jaccard: float, num_tokens: int) -> Any:
    from headrace.prep.dedup_settings import NearDuplicates

    return NearDuplicates(jaccard=jaccard, shingle_words=num_tokens, num_permutations=_NUM_PERMUTATIONS)


def rensa(source: Path, target: Path, jaccard: float, num_tokens: int, shingles: str) -> list[int]:
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
        batch = [_SHINGLES[shingles](text, num_tokens) for text in texts[start : start + 8192]]
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


def datasketch(source: Path, target: Path, jaccard: float, num_tokens: int, shingles: str) -> list[int]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasketch import MinHash, MinHashLSH  # pyright: ignore[reportMissingImports]

    table = pq.read_table(source)
    lsh = MinHashLSH(threshold=jaccard, num_perm=_NUM_PERMUTATIONS)
    kept: list[int] = []
    sets = (_SHINGLES[shingles](text, num_tokens) for text in table.column("text").to_pylist())
    encoded = ([one.encode() for one in members] for members in sets)
    for at, sketch in enumerate(MinHash.generator(encoded, num_perm=_NUM_PERMUTATIONS, seed=42)):
        if not lsh.query(sketch):
            lsh.insert(at, sketch)
            kept.append(at)
    pq.write_table(table.take(pa.array(kept)), target)
    return kept


def datatrove(source: Path, target: Path, jaccard: float, num_tokens: int, shingles: str) -> list[int]:
    """Its four steps, one task each; the threshold is that of its buckets, 0.72."""
    import pyarrow.parquet as pq

    # A peer in a place of its own (make bench-setup).
    dedup: Any = import_module("datatrove.pipeline.dedup")
    readers: Any = import_module("datatrove.pipeline.readers")
    writers: Any = import_module("datatrove.pipeline.writers.parquet")
    config = import_module("datatrove.pipeline.dedup.minhash").MinhashConfig(n_grams=num_tokens)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        signatures, buckets, removed = (f"{scratch}/{name}" for name in ("signatures", "buckets", "removed"))
        reader = readers.ParquetReader(str(source.parent), glob_pattern=source.name)
        dedup.MinhashDedupSignature(signatures, config=config).run(reader.run(), 0, 1)
        for bucket in range(config.num_buckets):
            dedup.MinhashDedupBuckets(signatures, buckets, config=config).run(None, bucket, config.num_buckets)
        dedup.MinhashDedupCluster(buckets, removed, config=config).run(None, 0, 1)
        documents = dedup.MinhashDedupFilter(removed).run(reader.run(), 0, 1)
        writer = writers.ParquetWriter(str(target.parent), output_filename=target.name, max_file_size=-1)
        for _ in writer.run(documents, 0, 1):
            pass
    # An id is the file's path and the document's place in it.
    return [int(one.rpartition("/")[2]) for one in pq.read_table(target).column("id").to_pylist()]


SIDES: dict[str, Callable[[Path, Path, float, int, str], Sequence[int]]] = {
    "headrace": headrace,
    "headrace-path": headrace_path,
    "rensa": rensa,
    "datasketch": datasketch,
    "datatrove": datatrove,
}


def _of_words(text: str, number: int) -> list[str]:
    words = _WORD.findall(text.lower())
    return [" ".join(words[at : at + number]) for at in range(max(1, len(words) - number + 1))]


def _of_characters(text: str, number: int) -> list[str]:
    return [text[at : at + number] for at in range(max(1, len(text) - number + 1))]


_SHINGLES = {"words": _of_words, "characters": _of_characters}


def main() -> None:
    task = json.loads(sys.argv[1])
    kept = SIDES[task["side"]](
        Path(task["source"]), Path(task["target"]), task["jaccard"], task["num_tokens"], task["shingles"]
    )
    # Not getrusage's, which begins with what the process that forked this one had.
    status = Path("/proc/self/status").read_text()
    peak_bytes = 1024 * int(status.partition("VmHWM:")[2].split()[0])
    print(json.dumps({"kept": list(kept), "peak_bytes": peak_bytes}))


if __name__ == "__main__":
    main()
