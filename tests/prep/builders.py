"""Corpora, raw documents and files for the tests of data prep."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from headrace.handoff.schemas import CLEAN_DOCUMENTS, RAW_DOCUMENTS
from headrace.prep.corpus import Corpus
from headrace.prep.example_forms import ExamplePrompt
from headrace.prep.rule_sets import QualityRules


def make_corpus(**changes: Any) -> Corpus:
    """A corpus of JSON Lines under `files/`, as the demo's but small."""
    corpus = Corpus(
        name="glosses",
        files=("files/*",),
        columns={"term": "term", "category": "category", "text": "gloss", "examples": "examples"},
        prompt=ExamplePrompt(user='Define the {category} "{term}".'),
        rules=QualityRules.of("short"),
        # Shards of one document, which a rule drops.
        dropped_share_max=1.0,
    )
    return dataclasses.replace(corpus, **changes)


def make_raw(*documents: Mapping[str, Any] | str) -> pa.Table:
    """RAW_DOCUMENTS; a plain string is a document of that text."""
    rows = [
        {
            "document_id": f"d{line}",
            "term": f"term {line}",
            "category": "noun",
            "examples": [],
            "source_file": "files/a.jsonl",
            "source_line": line,
        }
        | ({"text": document} if isinstance(document, str) else dict(document))
        for line, document in enumerate(documents, start=1)
    ]
    return pa.Table.from_pylist(rows, schema=RAW_DOCUMENTS)


def make_clean(*documents: Mapping[str, Any] | str) -> pa.Table:
    """CLEAN_DOCUMENTS, of train unless said otherwise."""
    rows = [{"split": "train", "label": None} | row for row in make_raw(*documents).to_pylist()]
    for row, document in zip(rows, documents, strict=True):
        row |= {} if isinstance(document, str) else dict(document)
    return pa.Table.from_pylist(rows, schema=CLEAN_DOCUMENTS)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def gloss(number: int, **changes: Any) -> dict[str, Any]:
    """One record that passes every rule, unlike any other number's."""
    words = ("river", "wheel", "stone", "grain", "mill", "weir", "gate", "boat", "rope", "bank")
    text = " ".join(words[(number // 10**place) % 10] for place in range(4))
    return {"term": f"term {number}", "category": "noun", "gloss": f"a kind of {text}", "examples": []} | changes
