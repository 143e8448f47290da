"""Raw documents in, clean and split documents out, and for each one that is missing the name of what dropped it.

Order: normalise, quality rules, exact duplicates, near duplicates, split. A document is counted against the first rule
that drops it, so the drops and the rows kept add up to the rows read. Rules judge one document by its characters; they
know nothing of what is true, polite or in which language. The word rules assume a language that puts spaces between
words: set their limits to null for one that does not.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from headrace.handoff.schemas import CLEAN_DOCUMENTS, conform
from headrace.prep.corpus import Corpus
from headrace.prep.dedup import exact_duplicates, near_duplicates
from headrace.prep.split import split_of

EXACT_DUPLICATE = "exact_duplicate"
NEAR_DUPLICATE = "near_duplicate"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A named reason to drop a document; `drops` is true for the rows that go."""

    name: str
    drops: pl.Expr


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    documents: pa.Table
    num_rows_in: int
    # Every rule that was applied, in order, also those that dropped nothing.
    drops: dict[str, int]


def clean_shard(corpus: Corpus, raw: pa.Table, labels: Mapping[str, str]) -> Cleaned:
    """Clean one shard of RAW_DOCUMENTS; `labels` maps document ids to the label that counts."""
    documents = normalised(raw).with_columns(
        pl.col("document_id").replace_strict(dict(labels), default=None, return_dtype=pl.String).alias("label")
    )
    documents, drops = apply_rules(documents, quality_rules(corpus))
    duplicate_texts = _joined(documents, corpus.duplicate_columns)
    exact = pl.Series(exact_duplicates(duplicate_texts), dtype=pl.Boolean)
    drops[EXACT_DUPLICATE] = int(exact.sum())
    documents = documents.filter(~exact)
    if corpus.near_duplicates:
        near = pl.Series(
            near_duplicates(_joined(documents, corpus.duplicate_columns), corpus.near_duplicates), dtype=pl.Boolean
        )
        drops[NEAR_DUPLICATE] = int(near.sum())
        documents = documents.filter(~near)
    sides = [split_of(term, text, corpus.heldout_share) for term, text in documents.select("term", "text").iter_rows()]
    documents = documents.with_columns(pl.Series("split", sides, dtype=pl.String))
    clean = conform("clean_documents", documents.select(CLEAN_DOCUMENTS.names).to_arrow(), CLEAN_DOCUMENTS)
    return Cleaned(documents=clean, num_rows_in=raw.num_rows, drops=drops)


def normalised(raw: pa.Table) -> pl.DataFrame:
    """Unicode NFC, no control or invisible characters, single spaces; texts keep their line breaks, at most two."""
    frame = pl.DataFrame(pl.from_arrow(raw))
    return frame.with_columns(
        _single_line(pl.col("term")),
        _single_line(pl.col("category")),
        _lines(pl.col("text")),
        pl.col("examples").list.eval(_single_line(pl.element())).list.eval(pl.element().filter(pl.element() != "")),
    ).with_columns(pl.when(pl.col(name) != "").then(pl.col(name)).alias(name) for name in ("term", "category"))


def quality_rules(corpus: Corpus) -> tuple[Rule, ...]:
    """The rules that the corpus asks for, in the order in which they claim their drops."""
    limits = corpus.rules
    text = pl.col("text")
    words = text.str.extract_all(r"\S+")
    num_words = words.list.len()
    num_characters = text.str.count_matches(r"\S")
    rules: list[tuple[str, pl.Expr | None]] = [
        ("text_empty", num_characters == 0),
        ("prompt_incomplete", _any_null(corpus.prompt.fields)),
        # U+FFFD is what a wrong decoder leaves behind; the pairs are UTF-8 that was read as Latin-1.
        ("broken_characters", text.str.contains("\ufffd|Ã[\u0080-\u00bf]|â€[\u0080-\u2122]")),
        ("too_few_words", _if_set(limits.words_min, lambda least: num_words < least)),
        ("too_many_words", _if_set(limits.words_max, lambda most: num_words > most)),
        (
            "too_few_letters",
            _if_set(limits.letters_share_min, lambda least: text.str.count_matches(r"[\p{L}\p{M}]") < num_characters * least),
        ),
        ("words_too_long", _if_set(limits.mean_word_length_max, lambda most: num_characters > num_words * most)),
        (
            # In short texts a repeated word is grammar: "the … of the …".
            "repeated_words",
            _if_set(
                limits.repeated_words_share_max,
                lambda most: (num_words >= 10) & (num_words - words.list.eval(pl.element().str.to_lowercase()).list.n_unique() > num_words * most),
            ),
        ),
        (
            "too_many_symbols",
            _if_set(limits.symbols_share_max, lambda most: text.str.count_matches(r"#|…|\.\.\.") > num_words * most),
        ),
        *((f"matches_{index}", text.str.contains(pattern)) for index, pattern in enumerate(limits.drop_matching)),
        ("label_unwanted", pl.col("label").is_in(list(corpus.labels.drop)) if corpus.labels else None),
    ]
    return tuple(Rule(name=name, drops=drops.fill_null(False)) for name, drops in rules if drops is not None)


def apply_rules(documents: pl.DataFrame, rules: tuple[Rule, ...]) -> tuple[pl.DataFrame, dict[str, int]]:
    """What no rule drops, and how many documents each rule dropped first."""
    first = pl.coalesce([pl.when(rule.drops).then(pl.lit(rule.name)) for rule in rules] or [pl.lit(None, pl.String)])
    dropped_by = documents.select(first.alias("rule")).get_column("rule")
    counts = dict(dropped_by.drop_nulls().value_counts().iter_rows())
    return documents.filter(dropped_by.is_null()), {rule.name: counts.get(rule.name, 0) for rule in rules}
