"""Cleans and splits raw documents, and counts which rule dropped each missing one.

Order: normalise, quality rules, exact duplicates, near duplicates, split. A document counts for the first rule that
drops it, so drops and kept rows add up to the rows read. Rules judge a single document by its characters; they know
nothing of truth, politeness or language. The word rules assume a language with spaces between words: set their limits
to null for others.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from headrace.handoff.schemas import CLEAN_DOCUMENTS, conform
from headrace.prep.corpus import Corpus
from headrace.prep.dedup import exact_duplicates, near_duplicates
from headrace.prep.drops import refuse_if_too_much_dropped
from headrace.prep.split import split_of

EXACT_DUPLICATE = "exact_duplicate"
NEAR_DUPLICATE = "near_duplicate"

_WORD = r"\S+"
_LETTER = r"[\p{L}\p{M}]"
# A wrong decoder leaves U+FFFD; the pairs are UTF-8 that was once read as Latin-1.
_BROKEN = "\ufffd|Ã[\u0080-\u00bf]|â€[\u0080-\u2122]"
_SYMBOL = r"#|…|\.\.\."
# With fewer than ten words, a repeated word is grammar ("the … of the …"), not a fault.
_REPETITION_WORDS_MIN = 10


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A named reason to drop documents: `drops` is true for the rows that go.

    `measured`: what the rule looked at, a number or the words that it found; `limit`: what the corpus file says of it.
    """

    name: str
    drops: pl.Expr
    measured: pl.Expr
    limit: float | str | None = None


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
    documents = judged(corpus, raw, labels)
    counts = dict(documents.get_column("rule").drop_nulls().value_counts().iter_rows())
    drops = {rule: counts.get(rule, 0) for rule in rule_names(corpus)}
    documents = documents.filter(pl.col("rule").is_null())
    sides = [split_of(term, text, corpus.heldout_share) for term, text in documents.select("term", "text").iter_rows()]
    documents = documents.with_columns(pl.Series("split", sides, dtype=pl.String))
    refuse_if_too_much_dropped(corpus, drops, raw.num_rows)
    clean = conform("clean_documents", documents.select(CLEAN_DOCUMENTS.names).to_arrow())
    return Cleaned(documents=clean, num_rows_in=raw.num_rows, drops=drops)


def judged(corpus: Corpus, raw: pa.Table, labels: Mapping[str, str]) -> pl.DataFrame:
    """Every document of a shard of RAW_DOCUMENTS, normalised, in order, with the columns `label`, `rule` and `copy_of`.

    `rule`: the first rule that drops it, or null; `copy_of`: of a duplicate, the place of the kept document.
    """
    documents = normalised(raw)
    label = [labels.get(document_id) for document_id in documents.get_column("document_id")]
    documents = documents.with_columns(pl.Series("label", label, dtype=pl.String))
    rules: list[str | None] = first_rule(documents, quality_rules(corpus)).to_list()
    copy_of: list[int | None] = [None] * len(rules)
    compared = compared_texts(corpus, documents)

    def drop_copies(rule: str, find: Callable[[list[str]], list[int | None]]) -> None:
        places = [place for place, dropped_by in enumerate(rules) if dropped_by is None]
        for place, original in zip(places, find([compared[place] for place in places]), strict=True):
            if original is not None:
                rules[place], copy_of[place] = rule, places[original]

    drop_copies(EXACT_DUPLICATE, exact_duplicates)
    if settings := corpus.near_duplicates:
        drop_copies(NEAR_DUPLICATE, lambda texts: near_duplicates(texts, settings))
    return documents.with_columns(
        pl.Series("rule", rules, dtype=pl.String), pl.Series("copy_of", copy_of, dtype=pl.Int64)
    )


def rule_names(corpus: Corpus) -> list[str]:
    """Every rule that is applied to the corpus's documents, in order."""
    near = [NEAR_DUPLICATE] if corpus.near_duplicates else []
    return [*(rule.name for rule in quality_rules(corpus)), EXACT_DUPLICATE, *near]


def normalised(raw: pa.Table) -> pl.DataFrame:
    """Unicode NFC, no control or invisible characters, single spaces; a text keeps up to two line breaks in a row."""
    frame = pl.DataFrame(raw)
    names = pl.col("term", "category")
    examples = pl.col("examples").list.eval(_single_line(pl.element()).replace("", None).drop_nulls())
    return frame.with_columns(_single_line(names).replace("", None), _lines(pl.col("text")), examples)


