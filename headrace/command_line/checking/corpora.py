"""What a corpus that can be read will do: the files of its shards, its first training example, and what fits."""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from headrace.command_line.checking.named_files import delimiter_findings
from headrace.command_line.checking.report import FileFinding, Level, finding
from headrace.command_line.output import counted
from headrace.errors import InvalidInput
from headrace.keys import SHARD_PLACEHOLDER
from headrace.prep.cleaning import prepared, rule_sources
from headrace.prep.corpus import Corpus
from headrace.prep.documents import document_schema, raw_document
from headrace.prep.example_kinds import LOSS_BEGIN, LOSS_END, fitted_examples, shown_example, tokenizer_for
from headrace.prep.personal_data import dropped_for_personal_data, without_personal_data
from headrace.user_files.finding import found_files, nearest_existing
from headrace.user_files.layout import Record, Unreadable
from headrace.user_files.lines import COMPRESSIONS
from headrace.user_files.records import read_records

if TYPE_CHECKING:
    from headrace.prep.images.corpus import ImageCorpus

# So many records of the first file tell whether columns and sequence length are right; a shard may have millions.
_RECORDS_READ = 200
# Of another file the first few tell whether it has the columns; a corpus may have files of as many kinds as it likes.
_RECORDS_READ_OF_OTHERS, _OTHER_FILES_MAX = 5, 20
# Where each file is one document, a page or a program, so many files are read.
_FILES_OF_ONE_DOCUMENT = 50
_EXCERPT_CHARACTERS = 80


@dataclass(frozen=True, kw_only=True)
class ExaminedCorpus:
    findings: tuple[FileFinding, ...]
    example: str | None = None


def examine_corpus(corpus: Corpus, home: Path, base_model: str) -> ExaminedCorpus:
    """Args:
    home: where relative files start.
    base_model: directory or hub name; nothing is fetched for this.
    """
    try:
        files, findings = matched_files(corpus, home)
        findings += _label_file(corpus, home)
        if not files:
            return ExaminedCorpus(findings=tuple(findings))
        findings += delimiter_findings(corpus.layout, files, key="delimiter")
        documents, said = _documents(corpus, files[0])
        if documents.height <= 1:
            more = (_documents(corpus, file, 1)[0] for file in files[1:_FILES_OF_ONE_DOCUMENT])
            documents = pl.concat([documents, *more])
        findings += [said, *_others(corpus, files), _rules(corpus)]
        if documents.is_empty():
            return ExaminedCorpus(findings=tuple(findings))
        # No example is made of them, and messages have no placeholders.
        rows = documents.filter(~dropped_for_personal_data(documents, corpus.personal_data)).to_dicts()
        if num_dropped := documents.height - len(rows):
            num = counted(documents.height, "document")
            sentence = f"{num_dropped} of the first {num} hold what the corpus drops."
            findings.append(finding("personal", "ok" if rows else "warn", sentence, key="personal_data"))
        if not rows:
            return ExaminedCorpus(findings=tuple(findings))
        example, said = _examples(corpus, rows, base_model)
        return ExaminedCorpus(findings=(*findings, said), example=example)
    except InvalidInput as error:
        return ExaminedCorpus(findings=(finding("files", "fail", str(error)),))


def matched_files(corpus: "Corpus | ImageCorpus", home: Path) -> tuple[list[Path], list[FileFinding]]:
    """The corpus's files, and what is said of each glob that matches nothing."""
    paths: set[Path] = set()
    findings: list[FileFinding] = []
    for number, pattern in enumerate(corpus.files):
        if SHARD_PLACEHOLDER not in pattern:
            found = found_files(pattern, home)
            paths.update(found)
            if not found:
                nearest = nearest_existing(pattern, home)
                # Another glob may have all files of a corpus that is still growing.
                sentence = f"files[{number}] matches no file: {home / pattern}. {nearest}"
                findings.append(finding("files", "warn", sentence, key=f"files[{number}]"))
            continue
        missing: list[str] = []
        for shard in corpus.shard_keys:
            found = found_files(pattern.replace(SHARD_PLACEHOLDER, shard), home)
            paths.update(found)
            missing += [] if found else [shard]
        if missing:
            sought = pattern.replace(SHARD_PLACEHOLDER, missing[0])
            said = (
                f"files[{number}] matches no file for {len(missing)} of {counted(corpus.num_shards, 'shard')}, such as "
                f"{home / sought}. {nearest_existing(sought, home)}"
            )
            findings.append(finding("files", "fail", said, key=f"files[{number}]"))
    if not paths:
        return [], [replace(one, level="fail") for one in findings]
    several = f"{counted(len(paths), 'file')} for {counted(corpus.num_shards, 'shard')}."
    return sorted(paths), [*findings, finding("files", "ok", several)]


def _label_file(corpus: Corpus, home: Path) -> list[FileFinding]:
    if corpus.labels is None or corpus.labels.file is None:
        return []
    paths = dict.fromkeys(corpus.labels.file.path.replace(SHARD_PLACEHOLDER, shard) for shard in corpus.shard_keys)
    missing = [path for path in paths if not (home / path).is_file()]
    if not missing:
        return []
    said = (
        f"labels.file.path is no file: {home / missing[0]}. {nearest_existing(missing[0], home)} Without it a "
        "shard's labels fail. headrace labels export and import make it, once raw_documents are materialized; it may "
        "be empty."
    )
    return [finding("files", "fail", said, key="labels.file.path")]


