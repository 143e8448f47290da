"""The parts of de-duplication that are runs of their own where a corpus is large: signatures, buckets, what is left.

Sealed parts are used only if they were made of the documents, labels and corpus file that are there now. Without its
signatures a large corpus is refused, in one sentence; buckets only save the last run time, which compares keys itself
where one is missing or old, or would hold so few that its run costs more. A corpus below `dedup.one_run_below` needs
neither.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.handoff.schemas import DOCUMENT_SIGNATURES, DUPLICATE_BUCKETS, conform
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.prep.corpus import Corpus
from headrace.prep.dedup import in_company
from headrace.prep.embeddings import sealed_embeddings
from headrace.prep.shard_verdicts import CORPUS, is_of, own_rows, refuse_other_file, refuse_stale
from headrace.prep.signatures import KEY_ROWS, KeyFiles, bounds_of_ranges
from headrace.prep.verdicts import CorpusShard, Judged, judged_by_rules, judged_shards, verdicts

SIGNATURES, BUCKETS, DUPLICATES = "document_signatures", "duplicate_buckets", "duplicates"
# An attribute of buckets: into how many the ranges of keys were dealt when this one was made.
NUM_BUCKETS = "num_buckets"
# Documents of all shards are numbered by shard and place.
_SHARD_SHIFT = 40
_PLACES = (1 << _SHARD_SHIFT) - 1
# Of a bucket. Fewer are compared by the last run in about as much time as another run needs to start.
_BUCKET_ROWS_MIN = 16_000_000
# Of signatures, which are 18 bytes each.
_BATCH_ROWS = 1_000_000


def is_one_run(corpus: Corpus, handoffs: HandoffStore) -> bool:
    """Whether the corpus, as far as it is read, is small enough for one run."""
    newest = (handoffs.newest("raw_documents", shard) for shard in corpus.shard_keys)
    return sum(one.num_bytes for one in newest if one) < corpus.dedup.one_run_below


def signatures(corpus: Corpus, shard: CorpusShard) -> Iterator[pa.RecordBatch]:
    """DOCUMENT_SIGNATURES of a shard: what a rule drops, then each range of keys, in batches of many."""
    with KeyFiles() as files:
        rules = judged_by_rules(corpus, shard, files.add)
        places = np.flatnonzero(rules)
        yield _batch(np.zeros(len(places), np.uint64), places, rules[places])
        for rows in _joined(files.ranges()):
            yield _batch(rows["key"], rows["document"], np.zeros(len(rows), np.uint16))


def _needs_buckets(corpus: Corpus, signed: Iterable[Handoff]) -> bool:
    return sum(one.num_rows for one in signed) >= _BUCKET_ROWS_MIN * corpus.dedup.num_buckets


def made_by_of_bucket(corpus: Corpus) -> dict[str, str]:
    """The attributes of a bucket: what of the corpus file its rows depend on."""
    return {CORPUS: corpus.verdict_digest, NUM_BUCKETS: str(corpus.dedup.num_buckets)}


def bucket(corpus: Corpus, key: str, signed: Mapping[str, Handoff]) -> pa.Table:
    """DUPLICATE_BUCKETS: documents of all shards that share a key of the bucket's ranges; no row where keys are few.

    Raises:
        InvalidInput: a shard's signatures were made by another corpus file.
    """
    refuse_other_file(signed.values(), name=corpus.name, made_by=corpus.verdict_digest)
    if not _needs_buckets(corpus, signed.values()):
        return DUPLICATE_BUCKETS.empty_table()
    rows = in_company(_ranges([handoff.table() for handoff in signed.values()], corpus.dedup.key_ranges(key)))
    shards = pl.Series(list(signed), dtype=pl.String).gather(rows["document"] >> _SHARD_SHIFT)
    table = pl.DataFrame({"key": rows["key"], "shard": shards, "place": rows["document"] & _PLACES})
    return conform(BUCKETS, table.select(DUPLICATE_BUCKETS.names).to_arrow())


def duplicates(
    corpus: Corpus, handoffs: HandoffStore, shards: Sequence[CorpusShard], inputs: Sequence[Handoff]
) -> Judged:
    """What is decided of each shard's documents: by this run alone, or from what is sealed of signatures and buckets.

    Args:
        inputs: raw_documents and labels of all shards, and document_embeddings where the corpus compares any.

    Raises:
        InvalidInput: the corpus is too large for one run, and signatures are missing or old.
    """
    if is_one_run(corpus, handoffs):
        return judged_shards(corpus, shards)
    signed = [_signed(corpus, handoffs, shard, inputs) for shard in shards]
    needs_buckets = _needs_buckets(corpus, signed)
    tables = [handoff.table() for handoff in signed]
    rules = [_rules(table, shard.raw.num_rows) for table, shard in zip(tables, shards, strict=True)]
    starts = np.cumsum([0, *(shard.raw.num_rows for shard in shards)])
    found = [np.zeros(0, KEY_ROWS)]
    for key in corpus.dedup.bucket_keys:
        sealed = handoffs.newest(BUCKETS, key) if needs_buckets else None
        if sealed and _is_bucket_of(corpus, sealed, signed):
            table = pl.DataFrame(sealed.table())
            offsets = dict(zip((shard.key for shard in shards), starts.tolist(), strict=False))
            rows = np.empty(table.height, KEY_ROWS)
            rows["key"] = table.get_column("key").to_numpy()
            start = table.get_column("shard").cast(pl.String).replace_strict(offsets, return_dtype=pl.Int64)
            rows["document"] = (table.get_column("place") + start).to_numpy()
        else:
            rows = in_company(_ranges(tables, corpus.dedup.key_ranges(key)))
            rows["document"] = starts[rows["document"] >> _SHARD_SHIFT] + (rows["document"] & _PLACES)
        found.append(rows)
    return verdicts(corpus, shards, rules, np.concatenate(found))


def own_verdict(corpus: Corpus, handoffs: HandoffStore, inputs: Sequence[Handoff]) -> pa.Table:
    """Of the newest `duplicates`, the rows of one shard.

    Args:
        inputs: the shard's raw_documents and labels; its document_embeddings are looked up here, where the corpus
            compares any.

    Raises:
        InvalidInput: there is none; it was made by another corpus file; or of other documents, labels or embeddings, of
            this shard or of one that holds an original of a copy here.
    """
    found, shard = handoffs.newest(DUPLICATES, "all"), inputs[0].partition
    if found is None:
        raise InvalidInput(
            f"clean_documents[{shard}] leaves out copies in other shards, and {DUPLICATES} is not sealed. Materialize "
            f"{DUPLICATES} once raw_documents and labels of all shards are; or set dedup.over to shard."
        )
    return own_rows(
        found,
        [*inputs, *sealed_embeddings(corpus, handoffs, [shard])],
        handoffs=handoffs,
        name=corpus.name,
        made_by=corpus.verdict_digest,
        shards=corpus.shard_keys,
    ).to_arrow()


def _signed(corpus: Corpus, handoffs: HandoffStore, shard: CorpusShard, inputs: Sequence[Handoff]) -> Handoff:
    found = handoffs.newest(SIGNATURES, shard.key)
    # Of a corpus that was small when its shard was read, a version is empty.
    if found is None or (not found.num_rows and shard.raw.num_rows):
        raise InvalidInput(
            f"Corpus {corpus.name} has more bytes than dedup.one_run_below ({corpus.dedup.one_run_below:,}), and "
            f"{SIGNATURES}[{shard.key}] is not made yet. Materialize {SIGNATURES} of all shards, then {DUPLICATES}; or "
            "raise dedup.one_run_below."
        )
    refuse_stale(found, [one for one in inputs if one.partition == shard.key])
    refuse_other_file([found], name=corpus.name, made_by=corpus.verdict_digest)
    return found


def _is_bucket_of(corpus: Corpus, handoff: Handoff, signed: Sequence[Handoff]) -> bool:
    """Whether it holds just what this corpus file puts there, of these signatures and no others."""
    stated = handoff.manifest.input_versions
    return (
        is_of(handoff, signed)
        and sum(name.startswith(f"{SIGNATURES}[") for name in stated) == len(signed)
        and made_by_of_bucket(corpus).items() <= handoff.attributes.items()
    )


def _ranges(signed: Sequence[pa.Table], numbers: range) -> Iterator[np.ndarray]:
    """`KEY_ROWS` of each range of keys, numbered by shard and place: of the mapped files, only its pages are read."""
    parts = []
    for shard, table in enumerate(signed):
        for batch in table.slice(_num_ruled(table)).to_batches():
            keys, places = batch.column("key").to_numpy(), batch.column("place").to_numpy()
            parts.append((keys, places, bounds_of_ranges(keys, numbers).tolist(), shard << _SHARD_SHIFT))
    for at in range(len(numbers)):
        rows, end = np.empty(sum(bounds[at + 1] - bounds[at] for _, _, bounds, _ in parts), KEY_ROWS), 0
        for keys, places, bounds, first in parts:
            found = slice(bounds[at], bounds[at + 1])
            start, end = end, end + found.stop - found.start
            rows["key"][start:end], rows["document"][start:end] = keys[found], places[found] + first
        yield rows


def _num_ruled(table: pa.Table) -> int:
    """How many rows come first that are a rule's."""
    number = 0
    for batch in table.to_batches():
        ruled = bisect_left(batch.column("rule").to_numpy(), True, key=lambda rule: rule == 0)
        number += ruled
        if ruled < batch.num_rows:
            break
    return number


def _rules(table: pa.Table, num_documents: int) -> np.ndarray:
    ruled = table.slice(0, _num_ruled(table))
    rules = np.zeros(num_documents, np.uint16)
    rules[ruled.column("place").to_numpy()] = ruled.column("rule").to_numpy()
    return rules


def _batch(keys: np.ndarray, places: np.ndarray, rules: np.ndarray) -> pa.RecordBatch:
    arrays = [pa.array(column) for column in (keys, places.astype(np.int64), rules)]
    return pa.RecordBatch.from_arrays(arrays, schema=DOCUMENT_SIGNATURES)


def _joined(ranges: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same rows in fewer arrays: each batch that is sealed costs as much as hundreds of rows."""
    waiting: list[np.ndarray] = []
    for rows in ranges:
        waiting.append(rows)
        if sum(map(len, waiting)) >= _BATCH_ROWS:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)
