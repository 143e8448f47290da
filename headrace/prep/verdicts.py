"""Judges whole shards of a corpus together: what each document is dropped for, and which sides of the split change.

Rules first, document by document; then copies among what the rules keep, in all shards given, by words and then by
meaning; then twins, which stand on one side. One run may do all of it (`judged_shards`), or many runs the parts
(`judged_by_rules`, `verdicts`), with the same verdicts, whatever the order of shards. Documents stream through memory:
a byte each stays, and what `dedup` holds of those that share a key.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.handoff.schemas import DUPLICATES, RAW_DOCUMENTS, conform
from headrace.prep.cleaning import prepared, rule_names
from headrace.prep.corpus import Corpus
from headrace.prep.dedup import Comparison, copies_among, in_company
from headrace.prep.example_forms import OF_MESSAGES
from headrace.prep.normalization import in_form
from headrace.prep.quality import first_rule
from headrace.prep.semantic import VectorSigner, divided, with_semantic_copies
from headrace.prep.signatures import KeyFiles
from headrace.prep.split import MovedKeys, split_key
from headrace.prep.vector_rows import VectorRows

_BATCH_ROWS = 8192
# Of texts, since a single one may be a book.
_BATCH_BYTES = 64_000_000


@dataclass(frozen=True, kw_only=True)
class CorpusShard:
    """RAW_DOCUMENTS of one shard, mapped rather than held, and the label that counts for each document id."""

    key: str
    raw: pa.Table
    labels: Mapping[str, str]
    # DOCUMENT_EMBEDDINGS; only where semantic duplicates are looked for.
    embeddings: pa.Table | None = None

    @property
    def vectors(self) -> pa.Table:
        """`embeddings`, where they are needed.

        Raises: InvalidInput: there are none, or of another number of documents.
        """
        if self.embeddings is None:
            raise InvalidInput(
                "The corpus file has semantic_duplicates, and no document_embeddings were read. Reload the code "
                "location, which then has them, and materialize document_embeddings."
            )
        if self.embeddings.num_rows != self.raw.num_rows:
            raise InvalidInput(
                f"document_embeddings[{self.key}] has {self.embeddings.num_rows:,} rows for {self.raw.num_rows:,} "
                f"raw_documents: it was made of others. Materialize document_embeddings of {self.key} again."
            )
        return self.embeddings

    def prepared(self, corpus: Corpus) -> Iterator[tuple[int, pl.DataFrame]]:
        """Batches as rules see them, with `label`; the place of each one's first document."""
        start = 0
        for batch in self.raw.to_batches(max_chunksize=_BATCH_ROWS):
            for part in _bounded(pl.DataFrame(batch)):
                yield start, self._labelled(prepared(part, corpus))
                start += part.height

    def _labelled(self, documents: pl.DataFrame) -> pl.DataFrame:
        labels = [self.labels.get(one) for one in documents.get_column("document_id")] if self.labels else None
        label = pl.lit(None, pl.String) if labels is None else pl.Series(labels, dtype=pl.String)
        return documents.with_columns(label.alias("label"))


@dataclass(frozen=True, kw_only=True)
class Judged:
    """`of_shard`: DUPLICATES by shard. `num_twins`: documents that have a twin and stay; `num_largest_twins`: how many
    of them stand on one side together, at most. `num_vector_pairs`: whose embeddings were compared; None: none are."""

    of_shard: Mapping[str, pa.Table]
    num_twins: int
    num_largest_twins: int
    num_vector_pairs: int | None = None

    @property
    def figures(self) -> dict[str, int]:
        twins = {"num_twins": self.num_twins, "num_largest_twins": self.num_largest_twins}
        return twins if self.num_vector_pairs is None else twins | {"num_vector_pairs": self.num_vector_pairs}


def comparison_of(corpus: Corpus) -> Comparison:
    return Comparison(columns=corpus.duplicate_columns, near=corpus.near_duplicates, twins_jaccard=corpus.twins_jaccard)


