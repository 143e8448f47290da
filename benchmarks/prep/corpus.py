"""A corpus with planted near copies, made of what is installed here: the documentation of Python packages.

Documents are sentences in a seeded order; every tenth is a copy of an earlier document with a few words changed. The
same packages give the same corpus, other packages another, so figures compare only within one run.
"""

import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_DOCSTRING = re.compile(r'"""(.*?)"""', re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_SENTENCE_CHARACTERS = range(40, 400)
_COPY_SHARE, _CHANGED_SHARE_MAX = 0.1, 0.06
_OTHER_WORDS = ("water", "wheel", "mill", "race")


def write_corpus(path: Path, num_bytes: int, seed: int) -> int:
    """Writes `text` to a Parquet file; returns the number of documents."""
    draw = random.Random(seed)
    known = list(dict.fromkeys(sentences()))
    documents: list[str] = []
    size = 0
    while size < num_bytes:
        if documents and draw.random() < _COPY_SHARE:
            words = draw.choice(documents).split(" ")
            for _ in range(draw.randint(0, int(len(words) * _CHANGED_SHARE_MAX))):
                words[draw.randrange(len(words))] = draw.choice(_OTHER_WORDS)
            documents.append(" ".join(words))
        else:
            documents.append(" ".join(draw.choice(known) for _ in range(draw.randint(3, 30))))
        size += len(documents[-1].encode())
    pq.write_table(pa.table({"text": documents}), path, compression="zstd", row_group_size=16_384)
    return len(documents)


def sentences() -> Iterator[str]:
    for file in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
        source = file.read_text(encoding="utf-8", errors="ignore")
        for docstring in _DOCSTRING.findall(source):
            for sentence in _SENTENCE_END.split(docstring):
                if len(sentence) in _SENTENCE_CHARACTERS:
                    yield " ".join(sentence.split())
