"""Vectors of one shard's documents, of the texts as rules left them: in their normal form, personal data masked.

A text's vector depends on its content and the model alone, so what the newest sealed version of the same model has is
taken from it, whatever happened to cosine, rules or neighbours. A vector's last bits depend on the texts that it was
batched with, which float16 mostly hides. Knows one shard's newest version alone: a document that moves to another shard
is embedded once more; what a run that was killed had embedded is, too.

A text that is longer than the model reads has no vector: two files with one licence at their head would have the same,
whatever follows, and one of them would be dropped.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from headrace.engines.embedding import Embedder, NoVector
from headrace.errors import HandoffCorrupt, HandoffMissing, InvalidInput
from headrace.handoff.schemas import DOCUMENT_EMBEDDINGS
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import digest_text
from headrace.prep.corpus import Corpus, load_corpus
from headrace.prep.quality import first_rule
from headrace.prep.semantic_settings import SemanticDuplicates
from headrace.prep.spilled_table import SpilledTable
from headrace.prep.vector_rows import VectorRows, text_digests
from headrace.prep.verdicts import CorpusShard

ASSET = "document_embeddings"
# Attributes of its versions: a digest of the corpus file's keys that name the model, and `Embedder.key`.
MODEL_SETTINGS, MODEL = "model_settings", "model"
# Texts that the embedder gets at once, to choose its batches from.
_NUM_TEXTS = 1024


@dataclass(frozen=True, kw_only=True)
class EmbeddedShard:
    """`table`: DOCUMENT_EMBEDDINGS, mapped rather than held. `dimension`: 0: no document was embedded."""

    table: pa.Table
    dimension: int
    num_embedded: int
    num_known: int
    num_truncated: int


def model_settings_digest(settings: SemanticDuplicates) -> str:
    return digest_text(MODEL_SETTINGS, *map(str, asdict(settings.embedding_model).values()))


def known_embeddings(handoffs: HandoffStore, shard: str, model: str) -> pa.Table | None:
    """The newest sound version of this `Embedder.key`."""
    with suppress(HandoffCorrupt, HandoffMissing):
        found = handoffs.find(ASSET, shard, **{MODEL: model})
        return found.table() if found else None
    return None


def embed_shard(corpus: Corpus, shard: CorpusShard, embedder: Embedder, known: pa.Table | None) -> EmbeddedShard:
    """Args: known: DOCUMENT_EMBEDDINGS of the same model, whose texts are not embedded again.

    Raises: as `Embedder.embed`; of a text without a vector, with its document's file and line.
    """
    store, spilled = _Known(known), SpilledTable(DOCUMENT_EMBEDDINGS)
    dimension, num_embedded, num_known, num_truncated = store.rows.dimension, 0, 0, 0
    for _, documents in shard.prepared(corpus):
        kept = np.flatnonzero(first_rule(documents, corpus).is_null().to_numpy())
        texts = documents.get_column("text")[kept]
        digests = text_digests(texts)
        rows = store.find(digests)
        new = {digest: text for digest, text, row in zip(digests, texts, rows, strict=True) if row < 0}
        made: list[np.ndarray] = []
        cut: list[np.ndarray] = []
        for at in range(0, len(new), _NUM_TEXTS):
            try:
                embedded = embedder.embed(list(new.values())[at : at + _NUM_TEXTS])
            except NoVector as error:
                row = documents.row(int(kept[digests.index(list(new)[at + error.text])]), named=True)
                place = f"Document {row['document_id']} ({row['source_file']}, line {row['source_line']})"
                raise InvalidInput(f"{place} cannot be embedded: {error}") from error
            made.append(embedded.vectors.astype(np.float16))
            cut.append(embedded.is_cut)
            num_truncated += int(embedded.is_cut.sum())
            dimension = dimension or embedded.vectors.shape[1]
            if embedded.vectors.shape[1] != dimension:
                raise InvalidInput(
                    f"The embedding model {_named(corpus)} gives vectors of {embedded.vectors.shape[1]} numbers, and "
                    f"gave some of {dimension}: it is another model now. Run with the tag headrace/make_again to embed "
                    "all texts again."
                )
        vectors, is_whole = np.zeros((len(kept), dimension), np.float16), np.ones(len(kept), np.bool_)
        is_known = rows >= 0
        if num_of_these := int(is_known.sum()):
            vectors[is_known], is_whole[is_known] = store.vectors(rows[is_known])
        if made:
            place = {digest: at for at, digest in enumerate(new)}
            of_new = [place[digest] for digest, row in zip(digests, rows, strict=True) if row < 0]
            vectors[~is_known] = np.concatenate(made)[of_new]
            is_whole[~is_known] = ~np.concatenate(cut)[of_new]
        num_embedded, num_known = num_embedded + len(new), num_known + num_of_these
        lengths = documents.get_column("text").str.len_chars().fill_null(0).cast(pl.Int64)
        spilled.add_batch(_batch(documents.height, kept, digests, lengths, vectors, is_whole))
    return EmbeddedShard(
        table=spilled.table(),
        dimension=dimension,
        num_embedded=num_embedded,
        num_known=num_known,
        num_truncated=num_truncated,
    )


def embeddings_of(corpus: Corpus, sealed: Sequence[Handoff]) -> list[pa.Table]:
    """DOCUMENT_EMBEDDINGS of shards that are compared with each other; none, if the corpus compares none.

    Raises: InvalidInput: they are of another model than the corpus file's, or of two.
    """
    if corpus.semantic_duplicates is None:
        return []
    wanted = model_settings_digest(corpus.semantic_duplicates)
    for one in sealed:
        if one.attributes.get(MODEL_SETTINGS) != wanted:
            raise InvalidInput(
                f"{one.label} is of another model than semantic_duplicates of {corpus.name} names now. Materialize "
                f"{ASSET} again."
            )
        # The same name, and other weights behind it.
        if one.attributes.get(MODEL) != sealed[0].attributes.get(MODEL):
            raise InvalidInput(
                f"{one.label} and {sealed[0].label} are of two versions of the model {_named(corpus)}, whose vectors "
                f"cannot be compared. Materialize {ASSET} of all shards again."
            )
    return [one.table() for one in sealed]


def sealed_embeddings(corpus: Corpus, handoffs: HandoffStore, shards: Sequence[str]) -> list[Handoff]:
    """The newest of each shard; none, if the corpus compares none.

    Raises: InvalidInput: one is not sealed.
    """
    if corpus.semantic_duplicates is None:
        return []
    newest = {shard: handoffs.newest(ASSET, shard) for shard in shards}
    if missing := [shard for shard, found in newest.items() if found is None]:
        raise InvalidInput(
            f"Semantic duplicates are found by {ASSET}[{missing[0]}], which is not sealed. Materialize {ASSET} first."
        )
    return [found for found in newest.values() if found]


def semantic_duplicates_in(path: Path) -> SemanticDuplicates | None:
    """The key of a corpus file; None: it has none, or is broken."""
    with suppress(InvalidInput):
        return load_corpus(path).semantic_duplicates
    return None


class _Known:
    """Rows of a sealed version, by the digest of their text."""

    def __init__(self, table: pa.Table | None) -> None:
        rows = DOCUMENT_EMBEDDINGS.empty_table() if table is None else table
        self.rows = VectorRows([rows])
        digests = [digest or b"" for digest in rows.column("key").to_pylist()]
        self._digests = np.array(digests, "S16")
        self._order = np.argsort(self._digests, kind="stable")

    def find(self, digests: Sequence[bytes]) -> np.ndarray:
        """int64 [digest], its row, or -1."""
        wanted = np.array(digests, "S16")
        places = np.searchsorted(self._digests, wanted, sorter=self._order)
        is_inside = places < len(self._order)
        rows = np.full(len(wanted), -1, np.int64)
        rows[is_inside] = self._order[places[is_inside]]
        rows[is_inside & (self._digests[rows] != wanted if len(self._digests) else False)] = -1
        return rows

    def vectors(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float16 [row, dimension], and whether the row has one."""
        unique, back = np.unique(rows, return_inverse=True)
        are_there = self.rows.are_there(unique)
        found = np.zeros((len(unique), self.rows.dimension), np.float16)
        found[are_there] = self.rows.at(unique[are_there])
        return found[back], are_there[back]


def _named(corpus: Corpus) -> str:
    return corpus.semantic_duplicates.model if corpus.semantic_duplicates else ""


def _batch(
    num_rows: int,
    kept: np.ndarray,
    digests: Sequence[bytes],
    lengths: pl.Series,
    vectors: np.ndarray,
    is_whole: np.ndarray,
) -> pa.RecordBatch:
    is_kept, is_there = np.zeros(num_rows, np.bool_), np.zeros(num_rows, np.bool_)
    is_kept[kept], is_there[kept[is_whole]] = True, True
    of_kept = iter(digests)
    keys = pa.array([next(of_kept) if one else None for one in is_kept], pa.binary(16))
    offsets = np.append(0, np.cumsum(is_there) * vectors.shape[1]).astype(np.int32)
    values = pa.array(vectors[is_whole].reshape(-1), pa.float16())
    lists = pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~is_there))
    return pa.RecordBatch.from_arrays([keys, lengths.to_arrow(), lists], schema=DOCUMENT_EMBEDDINGS)
