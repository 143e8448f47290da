"""Writes the documents of a shard that no verdict drops, in their normal form, each on its side of the split.

Order: repair, normalise, quality rules, exact duplicates, near duplicates, split. A document counts for the first rule
that drops it, so drops and kept rows add up to the rows read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from headrace.handoff.schemas import conform, schema_named
from headrace.prep.cleaning import rule_names
from headrace.prep.corpus import Corpus
from headrace.prep.drops import refuse_if_too_much_dropped
from headrace.prep.split import split_of
from headrace.prep.verdicts import CorpusShard, judged_shards


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    corpus: Corpus
    shard: CorpusShard
    verdict: pl.DataFrame
    # Every rule that was applied, in order, including those that dropped nothing.
    drops: dict[str, int]
    # Figures of twins, if the shard was judged by itself.
    twins: dict[str, int]

    @property
    def num_rows_in(self) -> int:
        return self.shard.raw.num_rows

    @property
    def schema(self) -> pa.Schema:
        """CLEAN_DOCUMENTS, with the messages of a corpus that has them."""
        return schema_named("clean_documents", self.shard.raw.schema)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The documents, made while they are read."""
        decided = self.verdict.select(pl.col("place").cast(pl.Int64), "rule", pl.col("split").alias("moved"))
        for start, documents in self.shard.prepared(self.corpus):
            here = documents.with_columns(pl.int_range(start, start + pl.len(), dtype=pl.Int64).alias("place"))
            near = decided.filter(pl.col("place").is_between(start, start + documents.height - 1))
            here = here.join(near, on="place", how="left", maintain_order="left").filter(pl.col("rule").is_null())
            sides = [
                moved or split_of(term, text, self.corpus.heldout_share)
                for term, text, moved in here.select("term", "text", "moved").iter_rows()
            ]
            here = here.with_columns(pl.Series("split", sides, dtype=pl.String))
            yield from conform("clean_documents", here.select(self.schema.names).to_arrow()).to_batches()

    @property
    def documents(self) -> pa.Table:
        return pa.Table.from_batches(self.batches(), schema=self.schema)


def clean_shard(corpus: Corpus, raw: pa.Table, labels: Mapping[str, str], verdict: pa.Table | None = None) -> Cleaned:
    """Cleans one shard of RAW_DOCUMENTS; `labels` maps document ids to the label that counts.

    Args:
        verdict: DUPLICATES of the shard; None: it is judged by itself.

    Raises:
        TooMuchDropped: more is dropped than the corpus allows.
    """
    shard = CorpusShard(key="", raw=raw, labels=labels)
    judged = judged_shards(corpus, [shard]) if verdict is None else None
    decided = pl.DataFrame(judged.of_shard[shard.key] if judged else verdict)
    counts = dict(decided.get_column("rule").drop_nulls().value_counts().iter_rows())
    drops = {rule: counts.get(rule, 0) for rule in rule_names(corpus)}
    refuse_if_too_much_dropped(corpus, drops, raw.num_rows)
    return Cleaned(corpus=corpus, shard=shard, verdict=decided, drops=drops, twins=judged.figures if judged else {})
