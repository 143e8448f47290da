"""Turns records of a user's file into raw documents, one into the reason why it cannot."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.handoff.schemas import MESSAGES, RAW_DOCUMENTS
from headrace.keys import digest_text
from headrace.prep.corpus import Corpus
from headrace.prep.example_forms import OF_MESSAGES
from headrace.prep.messages import MessagesUnreadable, ReadMessages, read_messages
from headrace.user_files.html_pages import page_of
from headrace.user_files.html_tree import NoPage
from headrace.user_files.json_blocks import Columns
from headrace.user_files.layout import Record, Unreadable
from headrace.user_files.records import format_of

# One document's values in the order of `document_schema`.
RawDocument = tuple[object, ...]


def document_schema(corpus: Corpus) -> pa.Schema:
    """RAW_DOCUMENTS, with the messages of a corpus that has them."""
    return RAW_DOCUMENTS.append(MESSAGES) if corpus.example.kind in OF_MESSAGES else RAW_DOCUMENTS


def raw_document(corpus: Corpus, source_file: str, record: Record) -> RawDocument | Unreadable:
    """Applies the corpus's column mapping.

    A JSON record may lack a column that neither text nor templates need. A null is allowed too, except for the text: a
    rule of the cleaning counts documents in which a template's column is null.
    """
    values = {ours: record.fields.get(theirs) for ours, theirs in corpus.columns.items()}
    examples = values.get("examples")
    if examples is None or isinstance(examples, str):
        values["examples"] = [examples] if examples else []
    if corpus.text_markup == "html" and isinstance(html := values.get("text"), str):
        try:
            values["text"], _ = page_of(html)
        except NoPage as error:
            reason = f"column {corpus.columns['text']!r}: {error}"
            return Unreadable(line=record.line, reason=reason, excerpt=html)
    fault = _fault(corpus, record, values)
    found = None
    if not fault and corpus.example.kind in OF_MESSAGES:
        found, fault = _messages(corpus, source_file, values)
    if fault:
        return Unreadable(line=record.line, reason=fault, excerpt=repr(record.fields))
    term, category, given_id = (_string(values.get(name)) for name in ("term", "category", "document_id"))
    text, examples = found.text if found else values["text"], values["examples"]
    assert isinstance(text, str)
    assert isinstance(examples, list)
    carried = (found.json,) if found else ()
    term = found.first if found and "term" not in corpus.columns else term
    # From the content, not from the line, so labels keep to their documents when lines are added above them.
    document_id = given_id or digest_text("document", term or "", category or "", text, *carried)[:32]
    return document_id, term, category, text, examples, source_file, record.line, *carried


def _messages(
    corpus: Corpus, source_file: str, values: dict[str, object]
) -> tuple[ReadMessages, None] | tuple[None, str]:
    """A record's messages, or the reason why it has none."""
    is_parquet = format_of(Path(source_file), corpus.layout) == "parquet"
    try:
        found = read_messages(corpus.example.kind, corpus.columns, values, nulls_are_absent=is_parquet)
    except MessagesUnreadable as error:
        return None, str(error)
    if not _encodable((found.json,)):
        return None, f"column {corpus.columns[corpus.needed_columns[0]]!r} {_HALF}"
    return found, None


def raw_documents(corpus: Corpus, source_file: str, records: Columns) -> pa.RecordBatch:
    """The same for many records, in none of which a required column is null."""
    found = {ours: records.columns.column(theirs) for ours, theirs in corpus.columns.items()}
    nothing = pa.nulls(records.columns.num_rows, pa.string())
    term, category, given_ids = (
        found.get(name, nothing).cast(pa.string()) for name in ("term", "category", "document_id")
    )
    is_given = pc.call_function("not_equal", [given_ids, ""]).fill_null(False)
    if pc.call_function("all", [is_given]).as_py():
        ids = given_ids
    else:
        ids = pc.call_function("if_else", [is_given, given_ids, _ids(term, category, found["text"])])
    columns = {
        "document_id": ids,
        "term": term,
        "category": category,
        "text": found["text"],
        "examples": _lists(found.get("examples", nothing)),
        "source_file": pa.repeat(source_file, len(ids)),
        "source_line": pa.array(records.lines),
    }
    return pa.RecordBatch.from_pydict(columns, RAW_DOCUMENTS)


def _ids(*columns: pa.Array) -> pa.Array:
    """`digest_text` of each row, as `raw_document` calls it: what it hashes is put together for all rows at once."""
    parts: list[Any] = [b"8:document"]
    for column in columns:
        part = column.fill_null("").cast(pa.binary())
        lengths = pc.call_function("binary_length", [part]).cast(pa.string()).cast(pa.binary())
        parts += [lengths, b":", part]
    rows = pc.call_function("binary_join_element_wise", [*parts, b""])
    return pa.array([hashlib.sha256(row).hexdigest()[:32] for row in rows.to_pylist()])


def _lists(examples: pa.Array) -> pa.Array:
    """Each a list: one text is a list of it, an empty one or a null is a list of none."""
    if pa.types.is_list(examples.type):
        lengths, values = (
            pc.call_function("list_value_length", [examples]),
            pc.call_function("list_flatten", [examples]),
        )
    else:
        texts = examples.cast(pa.string())
        lengths = pc.call_function("not_equal", [texts, ""]).cast(pa.int32())
        values = texts.filter(lengths.cast(pa.bool_()))
    offsets = np.append(0, np.cumsum(lengths.fill_null(0).to_numpy(zero_copy_only=False)))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def _fault(corpus: Corpus, record: Record, values: dict[str, object]) -> str | None:
    for ours in corpus.needed_columns:
        if corpus.columns[ours] not in record.fields:
            return f"missing column {corpus.columns[ours]!r}"
    for ours, theirs in corpus.columns.items():
        # Messages are checked one by one.
        if ours not in _TYPES:
            continue
        value, (_, wanted) = values[ours], _TYPES[ours]
        if not _fits(ours, value):
            got = "null" if value is None else type(value).__name__
            return f"column {theirs!r} must be {wanted}, got {got}"
        if not _encodable(value if isinstance(value, list) else (value,)):
            return f"column {theirs!r} {_HALF}"
    return None


_HALF = "holds half of a surrogate pair, which is no character"


# Ours of the columns → the types that JSON may have there, in words too. A list is one of strings.
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(("document_id", "term", "category"), ((str, int), "a string or a whole number")),
    "text": ((str,), "a string"),
    "examples": ((str, list), "a string or a list of strings"),
}


def allowed_types(corpus: Corpus) -> dict[str, set[type]]:
    """Of each column of the file; of one that stands for several of ours, what suits them all."""
    allowed: dict[str, set[type]] = {}
    for ours, theirs in corpus.columns.items():
        types, _ = _TYPES[ours]
        allowed[theirs] = allowed.get(theirs, set(types)).intersection(types)
    return allowed


def _fits(ours: str, value: object) -> bool:
    if ours == "examples":
        return isinstance(value, list) and all(isinstance(example, str) for example in value)
    if value is None:
        return ours != "text"
    # Python's bool is an int, and no whole number of anybody's file.
    types, _ = _TYPES[ours]
    return isinstance(value, types) and not isinstance(value, bool)


def _encodable(values: Iterable[object]) -> bool:
    """False for lone surrogates: JSON can escape them, but Arrow's UTF-8 strings cannot hold them."""
    for value in values:
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                return False
    return True


def _string(value: object) -> str | None:
    return None if value is None else str(value)
