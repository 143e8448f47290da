"""Cleans and splits raw documents, and counts which rule dropped each missing one.

Order: repair, normalise, quality rules, exact duplicates, near duplicates, split. A document counts for the first rule
that drops it, so drops and kept rows add up to the rows read.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from headrace.handoff.schemas import CLEAN_DOCUMENTS, LANGUAGE, conform
from headrace.prep.broken_text import LOST, broken
from headrace.prep.corpus import Corpus
from headrace.prep.dedup import exact_duplicates, near_duplicates
from headrace.prep.drops import refuse_if_too_much_dropped
from headrace.prep.language import languages
from headrace.prep.normalization import normalised
from headrace.prep.personal_data import found_column, masked
from headrace.prep.quality import first_rule, quality_rules
from headrace.prep.split import split_of

EXACT_DUPLICATE = "exact_duplicate"
NEAR_DUPLICATE = "near_duplicate"


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    documents: pa.Table
    num_rows_in: int
    # Every rule that was applied, in order, including those that dropped nothing.
    drops: dict[str, int]
    # Kind of personal data → how often a placeholder stands for it in the documents.
    masked: dict[str, int]


def clean_shard(corpus: Corpus, raw: pa.Table, labels: Mapping[str, str]) -> Cleaned:
    """Cleans one shard of RAW_DOCUMENTS; `labels` maps document ids to the label that counts.

    Raises:
        TooMuchDropped: more is dropped than the corpus allows.
    """
    documents = judged(corpus, raw, labels)
    counts = dict(documents.get_column("rule").drop_nulls().value_counts().iter_rows())
    drops = {rule: counts.get(rule, 0) for rule in rule_names(corpus)}
    documents = documents.filter(pl.col("rule").is_null())
    sides = [split_of(term, text, corpus.heldout_share) for term, text in documents.select("term", "text").iter_rows()]
    documents = documents.with_columns(pl.Series("split", sides, dtype=pl.String))
    refuse_if_too_much_dropped(corpus, drops, raw.num_rows)
    columns = [*CLEAN_DOCUMENTS.names, *([LANGUAGE.name] if corpus.language else [])]
    clean = conform("clean_documents", documents.select(columns).to_arrow())
    kinds = corpus.personal_data.looked_for if corpus.personal_data else ()
    num_masked = {kind: int(documents.get_column(found_column(kind)).sum()) for kind in kinds}
    return Cleaned(documents=clean, num_rows_in=raw.num_rows, drops=drops, masked=num_masked)


def judged(corpus: Corpus, raw: pa.Table, labels: Mapping[str, str]) -> pl.DataFrame:
    """Every document of a shard of RAW_DOCUMENTS as rules see it, in order, with `label` and what was found.

    Returns:
        rule: the first rule that drops it; null: none does.
        copy_of: of a duplicate, the place of the kept document (Int64).
        similarity: of a near duplicate, the Jaccard similarity to it (Float64).
    """
    documents = prepared(pl.DataFrame(raw), corpus)
    label = [labels.get(document_id) for document_id in documents.get_column("document_id")]
    documents = documents.with_columns(pl.Series("label", label, dtype=pl.String))
    documents = documents.with_columns(
        first_rule(documents, corpus),
        pl.lit(None, pl.Int64).alias("copy_of"),
        pl.lit(None, pl.Float64).alias("similarity"),
    )
    columns = corpus.duplicate_columns
    kept = documents.filter(pl.col("rule").is_null())
    documents = _with_copies(documents, EXACT_DUPLICATE, exact_duplicates(kept, columns).to_frame())
    if corpus.near_duplicates:
        kept = documents.filter(pl.col("rule").is_null())
        documents = _with_copies(documents, NEAR_DUPLICATE, near_duplicates(kept, columns, corpus.near_duplicates))
    return documents


def _with_copies(documents: pl.DataFrame, rule: str, found: pl.DataFrame) -> pl.DataFrame:
    """Marks what was found in the documents that no rule drops, where `copy_of` is a place among these."""
    places = documents.get_column("rule").is_null().arg_true()
    is_copy = found.get_column("copy_of").is_not_null()
    copies = found.filter(is_copy)
    originals = places.gather(copies.get_column("copy_of")).alias("copy_of")
    copies = copies.with_columns(originals, pl.lit(rule).alias("rule"))
    # `scatter` writes into its series.
    return documents.with_columns(
        documents.get_column(name).clone().scatter(places.filter(is_copy), copies.get_column(name))
        for name in copies.columns
    )


def rule_names(corpus: Corpus) -> list[str]:
    """Every rule that is applied to the corpus's documents, in order."""
    near = [NEAR_DUPLICATE] if corpus.near_duplicates else []
    return [*(rule.name for rule in quality_rules(corpus)), EXACT_DUPLICATE, *near]


def prepared(documents: pl.DataFrame, corpus: Corpus) -> pl.DataFrame:
    """RAW_DOCUMENTS as rules see them: repaired if the corpus says so, in their normal form, and what is `broken`.

    `broken` is the first broken characters of a text, or null. With `language` if the corpus asks for it.
    """
    found, repaired = broken(documents.get_column("text"))
    if corpus.rules.broken_characters == "repair":
        documents = documents.with_columns(repaired.alias("text"))
        found = repaired.str.extract(LOST, 0)
    documents = normalised(documents, corpus.normalize).with_columns(found.alias("broken"))
    if corpus.personal_data:
        documents = masked(documents, corpus.personal_data)
    if corpus.language:
        documents = documents.with_columns(languages(documents.get_column("text"), corpus.language))
    return documents