def _others(corpus: Corpus, files: list[Path]) -> list[FileFinding]:
    """What cannot be read of a file of each other kind, as its name ends, and of the last one."""
    of_kinds: dict[tuple[str, ...], Path] = {}
    for file in files:
        endings = [suffix.lower() for suffix in file.suffixes]
        # A compressed file's kind is that of what is in it, too.
        of_kinds.setdefault(tuple(endings[-2:] if file.suffix.lower() in COMPRESSIONS else endings[-1:]), file)
    others = dict.fromkeys((*list(of_kinds.values())[: _OTHER_FILES_MAX - 1], files[-1]))
    others.pop(files[0], None)
    told = [_documents(corpus, file, _RECORDS_READ_OF_OTHERS)[1] for file in others]
    # As many files as there are kinds can be read, which is no news.
    return [one for one in told if one.level != "ok"]


def _documents(corpus: Corpus, file: Path, num_records: int = _RECORDS_READ) -> tuple[pl.DataFrame, FileFinding]:
    """The first documents of a file as training sees them, and whether they can be read."""
    schema = document_schema(corpus)
    rows: list[dict[str, Any]] = []
    unreadable: list[Unreadable] = []
    for record in islice(read_records(file, corpus.layout), num_records):
        read = raw_document(corpus, str(file), record) if isinstance(record, Record) else record
        if isinstance(read, Unreadable):
            unreadable += [] if read.is_empty else [read]
        else:
            rows.append(dict(zip(schema.names, read, strict=True)))
    documents = prepared(pl.DataFrame(pa.Table.from_pylist(rows, schema=schema)), corpus)
    num = len(rows) + len(unreadable)
    if unreadable and (not rows or len(unreadable) / num > corpus.quarantine_share_max):
        first = unreadable[0]
        which = f"{len(unreadable)} of the first {counted(num, 'record')} of {file}, line {first.line} first,"
        reason, excerpt = (without_personal_data(text, corpus.personal_data) for text in (first.reason, first.excerpt))
        got = f", got {excerpt[:_EXCERPT_CHARACTERS]!r}" if excerpt else ""
        sentence = f"{which if first.line else file} cannot be read: {reason}{got}."
        return documents, finding("records", "fail", sentence, key=_key_of(first.reason, corpus))
    if not rows:
        return documents, finding("records", "warn", f"{file} is empty.")
    if unreadable:
        # Few enough for the run to go on, which tells them only afterwards.
        first = unreadable[0]
        place = f", line {first.line} first" if first.line else ""
        reason = without_personal_data(first.reason, corpus.personal_data)
        sentence = (
            f"{len(rows)} of the first {counted(num, 'record')} of {file.name} can be read, {len(unreadable)} would go "
            f"to the quarantine{place}: {reason}."
        )
        return documents, finding("records", "warn", sentence)
    return documents, finding("records", "ok", f"the first {counted(num, 'record')} of {file.name} can be read.")


def _rules(corpus: Corpus) -> FileFinding:
    """The set, and how many rules it has of whom."""
    sources = Counter(rule_sources(corpus).values())
    whose = ", ".join(
        f"{number} of {source}" if source != "ours" else f"{number} ours" for source, number in sources.items()
    )
    return finding("rules", "ok", f"{corpus.rules.set}: {counted(sources.total(), 'rule')}, {whose}.")


def _key_of(reason: str, corpus: Corpus) -> str:
    """The key that an unreadable record is about: what names a column that is not there, or how the file is read."""
    if ours := [name for name, theirs in corpus.columns.items() if f"column {theirs!r}" in reason]:
        return f"columns.{ours[0]}"
    return "encoding" if "encoding" in reason or corpus.encoding != ("utf-8",) else "files"


def _examples(corpus: Corpus, rows: list[dict[str, Any]], base_model: str) -> tuple[str, FileFinding]:
    """The first example, and how many of the first ones fit into a sequence."""
    if not Path(base_model).is_dir():
        sentence = f"shown turn by turn, since the base model {base_model} is not on this machine."
        return shown_example(corpus, rows[0], None), finding("examples", "warn", sentence)
    tokenizer = tokenizer_for(corpus, base_model)
    try:
        fitted = list(fitted_examples(corpus, rows, tokenizer))
    except InvalidInput as error:
        said = without_personal_data(str(error), corpus.personal_data)
        return shown_example(corpus, rows[0], None), finding("examples", "fail", said)
    num_dropped, num_cut = (
        sum(one.outcome in outcomes for one in fitted) for outcomes in (("dropped",), ("truncated", "split"))
    )
    lost = num_dropped / len(fitted)
    changed = f", {num_cut} of them cut or split" if num_cut else ""
    sentence = (
        f"{len(fitted) - num_dropped} of the first {len(fitted)} fit into sequence_length "
        f"{corpus.sequence_length:,}{changed}; the longest has "
        f"{counted(max(one.num_tokens for one in fitted), 'token')}. What is between {LOSS_BEGIN} and {LOSS_END} is "
        "learnt."
    )
    level: Level = "fail" if lost > corpus.dropped_share_max else "warn" if lost > 0.1 else "ok"
    return shown_example(corpus, rows[0], tokenizer), finding("examples", level, sentence, key="sequence_length")
