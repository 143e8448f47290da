"""What each rule set drops of a thousand documents of each kind, and by which rule most: a table, without a bar.

Kinds are made of what is installed here, as the other parts' corpora are; those in other languages need
`make bench-setup`. A set is for the kinds of which it drops little; the table tells which these are.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import polars as pl

from benchmarks.measuring import print_table
from benchmarks.parts import Outcome
from benchmarks.prep.corpus import sentences, write_corpus
from benchmarks.prep.parts import Given
from benchmarks.prep.web_pages import write_pages
from headrace.prep.cleaning import prepared
from headrace.prep.corpus import Corpus
from headrace.prep.example_forms import ExamplePrompt
from headrace.prep.quality import first_rule
from headrace.prep.rule_sets import QualityRules, RuleSet
from pipelines.setup import TRANSLATED

_NUM_DOCUMENTS = 1000
_BYTES = 6_000_000
_LANGUAGES = ("Chinese", "Japanese", "Thai", "Hindi", "Arabic", "Korean")


def run(given: Given, directory: Path) -> Outcome:
    sets = get_args(RuleSet)
    shares: dict[str, dict[str, float]] = {}
    rows: list[list[str]] = []
    for kind, texts in _kinds(directory):
        documents = pl.DataFrame({"text": texts}).with_columns(
            *(pl.lit("x").alias(name) for name in ("term", "category")),
            pl.lit([], pl.List(pl.String)).alias("examples"),
        )
        found = {rule_set: _dropped(documents, rule_set) for rule_set in sets}
        shares[kind] = {rule_set: len(rules) / len(texts) for rule_set, rules in found.items()}
        rows.append([kind, *(_cell(rules, len(texts)) for rules in found.values())])
    print_table(f"Dropped of {_NUM_DOCUMENTS:,} documents of each kind, most by", ["kind", *sets], rows)
    return Outcome(body={"dropped_shares": shares}, bars={})


def _dropped(documents: pl.DataFrame, rule_set: RuleSet) -> pl.Series:
    corpus = Corpus(name="kinds", files=("x",), rules=QualityRules.of(rule_set), prompt=ExamplePrompt(user="Write it."))
    judged = prepared(documents, corpus).with_columns(pl.lit(None, pl.String).alias("label"))
    return first_rule(judged, corpus).drop_nulls()


def _cell(rules: pl.Series, num_documents: int) -> str:
    if not len(rules):
        return "0%"
    return f"{len(rules) / num_documents:.0%} {rules.value_counts(sort=True).item(0, 0)}"


def _kinds(directory: Path) -> Iterator[tuple[str, list[str]]]:
    draw, known = random.Random(5), list(dict.fromkeys(sentences()))
    write_pages(directory / "pages.parquet", _BYTES, seed=5)
    pages = pl.read_parquet(directory / "pages.parquet").filter(pl.col("kind") == "page")
    yield "web pages", pages.get_column("text").head(_NUM_DOCUMENTS).to_list()
    for kind, make in _MADE.items():
        yield kind, [make(draw, known) for _ in range(_NUM_DOCUMENTS)]
    for language in ("Python", *(_LANGUAGES if TRANSLATED.exists() else ())):
        write_corpus(directory / "corpus.parquet", _BYTES, seed=5, language=language)
        texts = pl.read_parquet(directory / "corpus.parquet").get_column("text")
        yield language, texts.head(_NUM_DOCUMENTS).to_list()


def _poem(draw: random.Random, known: list[str]) -> str:
    stanzas = [[" ".join(draw.choice(known).split()[:6]) for _ in range(4)] for _ in range(draw.randint(2, 5))]
    return "\n\n".join("\n".join(lines) for lines in stanzas)


def _table(draw: random.Random, known: list[str]) -> str:
    rows = [["name", "count", "share"], ["---", "---", "---"]]
    for _ in range(draw.randint(3, 12)):
        name = " ".join(draw.choice(known).split()[:2])
        rows.append([name, str(draw.randrange(10_000)), f"{draw.random():.1%}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _log(draw: random.Random, known: list[str]) -> str:
    lines = [f"2026-11-{draw.randint(1, 30):02d} 12:00:{second:02d} INFO {draw.choice(known)}" for second in range(12)]
    return "\n".join(lines)


_MADE: dict[str, Callable[[random.Random, list[str]], str]] = {
    "answers": lambda draw, known: " ".join(draw.choice(known) for _ in range(draw.randint(1, 3))),
    "one word or number": lambda draw, known: draw.choice([draw.choice(known).split()[0], str(draw.randrange(1000))]),
    "titles": lambda draw, known: " ".join(draw.choice(known).split()[: draw.randint(3, 8)]),
    "poems": _poem,
    "Markdown tables": _table,
    "logs": _log,
}
