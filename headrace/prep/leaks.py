"""Finds documents on both sides of the split, and twins: the faults that falsify a held-out loss.

Twins are found by other means than the split avoids them by: every held-out document is compared with every training
document that holds one of its rarest sequences, without a sketch, so none is missed (Chaudhuri et al. 2006: two sets of
similarity t or more share one of any n - ceil(t n) + 1 members of each). Documents stream; memory holds 24 bytes each,
and the held-out ones' sequences. Costs the tokens of all documents, once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from headrace.prep.corpus import Corpus
from headrace.prep.dedup import Sets
from headrace.prep.signatures import Signer, sequences_of
from headrace.prep.text_keys import text_keys_of

COLUMNS = ("document_id", "term", "category", "text", "split")
_BATCH_ROWS = 8192
_NUM_SAMPLES = 3
# What is less probable than this did not happen by chance.
_CHANCE_MIN = 0.001


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """What is in both train and held-out, with a few of each.

    `num_twins`: how many held-out documents have a training document that overlaps with them by at least
    `corpus.twins_jaccard`; `most_similar`: the highest overlap of these; `missed_by_chance`: whether the split's sketch
    may have missed so many, so similar. `texts_may_leak`: whether equal texts may be on both sides, as with
    `twins_jaccard: null` and another column of `duplicate_columns` that tells them apart. `sketch_recall`: the share of
    twins at `corpus.twins_jaccard` that the split finds by its sketch; None: the corpus has no twins.
    """

    num_documents: int
    num_heldout: int
    num_terms: int
    num_texts: int
    num_twins: int
    most_similar: float
    missed_by_chance: bool
    texts_may_leak: bool
    twins_jaccard: float | None
    sketch_recall: float | None
    samples: tuple[str, ...]

    @property
    def found(self) -> bool:
        return self._num_certain + self.num_twins > 0

    @property
    def is_certain(self) -> bool:
        """Whether it is more than the few twins of least similarity that the split misses by chance."""
        return self._num_certain > 0 or not self.missed_by_chance

    @property
    def _num_certain(self) -> int:
        return self.num_terms + (0 if self.texts_may_leak else self.num_texts)

    def told(self, num_shards: int) -> str:
        """What was compared and what was found, in sentences. `num_shards`: of how many shards the documents are."""
        train = self.num_documents - self.num_heldout
        said = [
            f"{self.num_heldout:,} held-out and {train:,} training documents of {num_shards:,} "
            f"{'shard' if num_shards == 1 else 'shards'} were compared: {self._on_both_sides()}."
        ]
        if self.twins_jaccard is not None and self.sketch_recall is not None:
            said.append(
                f"Twins overlap by {self.twins_jaccard:g} or more; the split's sketch finds at least "
                f"{self.sketch_recall:.1%} of them, this check all."
            )
        if self.num_twins and not self.is_certain:
            said.append("So few, so little alike, are what the sketch misses by chance.")
        if self.texts_may_leak and self.num_texts:
            said.append(f"Equal texts on both sides that another column tells apart: {self.num_texts:,}, no leak.")
        if self.samples:
            said.append(f"On both sides, for example: {'; '.join(self.samples)}")
        return " ".join(said)

    def _on_both_sides(self) -> str:
        if not self.found:
            nothing = "no term and no text" if self.twins_jaccard is None else "no term, no text and no twin"
            return f"{nothing} is on both sides"
        counts = (
            (self.num_terms, "term", "terms"),
            (0 if self.texts_may_leak else self.num_texts, "text", "texts"),
            (self.num_twins, "held-out document with a twin in training", "held-out documents with a twin in training"),
        )
        found = ", ".join(f"{count:,} {one if count == 1 else many}" for count, one, many in counts if count)
        return f"on both sides {'is' if sum(count for count, _, _ in counts) == 1 else 'are'} {found}"


def find_leaks(corpus: Corpus, shards: Sequence[pa.Table]) -> Leaks:
    """Compares all given shards of CLEAN_DOCUMENTS, by the corpus's definition of equal documents."""
    hashed = pl.concat([_hashed(batch) for batch in _batches(shards)] or [pl.DataFrame(schema=_HASHED)])
    terms = _on_both_sides(hashed.drop_nulls("term"), "term")
    texts = _on_both_sides(hashed, "text")
    twins = _Twins.of(corpus, shards)
    texts_may_leak = corpus.twins_jaccard is None and len(corpus.duplicate_columns) > 1
    samples = [
        *_shown(shards, pl.col("term"), _key("term").hash(), terms),
        *_shown(shards, pl.col("text"), _key("text").hash(), texts[: 0 if texts_may_leak else None]),
        *twins.samples(),
    ]
    least = corpus.twins_jaccard
    return Leaks(
        num_documents=hashed.height,
        num_heldout=int(hashed.get_column("heldout").sum()),
        num_terms=len(terms),
        num_texts=len(texts),
        num_twins=int((twins.similarities > 0).sum()),
        most_similar=float(twins.similarities.max(initial=0)),
        missed_by_chance=_may_be_missed(corpus, twins.similarities),
        texts_may_leak=texts_may_leak,
        twins_jaccard=least,
        sketch_recall=1 - float(Signer.of(corpus).missed_share(np.array(least))) if least else None,
        samples=tuple(samples),
    )


_HASHED = {"term": pl.UInt64, "text": pl.UInt64, "heldout": pl.Boolean}


def _batches(shards: Sequence[pa.Table]) -> Iterator[pl.DataFrame]:
    for table in shards:
        for batch in table.select(COLUMNS).to_batches(max_chunksize=_BATCH_ROWS):
            yield pl.DataFrame(batch)


