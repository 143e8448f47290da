"""Corpora with planted near copies, made of what is installed here, in seven languages and in Python.

English sentences are those of Python packages' docstrings; other languages' are the messages of packages that are
translated into many (`make bench-setup` puts them into a place of their own); Python's are paragraphs of source.
Documents are sentences in a seeded order; every tenth is a copy of an earlier document, of which up to 6% of the words
(in scripts without blanks: of the characters) are changed. The same packages give the same corpus, other packages
another, so figures compare only within one run.
"""

import gettext
import random
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.setup import TRANSLATED

_DOCSTRING = re.compile(r'"""(.*?)"""', re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_SENTENCE_CHARACTERS = range(40, 400)
_MESSAGE_CHARACTERS = range(12, 400)
_COPY_SHARE, _CHANGED_SHARE_MAX = 0.1, 0.06
_OTHER_WORDS = ("water", "wheel", "mill", "race")


def sentences() -> Iterator[str]:
    for source in _sources():
        for docstring in _DOCSTRING.findall(source):
            for sentence in _SENTENCE_END.split(docstring):
                if len(sentence) in _SENTENCE_CHARACTERS:
                    yield " ".join(sentence.split())


def _paragraphs_of_code() -> Iterator[str]:
    for source in _sources():
        if source.isascii():
            paragraphs = (one.strip("\n") for one in source.split("\n\n"))
            yield from (one for one in paragraphs if len(one) in _SENTENCE_CHARACTERS and "\n" in one)


def _sources() -> Iterator[str]:
    for file in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
        yield file.read_text(encoding="utf-8", errors="ignore")


def _messages(*locales: str) -> Iterator[str]:
    """Translations, without those that stayed English."""
    for file in sorted(TRANSLATED.rglob("*.mo")):
        if file.parts[-3] in locales:
            with file.open("rb") as opened:
                # What is loaded is in no public attribute.
                messages = vars(gettext.GNUTranslations(opened))["_catalog"].values()
            texts = (" ".join(one.split()) for one in messages if isinstance(one, str))
            yield from (one for one in texts if len(one) in _MESSAGE_CHARACTERS and not one.isascii())


@dataclass(frozen=True, kw_only=True)
class Language:
    """`by_character`: it has no blanks between words."""

    sentences: Callable[[], Iterable[str]]
    between: str = " "
    by_character: bool = False


LANGUAGES = {
    "English": Language(sentences=sentences),
    "Chinese": Language(sentences=partial(_messages, "zh_CN", "zh_Hans"), between="", by_character=True),
    "Japanese": Language(sentences=partial(_messages, "ja"), between="", by_character=True),
    "Thai": Language(sentences=partial(_messages, "th"), by_character=True),
    "Hindi": Language(sentences=partial(_messages, "hi")),
    "Arabic": Language(sentences=partial(_messages, "ar")),
    "Korean": Language(sentences=partial(_messages, "ko")),
    "Python": Language(sentences=_paragraphs_of_code, between="\n\n"),
}


def write_corpus(path: Path, num_bytes: int, seed: int, language: str = "English") -> int:
    """Writes `text` to a Parquet file; returns the number of documents."""
    draw, written_in = random.Random(seed), LANGUAGES[language]
    known = _known(language)
    documents: list[str] = []
    size = 0
    while size < num_bytes:
        if documents and draw.random() < _COPY_SHARE:
            documents.append(_edited(draw, draw.choice(documents), written_in.by_character))
        else:
            documents.append(written_in.between.join(draw.choice(known) for _ in range(draw.randint(3, 30))))
        size += len(documents[-1].encode())
    pq.write_table(pa.table({"text": documents}), path, compression="zstd", row_group_size=16_384)
    return len(documents)


@cache
def _known(language: str) -> list[str]:
    return list(dict.fromkeys(LANGUAGES[language].sentences()))


def _edited(draw: random.Random, text: str, by_character: bool) -> str:
    # Words, and what is between them; a changed character comes from the text itself.
    pieces = list(text) if by_character else re.split(r"(\s+)", text)
    places = range(len(pieces)) if by_character else range(0, len(pieces), 2)
    others = text if by_character else _OTHER_WORDS
    for _ in range(draw.randint(0, int(len(places) * _CHANGED_SHARE_MAX))):
        pieces[draw.choice(places)] = draw.choice(others)
    return "".join(pieces)
