"""Cleans and splits raw documents, and counts which rule dropped each missing one.

Order: repair, normalise, quality rules, exact duplicates, near duplicates, split. A document counts for the first rule
that drops it, so drops and kept rows add up to the rows read.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from headrace.handoff.schemas import CLEAN_DOCUMENTS, conform
from headrace.prep.broken_text import broken
from headrace.prep.corpus import Corpus
from headrace.prep.dedup import exact_duplicates, near_duplicates
from headrace.prep.drops import refuse_if_too_much_dropped
from headrace.prep.normalization import normalised
from headrace.prep.quality import first_rule, rule_names
from headrace.prep.split import split_of

EXACT_DUPLICATE = "exact_duplicate"
NEAR_DUPLICATE = "near_duplicate"


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    documents: pa.Table
    num_rows_in: int
    # Every rule that was applied, in order, including those that dropped nothing.
    drops: dict[str, int]


def clean_shard(corpus: Corpus, raw: pa.Table, labels: Mapping[str, str]) -> Cleaned:
    """Cleans one shard of RAW_DOCUMENTS; `labels` maps document ids to the label that counts.

    Raises:
        TooMuchDropped: more is dropped than the corpus allows.
    """
    documents = prepared(pl.DataFrame(raw), corpus)
    label = [labels.get(document_id) for document_id in documents.get_column("document_id")]
    documents = documents.with_columns(pl.Series("label", label, dtype=pl.String))
    dropped_by = first_rule(documents, corpus)
    counts = dict(dropped_by.drop_nulls().value_counts().iter_rows())
    drops = {rule: counts.get(rule, 0) for rule in rule_names(corpus)}
    documents = documents.filter(dropped_by.is_null())
    documents, drops[EXACT_DUPLICATE] = _without(documents, exact_duplicates(documents, corpus.duplicate_columns))
    if corpus.near_duplicates:
        flags = near_duplicates(documents, corpus.duplicate_columns, corpus.near_duplicates)
        documents, drops[NEAR_DUPLICATE] = _without(documents, flags)
    sides = [split_of(term, text, corpus.heldout_share) for term, text in documents.select("term", "text").iter_rows()]
    documents = documents.with_columns(pl.Series("split", sides, dtype=pl.String))
    refuse_if_too_much_dropped(corpus, drops, raw.num_rows)
    clean = conform("clean_documents", documents.select(CLEAN_DOCUMENTS.names).to_arrow())
    return Cleaned(documents=clean, num_rows_in=raw.num_rows, drops=drops)


def prepared(documents: pl.DataFrame, corpus: Corpus) -> pl.DataFrame:
    """RAW_DOCUMENTS as rules see them: repaired if the corpus says so, in their normal form, and which are `broken`."""
    flags, repaired = broken(documents.get_column("text"))
    if corpus.rules.broken_characters == "repair":
        documents = documents.with_columns(repaired.alias("text"))
        flags = repaired.str.contains("\ufffd", literal=True)
    return normalised(documents, corpus.normalize).with_columns(flags.alias("broken"))


def _without(documents: pl.DataFrame, flags: pl.Series) -> tuple[pl.DataFrame, int]:
    return documents.filter(~flags), int(flags.sum())
