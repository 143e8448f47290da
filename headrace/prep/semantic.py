"""Semantic duplicates: among documents that stay after exact and near copies are gone, those with nearly one embedding.

Vectors meet by keys (`hyperplanes`) that go the way of all others, marked by their last bit; those that share one are
compared in float64, as they are sealed: no document is dropped on an estimate. Kept is the longest text, then the first
by its file's name, then by its line, so neither the order of shards nor that of files decides. A dropped document is
nobody's original and nobody's twin: a copy of it names the document that stands for it.

Memory holds 16 bytes for each key that two documents share, and about 100 for each of these documents; their vectors
are in a file that is mapped. Twins are found by words alone: below `cosine`, a held-out document may mean what one in
training does.
"""

from dataclasses import replace
from tempfile import TemporaryFile
from typing import Any, Protocol

import numpy as np
import polars as pl
import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.prep import hyperplanes
from headrace.prep.dedup import Found, grouped, numbered
from headrace.prep.semantic_settings import SemanticDuplicates
from headrace.prep.signatures import KEY_ROWS, Signer
from headrace.prep.vector_rows import VectorRows, text_digests

SEMANTIC_DUPLICATE = "semantic_duplicate"
# Of a key: set, it is one of a vector, and else one of a text.
_OF_VECTOR = np.uint64(1)
# As for near copies: embeddings that all point the same way share keys all over.
_NUM_COMPARED_MAX = 10_000
_BATCH_ROWS = 4096


class RawDocuments(Protocol):
    """Documents by number, from 0 on."""

    def raw_at(self, numbers: np.ndarray) -> pl.DataFrame:
        """RAW_DOCUMENTS. Args: numbers: int64, ascending."""
        ...


class VectorSigner:
    """Makes the keys of one corpus's vectors."""

    def __init__(self, settings: SemanticDuplicates, signer: Signer) -> None:
        """Args: signer: of the same corpus: it knows what must be equal beside the text."""
        self._signer = signer
        self._bands = hyperplanes.bands(settings.cosine)

    def rows(
        self, documents: pl.DataFrame, places: np.ndarray, embeddings: pa.Table, of_texts: np.ndarray
    ) -> np.ndarray:
        """`KEY_ROWS` of both.

        Args:
            documents: those that the rules keep, as they left them; `places`: their rows of the shard.
            embeddings: DOCUMENT_EMBEDDINGS of the shard.
            of_texts: `KEY_ROWS` of the texts.

        Raises: InvalidInput: the embeddings are of other texts.
        """
        _refuse_others(documents, places, embeddings)
        rows = VectorRows([embeddings])
        are_there = rows.are_there(places)
        of_texts["key"] &= ~_OF_VECTOR
        if not are_there.any():
            return of_texts
        documents, places = documents.filter(pl.Series(are_there)), places[are_there]
        found = hyperplanes.keys(rows.at(places), self._signer.beside(documents), *self._bands)
        of_vectors = np.empty(found.shape, KEY_ROWS)
        of_vectors["key"], of_vectors["document"] = found | _OF_VECTOR, places[:, None]
        return np.concatenate([of_texts, of_vectors.ravel()])


def divided(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys of texts, and of vectors."""
    is_of_vector = (rows["key"] & _OF_VECTOR).astype(np.bool_)
    return rows[~is_of_vector], rows[is_of_vector]


def with_semantic_copies(
    settings: SemanticDuplicates, found: Found, rows: np.ndarray, documents: RawDocuments, vectors: VectorRows
) -> tuple[Found, int]:
    """What was found among texts, with semantic duplicates among those that stay, and how many pairs were compared.

    Args:
        rows: of vectors, that share a key with another, in the order of keys.
        documents: numbered as `vectors` are.
    """
    from headrace.prep import semantic_kernels

    gone = found.copies.get_column("document").to_numpy()
    rows = rows[~np.isin(rows["document"], gone)]
    numbers, text = np.unique(rows["document"], return_inverse=True)
    with TemporaryFile(prefix="headrace-vectors-") as file:
        for at in range(0, len(numbers), _BATCH_ROWS):
            vectors.at(numbers[at : at + _BATCH_ROWS]).astype(np.float32).tofile(file)
        file.flush()
        shape = len(numbers), vectors.dimension
        mapped: Any = np.memmap(file, np.float32, "r+", shape=shape) if len(numbers) else np.zeros(shape, np.float32)
        originals, cosines, num_compared = semantic_kernels.semantic_copies(
            np.asarray(mapped),
            settings.cosine,
            _ranked(numbers, documents, vectors),
            *grouped(text, numbered(rows["key"])),
            _NUM_COMPARED_MAX,
        )
    dropped = np.flatnonzero(originals >= 0)
    copies = pl.DataFrame(
        {
            "document": numbers[dropped],
            "copy_of": numbers[originals[dropped]],
            "rule": pl.repeat(SEMANTIC_DUPLICATE, len(dropped), dtype=pl.String, eager=True),
            "similarity": pl.Series(cosines[dropped], dtype=pl.Float64),
        }
    )
    return replace(
        found,
        copies=pl.concat([_renamed(found.copies, copies), copies]).sort("document"),
        twins=found.twins.join(copies, on="document", how="anti").filter(pl.len().over("twins") > 1),
    ), num_compared


def _ranked(numbers: np.ndarray, documents: RawDocuments, vectors: VectorRows) -> np.ndarray:
    """Places in `numbers`, those to keep first."""
    some = [numbers[at : at + _BATCH_ROWS] for at in range(0, max(1, len(numbers)), _BATCH_ROWS)]
    places = pl.concat([documents.raw_at(one).select("source_file", "source_line") for one in some])
    frame = places.with_columns(pl.Series("length", vectors.num_characters(numbers))).with_row_index("text")
    order = frame.sort("length", "source_file", "source_line", "text", descending=[True, False, False, False])
    return order.get_column("text").to_numpy().astype(np.int64)


def _renamed(copies: pl.DataFrame, semantic: pl.DataFrame) -> pl.DataFrame:
    """Copies of a document that is dropped now: of what stands for it, with which they were not compared."""
    stands = semantic.select(pl.col("document").alias("copy_of"), pl.col("copy_of").alias("stands"))
    return copies.join(stands, on="copy_of", how="left", maintain_order="left").select(
        "document",
        pl.coalesce("stands", "copy_of").alias("copy_of"),
        "rule",
        pl.when(pl.col("stands").is_null()).then("similarity").alias("similarity"),
    )


def _refuse_others(documents: pl.DataFrame, places: np.ndarray, embeddings: pa.Table) -> None:
    wanted = text_digests(documents.get_column("text"))
    known = embeddings.column("key").take(pa.array(places)).to_pylist()
    if known == wanted:
        return
    at = next(at for at, (one, other) in enumerate(zip(known, wanted, strict=True)) if one != other)
    where = f"{documents['source_file'][at]} line {documents['source_line'][at]}"
    raise InvalidInput(
        f"document_embeddings has no vector of the text in {where}: it was made of other documents, labels or rules. "
        "Materialize document_embeddings of its shard again."
    )
