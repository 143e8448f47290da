"""Labels of documents, from people or from a judge model, and the agreement of two sources.

A label belongs to a document's id, so it survives re-reading and re-cleaning; `judged_at_version` names the version of
the raw documents that the source saw. The judge only sees documents that the quality rules keep: the others would waste
tokens. An answer outside the allowed ones is not a label, and is counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import polars as pl
import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.handoff.schemas import LABELS, empty_table
from headrace.keys import SHARD_PLACEHOLDER
from headrace.prep.agreement import Agreement, agreement_of
from headrace.prep.cleaning import prepared
from headrace.prep.corpus import Corpus
from headrace.prep.identities import find_repeated_ids
from headrace.prep.label_settings import LabelFile, LabelJudge
from headrace.prep.quality import first_rule
from headrace.user_files.layout import Unreadable
from headrace.user_files.records import read_records


class Judge(Protocol):
    """A model that answers questions."""

    def answer(self, questions: Sequence[str]) -> list[str]:
        """One answer for each question, in order; empty if there is none."""
        ...


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """`unanswered`: documents for which the judge gave no allowed answer."""

    labels: pa.Table
    num_judged: int
    num_unanswered: int


def label_shard(corpus: Corpus, shard: str, raw: pa.Table, version: str, home: Path, judge: Judge | None) -> Labelled:
    """Labels of one shard's documents from all of the corpus's sources; empty without a source.

    Raises:
        InvalidInput: the label file cannot be read or gives a document two labels, or an id stands for two documents.
    """
    settings = corpus.labels
    if settings is None:
        return Labelled(labels=empty_table(LABELS), num_judged=0, num_unanswered=0)
    _refuse_repeated_ids(corpus, shard, raw)
    documents = _documents(corpus, raw)
    rows: list[tuple[str, str, str, str]] = []
    num_judged = num_unanswered = 0
    if settings.file:
        given = read_label_file(settings.file, shard, home)
        ids = documents.get_column("document_id")
        rows += [
            (document_id, given[document_id], settings.file.source, version)
            for document_id in ids
            if document_id in given
        ]
    if settings.judge and judge:
        judged = judge_documents(settings.judge, _kept_by_rules(corpus, documents), judge)
        num_judged, num_unanswered = len(judged), sum(label is None for label in judged.values())
        rows += [(document_id, label, settings.judge.source, version) for document_id, label in judged.items() if label]
    columns = zip(*rows, strict=True) if rows else ([] for _ in LABELS)
    table = pa.Table.from_arrays([pa.array(column, pa.string()) for column in columns], schema=LABELS)
    return Labelled(labels=table, num_judged=num_judged, num_unanswered=num_unanswered)


def _documents(corpus: Corpus, raw: pa.Table) -> pl.DataFrame:
    return prepared(pl.DataFrame(raw), corpus).unique("document_id", keep="first", maintain_order=True)


def _kept_by_rules(corpus: Corpus, documents: pl.DataFrame) -> pl.DataFrame:
    unlabelled = documents.with_columns(pl.lit(None, pl.String).alias("label"))
    return documents.filter(first_rule(unlabelled, corpus).is_null())


def _refuse_repeated_ids(corpus: Corpus, shard: str, raw: pa.Table) -> None:
    repeated = find_repeated_ids([raw])
    if repeated.num_ids:
        column = corpus.columns.get("document_id")
        raise InvalidInput(
            f"{shard} of corpus {corpus.name}: {repeated.num_ids:,} document ids stand for more than one document, for "
            f"example {'; '.join(repeated.samples)}. A label of one would decide over the other: make column "
            f"{column!r} unique over all files, or leave document_id out of columns, which makes ids from the content."
        )


def label_file_path(settings: LabelFile, shard: str, home: Path) -> Path:
    return home / settings.path.replace(SHARD_PLACEHOLDER, shard)


def read_label_file(settings: LabelFile, shard: str, home: Path) -> dict[str, str]:
    """Labels by document id; `{shard}` in the path stands for the shard's key. A file without rows has no labels.

    Raises:
        InvalidInput: the file is missing, a line is unreadable, or a document has two different labels.
    """
    path = label_file_path(settings, shard, home)
    if not path.is_file():
        raise InvalidInput(
            f"Label file {path} does not exist; labels.file.path of the corpus file names it. headrace labels import "
            "makes it; without labels so far it may be empty."
        )
    labels: dict[str, str] = {}
    for record in read_records(path, settings.layout):
        if isinstance(record, Unreadable):
            if record.is_empty:
                continue
            raise InvalidInput(
                f"Label file {path}, line {record.line}: {record.reason}. Repair it: no label is skipped."
            )
        document_id, label = record.fields.get(settings.document_id), record.fields.get(settings.label)
        if not (isinstance(document_id, str) and isinstance(label, str)):
            raise InvalidInput(
                f"Label file {path}, line {record.line}: {settings.document_id} and {settings.label} must be strings, "
                f"got {document_id!r} and {label!r}."
            )
        if labels.setdefault(document_id, label) != label:
            raise InvalidInput(
                f"Label file {path}, line {record.line}: document {document_id} is {label!r} here and "
                f"{labels[document_id]!r} further up. Keep one of them."
            )
    return labels


def judge_documents(settings: LabelJudge, documents: pl.DataFrame, judge: Judge) -> dict[str, str | None]:
    """The judge's label of each document; None if its answer is not allowed."""
    rows = documents.select("document_id", "term", "category", "text").to_dicts()
    answers = judge.answer([settings.question.format_map(row) for row in rows])
    return {
        row["document_id"]: parse_answer(answer, settings.answers) for row, answer in zip(rows, answers, strict=True)
    }


def parse_answer(answer: str, allowed: Sequence[str]) -> str | None:
    """The allowed answer at the beginning of a judge's reply, ignoring case and surrounding marks."""
    reply = answer.strip().lstrip("\"'*`([ ").casefold()
    for label in sorted(allowed, key=len, reverse=True):
        rest = reply.removeprefix(label.casefold())
        if rest != reply and not rest[:1].isalnum():
            return label
    return None


def effective_labels(labels: pa.Table, corpus: Corpus) -> dict[str, str]:
    """One label for each document: of the last of the corpus's sources that has one."""
    by_source = labels_by_source(labels)
    effective: dict[str, str] = {}
    for source in corpus.labels.sources if corpus.labels else ():
        effective |= by_source.get(source, {})
    return effective


def agreement(labels: Iterable[pa.Table], first: str, second: str) -> Agreement:
    """The agreement of two sources over all tables together."""
    pairs: list[tuple[str, str]] = []
    for table in labels:
        by_source = labels_by_source(table)
        one, other = by_source.get(first, {}), by_source.get(second, {})
        pairs += [(one[document_id], other[document_id]) for document_id in one.keys() & other.keys()]
    return agreement_of(pairs)


def labels_by_source(labels: pa.Table) -> Mapping[str, dict[str, str]]:
    """Source → document id → label, of LABELS."""
    by_source: dict[str, dict[str, str]] = {}
    for row in labels.to_pylist():
        by_source.setdefault(row["source"], {})[row["document_id"]] = row["label"]
    return by_source
