"""Judges each document by itself: which of the corpus's rules drops it first."""

import numpy as np
import polars as pl

from headrace.prep.corpus import Corpus
from headrace.prep.rule_sets import FIGURES, OF_REPETITION, STOP_WORDS, Figure
from headrace.prep.token_rule import folded, kinds, traits
from headrace.prep.utf8 import utf8_batches

# Separators of words and joiners of letters show nothing by themselves.
_VISIBLE = "[^\\s\u200b-\u200f]"


def rule_names(corpus: Corpus) -> tuple[str, ...]:
    """The corpus's rules, in the order in which they count their drops."""
    return tuple(_rules(corpus))


def first_rule(documents: pl.DataFrame, corpus: Corpus) -> pl.Series:
    """For each document, in its normal form and with `broken` and `label`, the rule that drops it; null: none does."""
    counted = documents.hstack(_measured(documents.get_column("text"), corpus))
    drops = (pl.when(drops.fill_null(False)).then(pl.lit(name)) for name, drops in _rules(corpus).items())
    return counted.select(pl.coalesce(drops)).to_series()


def _rules(corpus: Corpus) -> dict[str, pl.Expr]:
    rules, text = corpus.rules, pl.col("text")
    found = {
        "text_empty": ~text.str.contains(_VISIBLE),
        "template_incomplete": pl.any_horizontal(pl.col(corpus.required_columns).is_null()),
    }
    if rules.broken_characters != "keep":
        found["broken_characters"] = pl.col("broken")
    for limit, figure in FIGURES.items():
        value = getattr(rules, limit)
        if value is not None:
            found[figure.rule] = _breaks(figure, value)
    if corpus.labels and corpus.labels.drop:
        found["label_unwanted"] = pl.col("label").is_in(corpus.labels.drop)
    return found | {f"matches_{name}": text.str.contains(pattern) for name, pattern in rules.drop_matching.items()}


def _breaks(figure: Figure, limit: float) -> pl.Expr:
    # A product, not a quotion: a share of exactly the limit is within it.
    bound = limit * (pl.lit(1.0) if figure.of is None else _measure(figure.of))
    worst = pl.max_horizontal(_measure(name) for name in figure.count)
    breaks = worst < bound if figure.bound == "least" else worst > bound
    if figure.of is not None:
        breaks &= _measure(figure.of) > 0
    return breaks & (_measure("words") >= figure.words_min)


def _measure(name: str) -> pl.Expr:
    return pl.col(f"#{name}")


def _measured(texts: pl.Series, corpus: Corpus) -> pl.DataFrame:
    """What the corpus's rules look at, of each text: the columns of `kernels.MEASURES`, with a `#` before them."""
    figures = [figure for limit, figure in FIGURES.items() if getattr(corpus.rules, limit) is not None]
    wanted = {name for figure in figures for name in (*figure.count, figure.of)}
    if not wanted:
        return pl.DataFrame()
    # Its import costs 0.4 CPU s, compiling some more, once a machine.
    from headrace.prep import kernels

    tables = kinds(), folded(), traits(), _stop_words()
    counts = np.empty((len(texts), len(kernels.MEASURES)))
    for rows, data, ends in utf8_batches(texts):
        kernels.measures(data, ends, *tables, counts[rows], bool(wanted & OF_REPETITION))
    return pl.DataFrame({f"#{name}": counts[:, column] for column, name in enumerate(kernels.MEASURES)})


def _stop_words() -> np.ndarray:
    from headrace.prep import kernels

    hashes = np.empty(8, np.uint64)
    found = []
    for word in STOP_WORDS:
        encoded = np.frombuffer(word.encode(), np.uint8)
        kernels.tokens(encoded, 0, len(encoded), kinds(), folded(), hashes)
        found.append(hashes[0])
    return np.array(found)
