"""Writes the documents of a shard that no verdict drops, in their normal form, each on its side of the split.

Order: repair, normalise, quality rules, exact, near and semantic duplicates, split. A document counts for the first
rule that drops it, so drops and kept rows add up to the rows read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from headrace.handoff.schemas import LANGUAGE, conform, schema_named
from headrace.prep.cleaning import rule_names
from headrace.prep.corpus import Corpus
from headrace.prep.drops import refuse_if_too_much_dropped
from headrace.prep.personal_settings import Kind, found_column
from headrace.prep.spilled_table import SpilledTable
from headrace.prep.split import split_of
from headrace.prep.verdicts import CorpusShard, judged_shards


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """`documents`: CLEAN_DOCUMENTS as `clean_schema` says, mapped rather than held."""

    documents: pa.Table
    num_rows_in: int
    # Every rule that was applied, in order, including those that dropped nothing.
    drops: dict[str, int]
    # Kind of personal data → how often a placeholder stands for it in the documents.
    masked: Mapping[Kind, int]
    # Figures of twins, if the shard was judged by itself.
    twins: dict[str, int]


def clean_shard(
    corpus: Corpus,
    raw: pa.Table,
    labels: Mapping[str, str],
    verdict: pa.Table | None = None,
    embeddings: pa.Table | None = None,
) -> Cleaned:
    """Cleans one shard of RAW_DOCUMENTS; `labels` maps document ids to the label that counts.

    Args:
        verdict: DUPLICATES of the shard; None: it is judged by itself.
        embeddings: DOCUMENT_EMBEDDINGS of a shard that is judged by itself, if the corpus compares them.

    Raises:
        TooMuchDropped: more is dropped than the corpus allows.
    """
    shard = CorpusShard(key="", raw=raw, labels=labels, embeddings=embeddings)
    judged = judged_shards(corpus, [shard]) if verdict is None else None
    decided = pl.DataFrame(judged.of_shard[shard.key] if judged else verdict)
    counts = dict(decided.get_column("rule").drop_nulls().value_counts().iter_rows())
    drops = {rule: counts.get(rule, 0) for rule in rule_names(corpus)}
    refuse_if_too_much_dropped(corpus, drops, raw.num_rows)
    kinds = corpus.personal_data.looked_for if corpus.personal_data else ()
    num_masked = dict.fromkeys(kinds, 0)
    kept = SpilledTable(clean_schema(corpus, raw.schema))
    for documents in _kept(corpus, shard, decided):
        for kind in kinds:
            num_masked[kind] += int(documents.get_column(found_column(kind)).sum())
        for batch in conform("clean_documents", documents.select(kept.schema.names).to_arrow()).to_batches():
            kept.add_batch(batch)
    return Cleaned(
        documents=kept.table(),
        num_rows_in=raw.num_rows,
        drops=drops,
        masked=num_masked,
        twins=judged.figures if judged else {},
    )


def clean_schema(corpus: Corpus, raw: pa.Schema) -> pa.Schema:
    """CLEAN_DOCUMENTS, with the messages and languages of a corpus that has them."""
    like = raw.append(LANGUAGE) if corpus.language else raw
    return schema_named("clean_documents", like)


def _kept(corpus: Corpus, shard: CorpusShard, verdict: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Batches of prepared documents that no verdict drops, with their `split`."""
    decided = verdict.select(pl.col("place").cast(pl.Int64), "rule", pl.col("split").alias("moved"))
    for start, documents in shard.prepared(corpus):
        here = documents.with_columns(pl.int_range(start, start + pl.len(), dtype=pl.Int64).alias("place"))
        near = decided.filter(pl.col("place").is_between(start, start + documents.height - 1))
        here = here.join(near, on="place", how="left", maintain_order="left").filter(pl.col("rule").is_null())
        sides = [
            moved or split_of(term, text, corpus.heldout_share)
            for term, text, moved in here.select("term", "text", "moved").iter_rows()
        ]
        yield here.with_columns(pl.Series("split", sides, dtype=pl.String))
