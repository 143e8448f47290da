"""Turns one record of a user's file into a raw document, or into the reason why it cannot."""

from collections.abc import Iterable

from headrace.keys import digest_text
from headrace.prep.corpus import Corpus
from headrace.user_files.html_pages import NoPage, page_of
from headrace.user_files.layout import Record, Unreadable

# One document's values in the order of RAW_DOCUMENTS.
RawDocument = tuple[str, str | None, str | None, str, list[str], str, int]


def raw_document(corpus: Corpus, source_file: str, record: Record) -> RawDocument | Unreadable:
    """Applies the corpus's column mapping.

    A JSON record may lack a column that neither text nor templates need. A null is allowed too, except for the text: a
    rule of the cleaning counts documents in which a template's column is null.
    """
    values = {ours: record.fields.get(theirs) for ours, theirs in corpus.columns.items()}
    examples = values.get("examples") or []
    values["examples"] = [examples] if isinstance(examples, str) else examples
    if corpus.text_markup == "html" and isinstance(html := values.get("text"), str):
        try:
            values["text"], _ = page_of(html)
        except NoPage as error:
            reason = f"column {corpus.columns['text']!r}: {error}"
            return Unreadable(line=record.line, reason=reason, excerpt=html)
    fault = _fault(corpus, record, values)
    if fault:
        return Unreadable(line=record.line, reason=fault, excerpt=repr(record.fields))
    term, category, given_id = (_string(values.get(name)) for name in ("term", "category", "document_id"))
    text, examples = values["text"], values["examples"]
    assert isinstance(text, str)
    assert isinstance(examples, list)
    # From the content, not from the line, so labels keep to their documents when lines are added above them.
    document_id = given_id or digest_text("document", term or "", category or "", text)[:32]
    return document_id, term, category, text, examples, source_file, record.line


def _fault(corpus: Corpus, record: Record, values: dict[str, object]) -> str | None:
    for ours in corpus.required_columns:
        if corpus.columns[ours] not in record.fields:
            return f"missing column {corpus.columns[ours]!r}"
    for ours, theirs in corpus.columns.items():
        value, wanted = values[ours], _WANTED[ours]
        if not _fits(ours, value):
            got = "null" if value is None else type(value).__name__
            return f"column {theirs!r} must be {wanted}, got {got}"
        if not _encodable(value if isinstance(value, list) else (value,)):
            return f"column {theirs!r} holds half of a surrogate pair, which is no character"
    return None


_WANTED = {
    "document_id": "a string or a whole number",
    "term": "a string or a whole number",
    "category": "a string or a whole number",
    "text": "a string",
    "examples": "a string or a list of strings",
}


def _fits(ours: str, value: object) -> bool:
    if ours == "text":
        return isinstance(value, str)
    if ours == "examples":
        return isinstance(value, list) and all(isinstance(example, str) for example in value)
    return value is None or isinstance(value, str | int)


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
