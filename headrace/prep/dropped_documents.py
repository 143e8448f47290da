"""Which documents of a corpus shard which rule drops, with what the rule measured, and its limit.

Rules depend on nothing but the documents, their labels and the corpus file, so the sealed documents tell it again,
under the file as it is. That also answers before a run, and where a shard fails because too much is dropped. The price
is the time of judging the shard once more, or all shards that are compared with each other; of a corpus that is too
large for one run, what `duplicates` sealed is told. Whether it is what clean_documents left out is compared, document
by document.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
import pyarrow as pa

from headrace.chat.tokenizer import ChatTokenizer
from headrace.errors import HandoffMissing
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.prep.cleaning import rule_names
from headrace.prep.corpus import Corpus
from headrace.prep.dedup import NEAR_DUPLICATE
from headrace.prep.drops import OVERLONG, DroppedDocument
from headrace.prep.embeddings import embeddings_of, sealed_embeddings
from headrace.prep.example_kinds import fitted_examples, row_columns
from headrace.prep.labels import effective_labels
from headrace.prep.quality import quality_rules, with_counts
from headrace.prep.semantic import SEMANTIC_DUPLICATE
from headrace.prep.verdicts import CorpusShard, judged_shards
from headrace.prep.whole_corpus import is_one_run, own_verdict

_EXCERPT_CHARACTERS = 80
_BATCH_ROWS = 4096
_INPUTS = ("raw_documents", "labels")


@dataclass(frozen=True, kw_only=True)
class DroppedOfShard:
    """`counts`: every rule that was applied, in order. `sealed`: what the newest clean_documents left out."""

    shard: str
    num_documents: int
    counts: dict[str, int]
    documents: tuple[DroppedDocument, ...]
    clean: Handoff | None
    sealed: Literal["these", "others", "none yet"]


def every_rule(corpus: Corpus) -> list[str]:
    """The rules of both stages that drop documents, in order."""
    return [*rule_names(corpus), OVERLONG]


def judged_now(corpus: Corpus, handoffs: HandoffStore, shards: Sequence[str]) -> Mapping[str, pa.Table]:
    """DUPLICATES of those of these shards whose files were read, judged anew; of a corpus that is too large for it, as
    they were sealed.

    Raises:
        InvalidInput: what was sealed is of other documents, labels, embeddings or rules than the present ones; or
            embeddings are of two models.
    """
    if not corpus.compares_shards:
        given = [sealed_shard(corpus, handoffs, key) for key in shards if handoffs.newest("raw_documents", key)]
        return {one.key: judged_shards(corpus, [one]).of_shard[one.key] for one in given}
    there = [key for key in corpus.shard_keys if handoffs.newest("raw_documents", key)]
    if is_one_run(corpus, handoffs):
        # Of one shard each, they would not be refused for a model that another shard does not have.
        embeddings_of(corpus, sealed_embeddings(corpus, handoffs, there))
        return judged_shards(corpus, [sealed_shard(corpus, handoffs, key) for key in there]).of_shard
    return {
        key: own_verdict(corpus, handoffs, [one for name in _INPUTS if (one := handoffs.newest(name, key))])
        for key in there
    }


def dropped_of_shard(
    corpus: Corpus,
    handoffs: HandoffStore,
    shard: str,
    *,
    rule: str | None = None,
    tokenizer: ChatTokenizer | None,
    verdict: pa.Table | None = None,
) -> DroppedOfShard:
    """Args:
        rule: the only rule whose documents are listed; all are counted.
        tokenizer: the base model's; None: documents that are too long for a sequence are not looked for.
        verdict: the shard's, as `judged_now` finds it; None: it is judged by itself.

    Raises:
        HandoffMissing: the shard's files were not read yet.
        InvalidInput: the model's chat template refuses a system turn, or changes the completion.
    """
    given = sealed_shard(corpus, handoffs, shard)
    found = pl.DataFrame(judged_shards(corpus, [given]).of_shard[shard] if verdict is None else verdict)
    clean = handoffs.newest("clean_documents", shard)
    kept: list[str] = []
    dropped, tokens = [], {}
    for start, documents in given.prepared(corpus):
        places = pl.int_range(start, start + pl.len(), dtype=pl.Int64).alias("place")
        documents = documents.with_columns(places).join(
            found.drop("shard").with_columns(pl.col("place").cast(pl.Int64)),
            on="place",
            how="left",
            maintain_order="left",
        )
        kept += documents.filter(pl.col("rule").is_null()).get_column("document_id").to_list()
        documents, overlong = _with_overlong(corpus, documents, tokenizer)
        dropped.append(documents.filter(pl.col("rule").is_not_null()))
        tokens |= overlong
    same = clean is not None and kept == clean.table(["document_id"])["document_id"].to_pylist()
    documents = pl.concat(dropped) if dropped else None
    counts = dict(documents.get_column("rule").value_counts().iter_rows()) if documents is not None else {}
    return DroppedOfShard(
        shard=shard,
        num_documents=given.raw.num_rows,
        counts={one: counts.get(one, 0) for one in (every_rule(corpus) if tokenizer else rule_names(corpus))},
        documents=() if documents is None else tuple(_listed(corpus, shard, documents, tokens, rule)),
        clean=clean,
        sealed="none yet" if clean is None else "these" if same else "others",
    )


def sealed_shard(corpus: Corpus, handoffs: HandoffStore, shard: str) -> CorpusShard:
    raw = handoffs.open("raw_documents", shard)
    [vectors] = embeddings_of(corpus, sealed_embeddings(corpus, handoffs, [shard])) or [None]
    return CorpusShard(key=shard, raw=raw.table(), labels=_labels(corpus, handoffs, shard), embeddings=vectors)


def _labels(corpus: Corpus, handoffs: HandoffStore, shard: str) -> dict[str, str]:
    if corpus.labels is None:
        return {}
    try:
        return effective_labels(handoffs.open("labels", shard).table(), corpus)
    except HandoffMissing:
        return {}


def _with_overlong(
    corpus: Corpus, documents: pl.DataFrame, tokenizer: ChatTokenizer | None
) -> tuple[pl.DataFrame, dict[int, int]]:
    """Marks what training_examples would drop; returns the number of tokens of each such document, by its place."""
    if tokenizer is None:
        return documents, {}
    kept = documents.filter(pl.col("rule").is_null()).select("place", *row_columns(corpus)).to_dicts()
    starts = range(0, len(kept), _BATCH_ROWS)
    fitted = (one for at in starts for one in fitted_examples(corpus, kept[at : at + _BATCH_ROWS], tokenizer))
    tokens = {row["place"]: one.num_tokens for row, one in zip(kept, fitted, strict=True) if one.outcome == "dropped"}
    is_overlong = pl.col("place").is_in(list(tokens))
    return documents.with_columns(pl.when(is_overlong).then(pl.lit(OVERLONG)).otherwise("rule").alias("rule")), tokens


def _listed(
    corpus: Corpus, shard: str, documents: pl.DataFrame, tokens: dict[int, int], rule: str | None
) -> Iterator[DroppedDocument]:
    dropped = documents if rule is None else documents.filter(pl.col("rule") == rule)
    limits: dict[str, Any] = {one.name: one.limit for one in quality_rules(corpus)} | {OVERLONG: corpus.sequence_length}
    if corpus.near_duplicates:
        limits[NEAR_DUPLICATE] = corpus.near_duplicates.jaccard
    if corpus.semantic_duplicates:
        limits[SEMANTIC_DUPLICATE] = corpus.semantic_duplicates.cosine
    measured = _measured(corpus, dropped) | tokens
    for row in dropped.iter_rows(named=True):
        yield DroppedDocument(
            shard=shard,
            document_id=row["document_id"],
            file=row["source_file"],
            line=row["source_line"],
            excerpt=row["text"][:_EXCERPT_CHARACTERS],
            rule=row["rule"],
            measured=measured.get(row["place"], row["similarity"]),
            limit=limits.get(row["rule"]),
            copy_of=row["copy_of_document_id"],
            copy_of_shard=row["copy_of_shard"],
            copy_of_file=row["copy_of_source_file"],
            copy_of_line=row["copy_of_source_line"],
        )


def _measured(corpus: Corpus, dropped: pl.DataFrame) -> dict[int, Any]:
    """Place → what its quality rule measured; numbers and words, so each rule's documents are looked at alone."""
    found: dict[int, Any] = {}
    counted = with_counts(dropped, corpus)
    for rule in quality_rules(corpus):
        of_rule = counted.filter(pl.col("rule") == rule.name).select("place", rule.measured.alias("measured"))
        found |= dict(of_rule.iter_rows())
    return found
