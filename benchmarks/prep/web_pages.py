"""Pages as a crawler finds them, made of what is installed here: prose in paragraphs, lists, and what rules drop.

Sentences are those of the documentation of Python packages, in a seeded order. One page of five is of a kind that a
rule of Gopher's, C4's or FineWeb's is for, near its limit on either side, so that verdicts may differ.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.prep.corpus import sentences

_BAD_SHARE = 0.2
_ROWS = 16_384


def write_pages(path: Path, num_bytes: int, seed: int) -> int:
    """Writes `text` and `kind` to a Parquet file; returns the number of pages."""
    draw = random.Random(seed)
    known = list(dict.fromkeys(sentences()))
    kinds = list(BAD)
    rows: list[tuple[str, str]] = []
    size, number = 0, 0
    schema = pa.schema([("text", pa.string()), ("kind", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while size < num_bytes:
            kind = draw.choice(kinds) if draw.random() < _BAD_SHARE else "page"
            text = BAD[kind](draw, known) if kind in BAD else _page(draw, known, draw.randint(2, 12))
            rows.append((text, kind))
            size, number = size + len(text.encode()), number + 1
            if len(rows) == _ROWS or size >= num_bytes:
                writer.write_table(pa.table(list(zip(*rows, strict=True)), schema=schema))
                rows.clear()
    return number


def _prose(draw: random.Random, known: Sequence[str], num_sentences: int) -> str:
    return " ".join(draw.choice(known) for _ in range(num_sentences))


def _page(draw: random.Random, known: Sequence[str], num_parts: int) -> str:
    parts = [draw.choice(known)[:60].rstrip(".")]
    for _ in range(num_parts):
        if draw.random() < 0.15:
            parts.append("\n".join(f"- {draw.choice(known)}" for _ in range(draw.randint(2, 6))))
        else:
            parts.append(_prose(draw, known, draw.randint(2, 8)))
    return "\n\n".join(parts)


def _with_share(draw: random.Random, known: Sequence[str], line: Callable[[str], str], share: float) -> str:
    """Lines of which about this share are changed."""
    lines = [draw.choice(known) for _ in range(draw.randint(10, 40))]
    return "\n".join(line(one) if draw.random() < share else one for one in lines)


def _repeating(draw: random.Random, known: Sequence[str], separator: str, share: float) -> str:
    """Parts of which about this share occurred before."""
    parts: list[str] = []
    for _ in range(draw.randint(10, 40)):
        is_old = parts and draw.random() < share
        parts.append(draw.choice(parts) if is_old else _prose(draw, known, draw.randint(1, 3)))
    return separator.join(parts)


def _phrases(draw: random.Random, known: Sequence[str], num_words: int, share: float) -> str:
    """Prose with one phrase of so many words, of about this share of its words."""
    phrase = " ".join(draw.choice(known).split()[:num_words])
    parts: list[str] = []
    for _ in range(draw.randint(20, 60)):
        words = draw.choice(known).split()
        parts += words[: max(1, int(num_words * (1 - share) / share))]
        parts.append(phrase)
    return " ".join(parts)


def _one(draw: random.Random, known: Sequence[str], word: Callable[[str], str], share: float) -> str:
    """Prose in which about this share of the words is changed."""
    words = _prose(draw, known, draw.randint(8, 30)).split(" ")
    return " ".join(word(one) if draw.random() < share else one for one in words)


def _about(draw: random.Random, limit: float) -> float:
    return limit * draw.uniform(0.6, 1.6)


BAD: dict[str, Callable[[random.Random, Sequence[str]], str]] = {
    "short": lambda draw, known: " ".join(_prose(draw, known, 6).split()[: draw.randint(20, 80)]),
    "letters": lambda draw, known: _one(draw, known, lambda word: word[:1], _about(draw, 0.6)),
    "endless words": lambda draw, known: _one(draw, known, lambda word: word * 3, _about(draw, 0.5)),
    "hashes": lambda draw, known: _one(draw, known, lambda word: f"#{word}", _about(draw, 0.1)),
    "teasers in prose": lambda draw, known: _one(draw, known, lambda word: f"{word}...", _about(draw, 0.1)),
    "bullets": lambda draw, known: _with_share(draw, known, lambda line: f"• {line}", _about(draw, 0.9)),
    "teasers": lambda draw, known: _with_share(draw, known, lambda line: f"{line} …", _about(draw, 0.3)),
    "numbers": lambda draw, known: _one(draw, known, lambda _: str(draw.randrange(10_000)), _about(draw, 0.25)),
    "no prose": lambda draw, known: "\n".join(
        " ".join(word for word in draw.choice(known).split() if len(word) > 4) for _ in range(draw.randint(10, 30))
    ),
    "lines again": lambda draw, known: _repeating(draw, known, "\n", _about(draw, 0.25)),
    "paragraphs again": lambda draw, known: _repeating(draw, known, "\n\n", _about(draw, 0.25)),
    "two words": lambda draw, known: _phrases(draw, known, 2, _about(draw, 0.2)),
    "four words": lambda draw, known: _phrases(draw, known, 4, _about(draw, 0.16)),
    "eight words": lambda draw, known: _phrases(draw, known, 8, _about(draw, 0.12)),
    "twelve words": lambda draw, known: _phrases(draw, known, 12, _about(draw, 0.1)),
    "short lines": lambda draw, known: _with_share(
        draw, known, lambda line: line[: draw.randint(10, 35)], _about(draw, 0.67)
    ),
    "menu": lambda draw, known: _with_share(draw, known, lambda line: line.rstrip(".!?"), _about(draw, 0.88)),
    "filler": lambda draw, known: f"{_page(draw, known, 3)}\nLorem ipsum dolor sit amet.",
    "braces": lambda draw, known: f"{_page(draw, known, 3)}\nIt is written as function() {{ return 1 }} there.",
}
