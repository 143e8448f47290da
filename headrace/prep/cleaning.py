"""Documents in the form that rules see, and which rules there are, in the order in which they count their drops."""

import polars as pl

from headrace.prep.broken_text import LOST, broken
from headrace.prep.corpus import Corpus
from headrace.prep.dedup import EXACT_DUPLICATE, NEAR_DUPLICATE
from headrace.prep.language import languages
from headrace.prep.normalization import normalised
from headrace.prep.personal_data import masked, without_placeholders
from headrace.prep.quality import quality_rules
from headrace.prep.rule_sets import Source
from headrace.prep.semantic import SEMANTIC_DUPLICATE


def rule_names(corpus: Corpus) -> list[str]:
    """Every rule that is applied to the corpus's documents, in order."""
    return list(rule_sources(corpus))


def rule_sources(corpus: Corpus) -> dict[str, Source]:
    """The same rules, and whose each is."""
    found: dict[str, Source] = {rule.name: rule.source for rule in quality_rules(corpus)}
    near: dict[str, Source] = {NEAR_DUPLICATE: "ours"} if corpus.near_duplicates else {}
    semantic: dict[str, Source] = {SEMANTIC_DUPLICATE: "ours"} if corpus.semantic_duplicates else {}
    return {**found, EXACT_DUPLICATE: "ours", **near, **semantic}


def prepared(documents: pl.DataFrame, corpus: Corpus) -> pl.DataFrame:
    """RAW_DOCUMENTS as rules see them: repaired if the corpus says so, in their normal form, and what is `broken`.

    `broken` is the first broken characters of a text, or null. With `language` if the corpus asks for it.
    """
    found: pl.Series | pl.Expr = pl.lit(None, pl.String)
    if corpus.rules.broken_characters != "keep":
        found, repaired = broken(documents.get_column("text"))
        if corpus.rules.broken_characters == "repair":
            documents = documents.with_columns(repaired.alias("text"))
            found = repaired.str.extract(LOST, 0)
    documents = normalised(documents, corpus.normalize).with_columns(found.alias("broken"))
    if corpus.personal_data:
        documents = masked(documents, corpus.personal_data)
    if corpus.language:
        texts = documents.get_column("text")
        told_by = without_placeholders(texts) if corpus.personal_data else texts
        documents = documents.with_columns(languages(told_by, corpus.language))
    return documents