def quality_rules(corpus: Corpus) -> tuple[Rule, ...]:
    """The corpus's rules, in the order in which they count their drops."""
    limits = corpus.rules
    text = pl.col("text")
    num_characters = text.str.count_matches(r"\S")
    num_words = text.str.count_matches(_WORD)
    num_distinct_words = text.str.to_lowercase().str.extract_all(_WORD).list.n_unique()
    num_letters = text.str.count_matches(_LETTER)
    num_symbols = text.str.count_matches(_SYMBOL)
    required = corpus.required_columns
    lacking = [pl.when(pl.col(name).is_null()).then(pl.lit(name)) for name in required]
    unwanted = corpus.labels.drop if corpus.labels else ()
    # Products instead of shares decide, since a document without words has none.
    rules = [
        Rule(name="text_empty", drops=num_characters == 0, measured=num_characters),
        Rule(
            name="template_incomplete",
            drops=pl.any_horizontal(pl.col(required).is_null()),
            measured=pl.concat_str(lacking, separator=", ", ignore_nulls=True),
            limit=", ".join(required),
        ),
        Rule(name="broken_characters", drops=text.str.contains(_BROKEN), measured=text.str.extract(_BROKEN, 0)),
        *_limited("too_few_words", limits.words_min, lambda least: num_words < least, num_words),
        *_limited("too_many_words", limits.words_max, lambda most: num_words > most, num_words),
        *_limited(
            "too_few_letters",
            limits.letters_share_min,
            lambda least: num_letters < num_characters * least,
            num_letters / num_characters,
        ),
        *_limited(
            "words_too_long",
            limits.mean_word_length_max,
            lambda most: num_characters > num_words * most,
            num_characters / num_words,
        ),
        *_limited(
            "repeated_words",
            limits.repeated_words_share_max,
            lambda most: (num_words >= _REPETITION_WORDS_MIN) & (num_distinct_words < num_words * (1 - most)),
            1 - num_distinct_words / num_words,
        ),
        *_limited(
            "too_many_symbols",
            limits.symbols_share_max,
            lambda most: num_symbols > num_words * most,
            num_symbols / num_words,
        ),
    ]
    if unwanted:
        label = pl.col("label")
        rules.append(
            Rule(name="label_unwanted", drops=label.is_in(unwanted), measured=label, limit=", ".join(unwanted))
        )
    rules += [
        Rule(
            name=f"matches_{name}",
            drops=text.str.contains(pattern),
            measured=text.str.extract(pattern, 0),
            limit=pattern,
        )
        for name, pattern in limits.drop_matching.items()
    ]
    return tuple(rules)


def first_rule(documents: pl.DataFrame, rules: tuple[Rule, ...]) -> pl.Series:
    """For each document, the name of the first rule that drops it; null: none does."""
    first = pl.coalesce(pl.when(rule.drops.fill_null(False)).then(pl.lit(rule.name)) for rule in rules)
    return documents.select(first.alias("rule")).get_column("rule")


def _limited(name: str, limit: float | None, drops: Callable[[float], pl.Expr], measured: pl.Expr) -> Iterator[Rule]:
    """The rule, if the corpus sets its limit."""
    if limit is not None:
        yield Rule(name=name, drops=drops(limit), measured=measured, limit=limit)


def _single_line(column: pl.Expr) -> pl.Expr:
    return _visible(column).str.replace_all(r"\s+", " ").str.strip_chars()


def _lines(column: pl.Expr) -> pl.Expr:
    return (
        _visible(column.str.replace_all(r"\r\n?", "\n"))
        .str.replace_all(r"[^\S\n]+", " ")
        .str.replace_all(r" ?\n ?", "\n")
        .str.replace_all(r"\n{3,}", "\n\n")
        .str.strip_chars()
    )


def _visible(column: pl.Expr) -> pl.Expr:
    # Zero-width joiners stay: scripts and emoji need them.
    return (
        column.str.normalize("NFC")
        .str.replace_all("[\u00ad\u200b\u2060\ufeff]", "")
        .str.replace_all(r"[\p{Cc}&&[^\n\t]]", " ")
    )


def compared_texts(corpus: Corpus, documents: pl.DataFrame) -> list[str]:
    """The text that de-duplication compares, by the corpus's definition of equal documents."""
    joined = documents.select(
        pl.concat_str(corpus.duplicate_columns, separator=" ", ignore_nulls=True).alias("compared")
    )
    return joined.get_column("compared").to_list()
