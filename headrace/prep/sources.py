"""Reads one shard of a user's files into RAW_DOCUMENTS; unreadable parts become quarantine rows, never a crash.

Files are parsed as streams, and what is read goes into a temporary file, which is mapped: memory holds a batch. A file
belongs to the shard that its glob names, or else to the shard of its path's hash, so new files do not move the others.
It counts two kinds of loss: lines (bad JSON, wrong encoding, wrong type) and files (a missing column, torn in the
middle), since nobody can count the lines of an unreadable file. An empty file loses nothing.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from headrace.errors import InvalidInput, QuarantineExceeded
from headrace.handoff.schemas import QUARANTINE
from headrace.prep.corpus import Corpus
from headrace.prep.documents import allowed_types, document_schema, raw_document, raw_documents
from headrace.prep.example_forms import OF_MESSAGES
from headrace.prep.personal_data import without_personal_data
from headrace.prep.personal_settings import PersonalData
from headrace.prep.spilled_table import SpilledTable
from headrace.prep.text_keys import bucket
from headrace.user_files.finding import found_files
from headrace.user_files.json_blocks import Columns
from headrace.user_files.layout import Record, Unreadable
from headrace.user_files.records import read_columns, read_records

_EXCERPT_CHARACTERS = 200


@dataclass(frozen=True, kw_only=True)
class ShardRead:
    """One shard as read. `num_files` includes the empty and the unreadable ones."""

    corpus: str
    shard: str
    documents: pa.Table
    quarantine: pa.Table
    num_files: int
    num_files_lost: int
    num_files_empty: int
    quarantine_share_max: float
    personal_data: PersonalData | None = None

    @property
    def num_records(self) -> int:
        """Documents and quarantined records together."""
        return self.documents.num_rows + self.quarantine.num_rows

    @property
    def quarantine_share(self) -> float:
        """The larger of two shares: of lost records, and of wholly lost files."""
        return max(
            self.quarantine.num_rows / max(1, self.num_records),
            self.num_files_lost / max(1, self.num_files),
        )

    def counts(self) -> dict[str, int | float]:
        """What became of the shard's records and files."""
        return {
            "num_rows_in": self.num_records,
            "num_rows_quarantined": self.quarantine.num_rows,
            "num_files": self.num_files,
            "num_files_lost": self.num_files_lost,
            "num_files_empty": self.num_files_empty,
            "quarantine_share": round(self.quarantine_share, 6),
        }

    def refuse_if_exceeded(self) -> None:
        """Raises: QuarantineExceeded: the share is above the corpus's limit; the text names the worst file."""
        if self.quarantine_share <= self.quarantine_share_max:
            return
        counts = Counter(self.quarantine.column("source_file").to_pylist())
        worst_file, num_worst = min(counts.items(), key=lambda item: (-item[1], item[0]))
        first = next(row for row in self.quarantine.to_pylist() if row["source_file"] == worst_file)
        reason = without_personal_data(first["reason"], self.personal_data)
        where = f"line {first['source_line']}" if first["source_line"] else "the whole file"
        raise QuarantineExceeded(
            f"{self.shard} of corpus {self.corpus}: {self.quarantine.num_rows:,} of {self.num_records:,} records and "
            f"{self.num_files_lost:,} of {self.num_files:,} files are unreadable, {self.quarantine_share:.2%} where "
            f"quarantine_share_max allows {self.quarantine_share_max:.2%}. Worst file: {worst_file} "
            f"({num_worst:,} records; {where}: {reason}). The quarantine asset lists them all: repair the "
            "files, or raise quarantine_share_max.",
            corpus=self.corpus,
            shard=self.shard,
            source_file=worst_file,
        )


class _Dealt(Protocol):
    """What is asked of a corpus of texts or pictures."""

    @property
    def shard_keys(self) -> tuple[str, ...]: ...

    def globs(self, shard: str) -> tuple[tuple[str, bool], ...]: ...


def read_shard(corpus: Corpus, shard: str, home: Path) -> ShardRead:
    """Reads every file of a shard; relative globs start at `home`.

    Raises:
        InvalidInput: the globs match no file, or a file's name does not tell its format.
    """
    documents = SpilledTable(document_schema(corpus))
    quarantine = SpilledTable(QUARANTINE)
    paths = shard_files(corpus, shard, home)
    lost_files = set()
    num_empty = 0
    for path in paths:
        name = source_name(path, home)
        for record in _records(corpus, path):
            if isinstance(record, Columns):
                documents.add_batch(raw_documents(corpus, name, record))
                continue
            if isinstance(record, Unreadable) and record.is_empty:
                num_empty += 1
                continue
            row = raw_document(corpus, name, record) if isinstance(record, Record) else record
            if isinstance(row, Unreadable):
                quarantine.add((name, row.line, row.reason, _excerpt(row.excerpt)))
                lost_files |= {name} if row.loses_file else set()
            else:
                documents.add(row)
    return ShardRead(
        corpus=corpus.name,
        shard=shard,
        documents=documents.table(),
        quarantine=quarantine.table(),
        num_files=len(paths),
        num_files_lost=len(lost_files),
        num_files_empty=num_empty,
        quarantine_share_max=corpus.quarantine_share_max,
        personal_data=corpus.personal_data,
    )


def _records(corpus: Corpus, path: Path) -> Iterator[Record | Unreadable | Columns]:
    # Messages and pages are read one by one: each has a form of its own.
    if corpus.example.kind in OF_MESSAGES or corpus.text_markup == "html":
        return read_records(path, corpus.layout)
    required = [corpus.columns[ours] for ours in corpus.required_columns]
    return read_columns(path, corpus.layout, required, allowed_types(corpus))


def shard_files(corpus: Corpus, shard: str, home: Path) -> list[Path]:
    """One shard's files, sorted by name.

    Raises:
        InvalidInput: a glob that names the shard matches nothing, or no glob matches anything.
    """
    chosen: set[Path] = set()
    elsewhere = named_for_another(corpus, shard, home)
    num_matched = 0
    for pattern, names_shard in corpus.globs(shard):
        found = found_files(pattern, home)
        num_matched += len(found)
        chosen.update(
            path
            for path in found
            if names_shard
            or (
                path not in elsewhere
                and bucket(source_name(path, home), corpus.num_shards) == corpus.shard_keys.index(shard)
            )
        )
    if not num_matched:
        patterns = ", ".join(str(home / pattern) for pattern, _ in corpus.globs(shard))
        raise InvalidInput(f"No file of corpus {corpus.name} matches {patterns}, wanted at least one for {shard}.")
    return sorted(chosen)


def named_for_another(corpus: _Dealt, shard: str, home: Path) -> frozenset[Path]:
    """Files that a glob names for another shard, so that no hash deals them to this one too."""
    globs = corpus.globs(shard)
    if all(names_shard for _, names_shard in globs):
        return frozenset()
    others = (
        glob for key in corpus.shard_keys if key != shard for glob, names_shard in corpus.globs(key) if names_shard
    )
    return frozenset(path for glob in others for path in found_files(glob, home))


def source_name(path: Path, home: Path) -> str:
    """What a file is called in what is made from it: relative to `home` where it lies below."""
    name = path.relative_to(home).as_posix() if path.is_relative_to(home) else path.as_posix()
    return name_as_text(name)


def name_as_text(name: str) -> str:
    """A name as it is on disk or in an archive: bytes, which may not be text."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _excerpt(text: str) -> str:
    return text[:_EXCERPT_CHARACTERS].encode("utf-8", "replace").decode()