def judged_by_rules(corpus: Corpus, shard: CorpusShard, add: Callable[[np.ndarray], None]) -> np.ndarray:
    """uint16 for each document: 0, or the number in `rule_names`, from 1 on, of the rule that drops it.

    Args:
        add: gets the `KEY_ROWS` of the documents that the rules keep, numbered by their place.
    """
    rules = np.zeros(shard.raw.num_rows, np.uint16)
    numbers = {name: number for number, name in enumerate(rule_names(corpus), start=1)}
    signer = comparison_of(corpus).signer
    semantic = corpus.semantic_duplicates
    vector_signer = VectorSigner(semantic, signer) if semantic else None
    for start, documents in shard.prepared(corpus):
        rule = first_rule(documents, corpus).replace_strict(numbers, default=0, return_dtype=pl.UInt16).to_numpy()
        rules[start : start + len(rule)] = rule
        kept = np.flatnonzero(rule == 0)
        rows = signer.rows(documents[kept], start + kept)
        if vector_signer:
            rows = vector_signer.rows(documents[kept], start + kept, shard.vectors, rows)
        add(rows)
    return rules


def judged_shards(corpus: Corpus, shards: Sequence[CorpusShard]) -> Judged:
    """All of it in one process."""
    with KeyFiles() as files:
        rules, offset = [], 0
        for shard in shards:

            def add(rows: np.ndarray, offset: int = offset) -> None:
                rows["document"] += offset
                files.add(rows)

            rules.append(judged_by_rules(corpus, shard, add))
            offset += shard.raw.num_rows
        return verdicts(corpus, shards, rules, in_company(files.ranges()))


def verdicts(corpus: Corpus, shards: Sequence[CorpusShard], rules: Sequence[np.ndarray], rows: np.ndarray) -> Judged:
    """What is decided of each shard's documents.

    Args:
        rules: of each shard, as `judged_by_rules` found them.
        rows: of all shards, as `in_company` found them, numbered through in the order of `shards`.
    """
    documents = _ShardsDocuments(corpus, shards)
    num_vector_pairs = None
    if corpus.semantic_duplicates:
        rows, of_vectors = divided(rows)
        found = copies_among(rows, documents, comparison_of(corpus))
        vectors = VectorRows(shard.vectors for shard in shards)
        found, num_vector_pairs = with_semantic_copies(
            corpus.semantic_duplicates, found, of_vectors, documents, vectors
        )
    else:
        found = copies_among(rows, documents, comparison_of(corpus))
    keys = MovedKeys(corpus.heldout_share)
    moved = _moved(corpus, documents, found.twins, keys)
    names = pl.Series([None, *rule_names(corpus)], dtype=pl.String)
    dropped = [
        pl.DataFrame({"document": start + (places := np.flatnonzero(rule)), "rule": names.gather(rule[places])})
        for (start, _), rule in zip(documents.numbered, rules, strict=True)
    ]
    changed = pl.concat([*dropped, found.copies, moved], how="diagonal")
    return Judged(
        of_shard=_of_shards(documents, changed),
        num_twins=found.twins.height,
        num_largest_twins=keys.num_largest(),
        num_vector_pairs=num_vector_pairs,
    )


