"""Finds documents on both sides of the split, the one fault that falsifies every held-out loss."""

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from headrace.prep.corpus import Corpus
from headrace.prep.text_keys import text_keys_of

COLUMNS = ("term", "category", "text", "split")


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """How many terms and how many texts are in both train and held-out, with a few of each."""

    num_documents: int
    num_terms: int
    num_texts: int
    samples: tuple[str, ...]

    @property
    def found(self) -> bool:
        return self.num_terms + self.num_texts > 0


def find_leaks(corpus: Corpus, shards: Iterable[pa.Table]) -> Leaks:
    """Compares all given shards of CLEAN_DOCUMENTS, by the corpus's definition of equal documents."""
    documents = pl.concat([pl.DataFrame(table.select(COLUMNS)) for table in shards], rechunk=False)
    terms = _on_both_sides(documents.drop_nulls("term"), ("term",))
    contents = _on_both_sides(documents, corpus.duplicate_columns)
    return Leaks(
        num_documents=documents.height,
        num_terms=len(terms),
        num_texts=len(contents),
        samples=(*terms[:3], *contents[:3]),
    )


def _on_both_sides(documents: pl.DataFrame, columns: tuple[str, ...]) -> list[str]:
    keys = [text_keys_of(pl.col(name)) for name in columns]
    shown = pl.concat_str(keys, separator=" ", ignore_nulls=True).alias("shown")
    # Compared column by column: ("2", "10 apples") is not ("2 10", "apples").
    sides = (
        documents.select(*keys, shown, "split")
        .group_by(columns, maintain_order=True)
        .agg(pl.col("split").n_unique().alias("sides"), pl.col("shown").first())
    )
    return sides.filter(pl.col("sides") > 1).get_column("shown").to_list()