def _key(name: str) -> pl.Expr:
    return text_keys_of(pl.col(name))


def _hashed(documents: pl.DataFrame) -> pl.DataFrame:
    term = pl.when(pl.col("term").is_not_null()).then(_key("term").hash())
    return documents.select(
        term.alias("term"),
        _key("text").hash().alias("text"),
        (pl.col("split") == "heldout").alias("heldout"),
    )


def _may_be_missed(corpus: Corpus, similarities: np.ndarray) -> bool:
    """Whether the split's sketch, which misses a pair the less the more similar it is, may have missed these.

    Of the held-out documents, of which each may have a twin, `expected` are missed at most that are as similar as the
    k-th; that k are, has at most this probability (Chernoff's bound for a Poisson distribution).
    """
    found = -np.sort(-similarities[similarities > 0])
    expected = len(similarities) * Signer.of(corpus).missed_share(found) + 1e-300
    number = np.arange(1, len(found) + 1)
    log_probability = number - expected + number * np.log(expected / number)
    return bool(np.all((number <= expected) | (log_probability > np.log(_CHANCE_MIN))))


def _on_both_sides(hashed: pl.DataFrame, name: str) -> pl.Series:
    sides = hashed.group_by(name).agg(pl.col("heldout").any().alias("any"), pl.col("heldout").all().alias("all"))
    return sides.filter(pl.col("any") & ~pl.col("all")).get_column(name).sort()


def _shown(shards: Sequence[pa.Table], shown: pl.Expr, hashed: pl.Expr, wanted: pl.Series) -> list[str]:
    """The first documents that have each of a few hashes."""
    missing, found = set(wanted.head(_NUM_SAMPLES)), []
    for batch in _batches(shards) if missing else ():
        here = batch.select(shown.alias("shown"), hashed.alias("hash")).filter(pl.col("hash").is_in(list(missing)))
        for text, one in here.unique("hash", keep="first", maintain_order=True).iter_rows():
            missing.remove(one)
            found.append(text)
        if not missing:
            break
    return found


@dataclass(frozen=True)
class _Twins:
    """Held-out documents by number: the number of the most similar training document, -1: none is similar enough."""

    shards: Sequence[pa.Table]
    similarities: np.ndarray
    most_similar: np.ndarray

    @classmethod
    def of(cls, corpus: Corpus, shards: Sequence[pa.Table]) -> "_Twins":
        from headrace.prep import pair_kernels

        near = corpus.near_duplicates
        least, length = corpus.twins_jaccard, near.shingle_words if near else 3
        with Sets() as held:
            for batch in _batches(shards) if least else ():
                heldout = batch.filter(pl.col("split") == "heldout")
                for _, found, bounds in sequences_of(heldout.get_column("text"), length):
                    held.add(found, bounds)
            sets, bounds = held.mapped()
            similarities, most_similar = np.zeros(len(bounds) - 1), np.full(len(bounds) - 1, -1, np.int64)
            wanted, holders = _rarest(sets, bounds, least or 1.0)
            starts = np.searchsorted(wanted, np.arange(65_537, dtype=np.uint64) << np.uint64(16)).astype(np.int64)
            number = 0
            for batch in _batches(shards) if len(wanted) else ():
                train = batch.filter(pl.col("split") == "train")
                texts = train.get_column("text")
                holds = [
                    pair_kernels.holds_any(some, ends, wanted, starts) for _, some, ends in sequences_of(texts, length)
                ]
                candidates = train.with_row_index("at", number).filter(
                    pl.Series(np.concatenate(holds or [[]]), dtype=pl.Boolean)
                )
                number += train.height
                with Sets() as own:
                    for _, some, ends in sequences_of(candidates.get_column("text"), length):
                        own.add(some, ends)
                    pair_kernels.nearest(
                        *own.mapped(),
                        wanted,
                        holders,
                        sets,
                        bounds,
                        least or 1.0,
                        most_similar,
                        similarities,
                        candidates.get_column("at").to_numpy().astype(np.int64),
                    )
        return cls(shards, similarities, most_similar)

    def samples(self) -> list[str]:
        """The most similar pairs."""
        worst = np.argsort(-self.similarities, kind="stable")[:_NUM_SAMPLES]
        pairs = [(int(one), int(self.most_similar[one])) for one in worst if self.similarities[one] > 0]
        heldout, train = (
            _ids(self.shards, side, sorted({pair[at] for pair in pairs}))
            for at, side in enumerate(("heldout", "train"))
        )
        return [
            f"{heldout[one]} (held-out) and {train[other]} (train) overlap by {self.similarities[one]:.2f}"
            for one, other in pairs
        ]


def _rarest(sets: np.ndarray, bounds: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Sequences, ascending, and the documents that must be compared with whoever holds them."""
    sizes = np.diff(bounds)
    _, number, counts = np.unique(sets, return_inverse=True, return_counts=True)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((sets, counts[number], owners))
    rank = np.arange(len(sets)) - np.repeat(bounds[:-1], sizes)
    # A little less than the exact bound, which floating point may miss by one.
    needed = sizes - np.ceil(least * sizes - 1e-9).astype(np.int64) + 1
    chosen = order[rank < needed[owners]]
    by_sequence = chosen[np.argsort(sets[chosen], kind="stable")]
    return sets[by_sequence], owners[by_sequence].astype(np.int64)


def _ids(shards: Sequence[pa.Table], side: str, numbers: Sequence[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    start = 0
    for batch in _batches(shards) if numbers else ():
        ids = batch.filter(pl.col("split") == side).get_column("document_id")
        found |= {one: ids[one - start] for one in numbers if start <= one < start + len(ids)}
        start += len(ids)
    return found