@dataclass(frozen=True)
class _ShardsDocuments:
    """The documents of all shards, numbered through."""

    corpus: Corpus
    shards: Sequence[CorpusShard]

    @cached_property
    def numbered(self) -> list[tuple[int, CorpusShard]]:
        """Each shard, and the number of its first document."""
        starts = np.cumsum([0, *(shard.raw.num_rows for shard in self.shards)]).tolist()
        return list(zip(starts, self.shards, strict=False))

    def at(self, numbers: np.ndarray) -> pl.DataFrame:
        return prepared(self.raw_at(numbers), self.corpus)

    def raw_at(self, numbers: np.ndarray, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """With `shard`; `columns`: None: all."""
        frames = []
        bounds = np.searchsorted(numbers, [start for start, _, _ in self._parts] + [self._num_documents])
        for (start, key, batch), (first, stop) in zip(self._parts, pairwise(bounds.tolist()), strict=True):
            if first < stop:
                found = pl.DataFrame(batch.select(columns) if columns else batch)[numbers[first:stop] - start]
                frames.append(found.with_columns(pl.lit(key).alias("shard")))
        if frames:
            return pl.concat(frames)
        empty = pl.DataFrame(_WITH_SHARD.empty_table())
        return empty.select(*columns, "shard") if columns else empty

    @property
    def _num_documents(self) -> int:
        return sum(shard.raw.num_rows for shard in self.shards)

    @cached_property
    def _parts(self) -> list[tuple[int, str, pa.RecordBatch]]:
        """Each batch of rows as it is mapped, with its first number and its shard: a table of many cannot be looked up
        without a copy."""
        batches = [(shard.key, batch) for shard in self.shards for batch in shard.raw.to_batches()]
        starts = np.cumsum([0, *(batch.num_rows for _, batch in batches)]).tolist()
        return [(start, key, batch) for start, (key, batch) in zip(starts, batches, strict=False)]


_WITH_SHARD = RAW_DOCUMENTS.append(pa.field("shard", pa.string()))


def _moved(corpus: Corpus, documents: _ShardsDocuments, twins: pl.DataFrame, keys: MovedKeys) -> pl.DataFrame:
    """`document` and `split` of those whose term, or text, alone would put them on the other side than their twins."""
    without_term = [pl.DataFrame(schema={"document": pl.Int64, "key": pl.UInt64})]
    for some in twins.iter_slices(_BATCH_ROWS):
        found = documents.at(some.get_column("document").to_numpy()).select("term", "text")
        key = pl.Series("key", keys.add(zip(some.get_column("twins"), found.iter_rows(), strict=True)), pl.UInt64)
        without_term.append(some.select("document", key).filter(found.get_column("term").is_null()))
    sides = keys.moved()
    if not sides:
        return pl.DataFrame(schema=_MOVED)
    side = pl.col("key").replace_strict(sides, default=None, return_dtype=pl.String).alias("split")
    frames = [pl.concat(without_term).select("document", side)]
    # A term's other documents, alike or not, come along. Of messages, the first question is one where none is mapped.
    if "term" in corpus.columns or corpus.example.kind in OF_MESSAGES:
        frames += [_of_moved_terms(corpus, shard, start, sides) for start, shard in documents.numbered]
    return pl.concat(frames).drop_nulls("split")


_MOVED = {"document": pl.Int64, "split": pl.String}


def _of_moved_terms(corpus: Corpus, shard: CorpusShard, start: int, sides: Mapping[int, str]) -> pl.DataFrame:
    frames = [pl.DataFrame(schema=_MOVED)]
    for terms in _terms(corpus, shard):
        unique = terms.get_column("term").unique().drop_nulls().to_list()
        moved = {term: side for term in unique if (side := sides.get(split_key(term, "")))}
        side = pl.col("term").replace_strict(moved, default=None, return_dtype=pl.String).alias("split")
        frames.append(terms.select(pl.int_range(start, start + pl.len(), dtype=pl.Int64).alias("document"), side))
        start += terms.height
    return pl.concat(frames).drop_nulls("split")


def _terms(corpus: Corpus, shard: CorpusShard) -> Iterator[pl.DataFrame]:
    """The documents' `term` as the split sees it."""
    # Only placeholders need the whole document.
    if corpus.personal_data:
        yield from (documents.select("term") for _, documents in shard.prepared(corpus))
        return
    for batch in shard.raw.select(["term"]).to_batches(max_chunksize=_BATCH_ROWS):
        yield pl.DataFrame(batch).select(in_form(pl.col("term"), corpus.normalize.term).replace("", None))


def _of_shards(documents: _ShardsDocuments, changed: pl.DataFrame) -> dict[str, pa.Table]:
    """One row for each document that a rule drops or whose side changes, by shard."""
    # A dropped document has no side: what moved its term says nothing of it.
    changed = changed.sort("document", pl.col("rule").is_null()).unique("document", keep="first", maintain_order=True)
    numbers, originals = changed.get_column("document").to_numpy(), changed.get_column("copy_of")
    originals = originals.drop_nulls().unique().sort()
    found = documents.raw_at(originals.to_numpy(), ("document_id", "source_file", "source_line"))
    named = found.select(originals.alias("copy_of"), *(pl.col(name).alias(f"copy_of_{name}") for name in found.columns))
    rows = changed.join(named, on="copy_of", how="left", maintain_order="left")
    of_shard = {}
    for start, shard in documents.numbered:
        first, stop = np.searchsorted(numbers, [start, start + shard.raw.num_rows]).tolist()
        own = rows[first:stop].with_columns(
            pl.lit(shard.key).alias("shard"), (pl.col("document") - start).alias("place")
        )
        of_shard[shard.key] = conform("duplicates", own.select(DUPLICATES.names).to_arrow())
    return of_shard


def _bounded(documents: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The same rows in parts of so many bytes, or of one row."""
    size = documents.select(pl.col("text").str.len_bytes().sum()).item()
    if documents.height < 2 or size <= _BATCH_BYTES:
        yield documents
        return
    middle = documents.height // 2
    yield from _bounded(documents[:middle])
    yield from _bounded(documents[middle:])
