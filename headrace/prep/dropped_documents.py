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
from headrace.prep.chats import tokenized
from headrace.prep.cleaning import (
    EXACT_DUPLICATE,
    NEAR_DUPLICATE,
    Rule,
    compared_texts,
    judged,
    quality_rules,
    rule_names,
)
from headrace.prep.corpus import Corpus
from headrace.prep.dedup import jaccard, shingles
from headrace.prep.drops import OVERLONG
from headrace.prep.labels import effective_labels

_EXCERPT_CHARACTERS = 80
_BATCH_ROWS = 4096

# A number, or the words that a rule found or names; None: the rule has none.
Measured = float | int | str | None


@dataclass(frozen=True, kw_only=True)
class DroppedDocument:
    """One document that is left out. `copy_of`: of a duplicate, the id of the kept document."""

    document_id: str
    file: str
    line: int
    excerpt: str
    rule: str
    measured: Measured
    limit: Measured
    copy_of: str | None


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
        documents=tuple(_listed(corpus, documents, tokens, rule)),
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
        rows = documents.select("term", "category", "text")[some].to_dicts()
        for place, example in zip(some, tokenized(corpus, rows, tokenizer), strict=True):
            if len(example.ids) > corpus.sequence_length:
                rules[place], tokens[place] = OVERLONG, len(example.ids)
    return documents.with_columns(pl.Series("rule", rules, dtype=pl.String)), tokens


def _listed(
    corpus: Corpus, documents: pl.DataFrame, tokens: dict[int, int], rule: str | None
) -> Iterator[DroppedDocument]:
    texts, ids = documents.get_column("text"), documents.get_column("document_id")
    wanted = pl.col("rule").is_not_null() if rule is None else pl.col("rule") == rule
    dropped = documents.with_row_index("place").filter(wanted)
    rules = {one.name: one for one in quality_rules(corpus)}
    measured = _measured(dropped, rules)
    compared = compared_texts(corpus, documents)
    columns = ("place", "document_id", "source_file", "source_line", "text", "rule", "copy_of")
    for row in dropped.select(columns).iter_rows(named=True):
        name, place, original = row["rule"], row["place"], row["copy_of"]
        value, limit = measured.get(place), rules[name].limit if name in rules else None
        if name == OVERLONG:
            value, limit = tokens[place], corpus.sequence_length
        elif name == NEAR_DUPLICATE and corpus.near_duplicates:
            limit = corpus.near_duplicates.jaccard
            value = jaccard(
                *(shingles(compared[one], corpus.near_duplicates.shingle_words) for one in (place, original))
            )
        yield DroppedDocument(
            document_id=row["document_id"],
            file=row["source_file"],
            line=row["source_line"],
            excerpt=texts[place][:_EXCERPT_CHARACTERS],
            rule=name,
            measured=value,
            limit=limit,
            copy_of=ids[original] if name in (EXACT_DUPLICATE, NEAR_DUPLICATE) else None,
        )


def _measured(dropped: pl.DataFrame, rules: dict[str, Rule]) -> dict[int, Any]:
    """Place → what its rule measured; numbers and words, so each rule's documents are looked at alone."""
    found: dict[int, Any] = {}
    for name in dropped.get_column("rule").unique():
        if name in rules:
            of_rule = dropped.filter(pl.col("rule") == name).select("place", rules[name].measured.alias("measured"))
            found |= dict(of_rule.iter_rows())
    return found
