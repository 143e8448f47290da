"""Which documents of a corpus shard which rule drops, with what the rule measured, and its limit.

Nothing of it is stored: rules depend on nothing but the documents, their labels and the corpus file, so the sealed
documents tell it again, under the file as it is. That also answers before a run, and where a shard fails because too
much is dropped. The price is the time of cleaning the shard once more. Whether it is what clean_documents left out is
compared, document by document.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from headrace.chat.tokenizer import ChatTokenizer
from headrace.errors import HandoffMissing
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.prep.cleaning import NEAR_DUPLICATE, judged, rule_names
from headrace.prep.corpus import Corpus
from headrace.prep.drops import OVERLONG, DroppedDocument
from headrace.prep.example_kinds import fitted_examples, row_columns
from headrace.prep.labels import effective_labels
from headrace.prep.quality import quality_rules, with_counts

_EXCERPT_CHARACTERS = 80
_BATCH_ROWS = 4096


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


def dropped_of_shard(
    corpus: Corpus, handoffs: HandoffStore, shard: str, *, rule: str | None = None, tokenizer: ChatTokenizer | None
) -> DroppedOfShard:
    """Args:
        rule: the only rule whose documents are listed; all are counted.
        tokenizer: the base model's; None: documents that are too long for a sequence are not looked for.

    Raises:
        HandoffMissing: the shard's files were not read yet.
        InvalidInput: the model's chat template refuses a system turn, or changes the completion.
    """
    raw = handoffs.open("raw_documents", shard)
    documents = judged(corpus, raw.table(), _labels(corpus, handoffs, shard))
    clean = handoffs.newest("clean_documents", shard)
    kept = documents.filter(pl.col("rule").is_null()).get_column("document_id")
    same = clean is not None and kept.to_list() == clean.table(["document_id"])["document_id"].to_pylist()
    documents, tokens = _with_overlong(corpus, documents, tokenizer)
    counts = dict(documents.get_column("rule").drop_nulls().value_counts().iter_rows())
    rules = every_rule(corpus) if tokenizer else rule_names(corpus)
    return DroppedOfShard(
        shard=shard,
        num_documents=documents.height,
        counts={one: counts.get(one, 0) for one in rules},
        documents=tuple(_listed(corpus, shard, documents, tokens, rule)),
        clean=clean,
        sealed="none yet" if clean is None else "these" if same else "others",
    )


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
    rules = documents.get_column("rule").to_list()
    places = [place for place, rule in enumerate(rules) if rule is None]
    tokens: dict[int, int] = {}
    for start in range(0, len(places), _BATCH_ROWS):
        some = places[start : start + _BATCH_ROWS]
        rows = documents.select(row_columns(corpus))[some].to_dicts()
        for place, fitted in zip(some, fitted_examples(corpus, rows, tokenizer), strict=True):
            if fitted.outcome == "dropped":
                rules[place], tokens[place] = OVERLONG, fitted.num_tokens
    return documents.with_columns(pl.Series("rule", rules, dtype=pl.String)), tokens


def _listed(
    corpus: Corpus, shard: str, documents: pl.DataFrame, tokens: dict[int, int], rule: str | None
) -> Iterator[DroppedDocument]:
    ids = documents.get_column("document_id")
    wanted = pl.col("rule").is_not_null() if rule is None else pl.col("rule") == rule
    dropped = documents.with_row_index("place").filter(wanted)
    limits: dict[str, Any] = {one.name: one.limit for one in quality_rules(corpus)} | {OVERLONG: corpus.sequence_length}
    if corpus.near_duplicates:
        limits[NEAR_DUPLICATE] = corpus.near_duplicates.jaccard
    measured = _measured(corpus, dropped) | tokens
    columns = ("place", "document_id", "source_file", "source_line", "text", "rule", "copy_of", "similarity")
    for row in dropped.select(columns).iter_rows(named=True):
        original = row["copy_of"]
        yield DroppedDocument(
            shard=shard,
            document_id=row["document_id"],
            file=row["source_file"],
            line=row["source_line"],
            excerpt=row["text"][:_EXCERPT_CHARACTERS],
            rule=row["rule"],
            measured=measured.get(row["place"], row["similarity"]),
            limit=limits.get(row["rule"]),
            copy_of=None if original is None else ids[original],
        )


def _measured(corpus: Corpus, dropped: pl.DataFrame) -> dict[int, Any]:
    """Place → what its quality rule measured; numbers and words, so each rule's documents are looked at alone."""
    found: dict[int, Any] = {}
    counted = with_counts(dropped, corpus)
    for rule in quality_rules(corpus):
        of_rule = counted.filter(pl.col("rule") == rule.name).select("place", rule.measured.alias("measured"))
        found |= dict(of_rule.iter_rows())
    return found
