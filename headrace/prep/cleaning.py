"""Cleans and splits raw documents, and counts which rule dropped each missing one.

Order: normalise, quality rules, exact duplicates, near duplicates, split. A document counts for the first rule that
drops it, so drops and kept rows add up to the rows read. Rules judge a single document by its characters; they know
nothing of truth, politeness or language. The word rules assume a language with spaces between words: set their limits
to null for others.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from headrace.handoff.schemas import CLEAN_DOCUMENTS, conform
from headrace.prep.corpus import Corpus
from headrace.prep.dedup import exact_duplicates, near_duplicates
from headrace.prep.drops import refuse_if_too_much_dropped
from headrace.prep.normalization import normalised
from headrace.prep.split import split_of

EXACT_DUPLICATE = "exact_duplicate"
NEAR_DUPLICATE = "near_duplicate"

_WORD = r"\S+"
# Separators of words and joiners of letters show nothing by themselves.
_VISIBLE = "[^\\s\u200b-\u200f]"
_LETTER = r"[\p{L}\p{M}]"
# A wrong decoder leaves U+FFFD; the pairs are UTF-8 that was once read as Latin-1.
_BROKEN = "\ufffd|Ã[\u0080-\u00bf]|â€[\u0080-\u2122]"
_SYMBOL = r"#|…|\.\.\."
# With fewer than ten words, a repeated word is grammar ("the … of the …"), not a fault.
_REPETITION_WORDS_MIN = 10


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A named reason to drop documents: `drops` is true for the rows that go."""

    name: str
    drops: pl.Expr


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
    documents = normalised(pl.DataFrame(raw), corpus.normalize)
    label = [labels.get(document_id) for document_id in documents.get_column("document_id")]
    documents = documents.with_columns(pl.Series("label", label, dtype=pl.String))
    documents, drops = apply_rules(documents, quality_rules(corpus))
    documents, drops[EXACT_DUPLICATE] = _without(documents, exact_duplicates(documents, corpus.duplicate_columns))
    if corpus.near_duplicates:
        flags = near_duplicates(documents, corpus.duplicate_columns, corpus.near_duplicates)
        documents, drops[NEAR_DUPLICATE] = _without(documents, flags)
    sides = [split_of(term, text, corpus.heldout_share) for term, text in documents.select("term", "text").iter_rows()]
    documents = documents.with_columns(pl.Series("split", sides, dtype=pl.String))
    refuse_if_too_much_dropped(corpus, drops, raw.num_rows)
    clean = conform("clean_documents", documents.select(CLEAN_DOCUMENTS.names).to_arrow())
    return Cleaned(documents=clean, num_rows_in=raw.num_rows, drops=drops)


def quality_rules(corpus: Corpus) -> tuple[Rule, ...]:
    """The corpus's rules, in the order in which they count their drops."""
    limits = corpus.rules
    text = pl.col("text")
    num_characters = text.str.count_matches(r"\S")
    num_words = text.str.count_matches(_WORD)
    num_distinct_words = text.str.to_lowercase().str.extract_all(_WORD).list.n_unique()
    num_letters = text.str.count_matches(_LETTER)
    num_symbols = text.str.count_matches(_SYMBOL)
    rules: dict[str, pl.Expr | None] = {
        "text_empty": ~text.str.contains(_VISIBLE),
        "template_incomplete": pl.any_horizontal(pl.col(corpus.required_columns).is_null()),
        "broken_characters": text.str.contains(_BROKEN),
        "too_few_words": _if_set(limits.words_min, lambda least: num_words < least),
        "too_many_words": _if_set(limits.words_max, lambda most: num_words > most),
        "too_few_letters": _if_set(limits.letters_share_min, lambda least: num_letters < num_characters * least),
        "words_too_long": _if_set(limits.mean_word_length_max, lambda most: num_characters > num_words * most),
        "repeated_words": _if_set(
            limits.repeated_words_share_max,
            lambda most: (num_words >= _REPETITION_WORDS_MIN) & (num_distinct_words < num_words * (1 - most)),
        ),
        "too_many_symbols": _if_set(limits.symbols_share_max, lambda most: num_symbols > num_words * most),
        "label_unwanted": pl.col("label").is_in(corpus.labels.drop) if corpus.labels and corpus.labels.drop else None,
        **{f"matches_{name}": text.str.contains(pattern) for name, pattern in limits.drop_matching.items()},
    }
    return tuple(Rule(name=name, drops=drops.fill_null(False)) for name, drops in rules.items() if drops is not None)


def apply_rules(documents: pl.DataFrame, rules: tuple[Rule, ...]) -> tuple[pl.DataFrame, dict[str, int]]:
    """The documents that no rule drops, and how many each rule dropped first."""
    first_rule = pl.coalesce(pl.when(rule.drops).then(pl.lit(rule.name)) for rule in rules)
    dropped_by = documents.select(first_rule.alias("rule")).get_column("rule")
    counts = dict(dropped_by.drop_nulls().value_counts().iter_rows())
    return documents.filter(dropped_by.is_null()), {rule.name: counts.get(rule.name, 0) for rule in rules}


def _if_set(limit: float | None, rule: Callable[[float], pl.Expr]) -> pl.Expr | None:
    return None if limit is None else rule(limit)


def _without(documents: pl.DataFrame, flags: pl.Series) -> tuple[pl.DataFrame, int]:
    return documents.filter(~flags), int(flags.sum())
