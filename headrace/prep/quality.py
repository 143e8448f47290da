"""Judges each document by itself: which of the corpus's rules drops it first, by what it measured."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import polars as pl

from headrace.prep.corpus import Corpus
from headrace.prep.language import LanguageRules, is_within, speaks, suffix
from headrace.prep.personal_settings import Kind, found_column
from headrace.prep.rule_sets import FIGURES, OF_REPETITION, PHRASES, STOP_WORDS, Figure, QualityRules, Source
from headrace.prep.token_rule import NUM_CODE_POINTS, folded, kinds, traits
from headrace.prep.utf8 import utf8_batches

# The rule that drops a document for its label.
LABEL_UNWANTED = "label_unwanted"

# Separators of words and joiners of letters show nothing by themselves.
_VISIBLE = "[^\\s\u200b-\u200f]"
# A line may end with one after its sentence.
_QUOTES = "\"'”’»」』"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A named reason to drop documents: `drops` is true for the rows that go.

    `measured`: what the rule looked at, a number or the words that it found; `limit`: what the corpus file says of it;
    `source`: whose rule it is.
    """

    name: str
    drops: pl.Expr
    measured: pl.Expr
    limit: float | str | None = None
    source: Source = "ours"


def quality_rules(corpus: Corpus) -> tuple[Rule, ...]:
    """The corpus's rules, in the order in which they count their drops; they look at `with_counts`."""
    text, required = pl.col("text"), corpus.required_columns
    lacking = [pl.when(pl.col(name).is_null()).then(pl.lit(name)) for name in required]
    rules = [
        Rule(name="text_empty", drops=~text.str.contains(_VISIBLE), measured=text.str.count_matches(_VISIBLE)),
        Rule(
            name="template_incomplete",
            drops=pl.any_horizontal(pl.col(required).is_null()),
            measured=pl.concat_str(lacking, separator=", ", ignore_nulls=True),
            limit=", ".join(required),
        ),
    ]
    if personal := corpus.personal_data:
        rules += [_personal_rule(kind) for kind in personal.drops]
    language = corpus.language or LanguageRules()
    if language.keep is not None:
        rules.append(_language_rule(language.keep, keep_unknown=language.keep_unknown))
    others = ~pl.any_horizontal(pl.lit(False), *map(speaks, language.rules))
    rules += [replace(rule, drops=rule.drops & others) for rule in _rules_of(corpus.rules)]
    for code, of_language in language.rules.items():
        # zh-Hant may have rules beside those of zh.
        narrower = [speaks(one) for one in language.rules if one != code and is_within(one, code)]
        own = speaks(code) & ~pl.any_horizontal(pl.lit(False), *narrower)
        rules += [
            replace(rule, name=f"{rule.name}_{suffix(code)}", drops=rule.drops & own) for rule in _rules_of(of_language)
        ]
    if unwanted := corpus.labels.drop if corpus.labels else ():
        label = pl.col("label")
        rules.append(Rule(name=LABEL_UNWANTED, drops=label.is_in(unwanted), measured=label, limit=", ".join(unwanted)))
    return tuple(rules)


def _rules_of(settings: QualityRules) -> list[Rule]:
    """The rules of one rule set."""
    rules = []
    if settings.broken_characters != "keep":
        broken = pl.col("broken")
        rules.append(Rule(name="broken_characters", drops=broken.is_not_null(), measured=broken))
    limits = ((getattr(settings, name), figure) for name, figure in FIGURES.items())
    rules += [_rule(figure, limit) for limit, figure in limits if limit is not None]
    text = pl.col("text")
    rules += [
        Rule(
            name=f"matches_{name}",
            drops=text.str.contains(pattern),
            measured=text.str.extract(pattern, 0),
            limit=pattern,
            source="the corpus file",
        )
        for name, pattern in settings.drop_matching.items()
    ]
    return rules


def _personal_rule(kind: Kind) -> Rule:
    found = pl.col(found_column(kind))
    return Rule(name=found_column(kind), drops=found > 0, measured=found, limit=0)


def _language_rule(keep: Sequence[str], *, keep_unknown: bool) -> Rule:
    language = pl.col("language")
    return Rule(
        name="language",
        drops=~(pl.any_horizontal(map(speaks, keep)) | (language.is_null() & keep_unknown)),
        measured=language,
        limit=", ".join(keep),
    )


def first_rule(documents: pl.DataFrame, corpus: Corpus) -> pl.Series:
    """For each document, in its normal form and with `broken` and `label`, the rule that drops it; null: none does."""
    drops = (pl.when(rule.drops.fill_null(False)).then(pl.lit(rule.name)) for rule in quality_rules(corpus))
    return with_counts(documents, corpus).select(pl.coalesce(drops).alias("rule")).to_series()


def with_counts(documents: pl.DataFrame, corpus: Corpus) -> pl.DataFrame:
    """The documents, and what the corpus's rules count of their texts."""
    return documents.hstack(_measured(documents.get_column("text"), corpus))


def _rule(figure: Figure, limit: float) -> Rule:
    worst = pl.max_horizontal(_measure(name) for name in figure.count)
    # A product, not a quotient: a share of exactly the limit is within it.
    bound = limit * (pl.lit(1.0) if figure.of is None else _measure(figure.of))
    drops = worst < bound if figure.bound == "least" else worst > bound
    if figure.of is not None:
        drops &= _measure(figure.of) > 0
    if figure.of == "spaced_words":
        # A text of single characters is not judged by the numbers in it.
        drops &= 2 * _measure("spaced_words") >= _measure("words")
    return Rule(
        name=figure.rule,
        drops=drops & (_measure("words") >= figure.words_min),
        measured=worst.cast(pl.Int64) if figure.of is None else worst / _measure(figure.of),
        limit=limit,
        source=figure.source,
    )


def _measure(name: str) -> pl.Expr:
    return pl.col("text").str.count_matches(PHRASES[name]) if name in PHRASES else pl.col(f"#{name}")


def _measured(texts: pl.Series, corpus: Corpus) -> pl.DataFrame:
    """What the corpus's rules look at, of each text: the columns of `measures.MEASURES`, with a `#` before them."""
    rule_sets = [corpus.rules, *(corpus.language.rules.values() if corpus.language else ())]
    figures = [
        figure for limit, figure in FIGURES.items() if any(getattr(rules, limit) is not None for rules in rule_sets)
    ]
    wanted = {name for figure in figures for name in (*figure.count, figure.of)} - PHRASES.keys()
    if not wanted:
        return pl.DataFrame()
    # Its import costs 0.4 CPU s, compiling some more, once a machine.
    from headrace.prep.measures import MEASURES, measures

    tables = kinds(), folded(), _traits(), np.frombuffer(" ".join(STOP_WORDS).encode(), np.uint8)
    counts = np.empty((len(texts), len(MEASURES)))
    for rows, data, ends in utf8_batches(texts):
        measures(data, ends, *tables, counts[rows], bool(wanted & OF_REPETITION))
    return pl.DataFrame({f"#{name}": counts[:, column] for column, name in enumerate(MEASURES)})


@cache
def _traits() -> np.ndarray:
    """`token_rule.traits`, plus 4 for what ends a sentence in some script, plus 8 for a quote."""
    characters = pl.Series([chr(code) if not 0xD800 <= code < 0xE000 else " " for code in range(NUM_CODE_POINTS)])
    ends = characters.str.contains(r"\p{Sentence_Terminal}").to_numpy()
    return traits() | (4 * ends).astype(np.uint8) | (8 * characters.is_in(list(_QUOTES)).to_numpy()).astype(np.uint8)
