"""What people chose in Label Studio or Argilla, from the files that these tools export.

Told by their shape: Label Studio's JSON (tasks with `annotations`) and JSON-MIN (a row for each annotation), Argilla's
records with `responses`; a JSON list, or an object a line. What was skipped or cancelled is no label; of several
annotations by one person the newest counts. Nothing is known of spans, ratings or several choices: they are refused, as
they are no label of a document.

Sources: labelstud.io/guide/export (JSON, JSON-MIN); Argilla 2, `Record.to_dict`; both tried with the tools' own
converters (label-studio-sdk 2.1.2, argilla 2.8.0).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.errors import InvalidInput

# More is no export of people's work.
_BYTES_MAX = 2 * 2**30
# What JSON-MIN has beside answers: its own keys, and what tasks came with.
_OF_A_ROW = frozenset(
    {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"}
    | {"document_id", "shard", "file", "line", "text", "term", "category"}
)


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """What one person chose for one document."""

    document_id: str
    label: str
    annotator: str


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """`num_skipped`: annotations that people skipped or cancelled."""

    annotations: tuple[Annotation, ...]
    num_skipped: int


def read_annotations(path: Path, question: str) -> Annotations:
    """Args:
        question: the name of the choice in the tool.

    Raises:
        InvalidInput: the file is none of these exports, or an answer is no single label; the text names the place.
    """
    newest: dict[tuple[str, str], tuple[str, Annotation]] = {}
    num_skipped = 0
    names: set[str] = set()
    num_entries = 0
    for place, entry in _entries(path):
        num_entries += 1
        for answer in _answers(entry, question, f"{path}, {place}", names):
            if answer is None:
                num_skipped += 1
                continue
            when, annotation = answer
            key = (annotation.document_id, annotation.annotator)
            if key not in newest or when >= newest[key][0]:
                newest[key] = when, annotation
    if num_entries and not newest and names:
        raise InvalidInput(
            f"{path} has no answers to the question {question!r}, but to {', '.join(map(repr, sorted(names)))}: name "
            "the one that labels documents with --question."
        )
    return Annotations(annotations=tuple(annotation for _, annotation in newest.values()), num_skipped=num_skipped)


# When an annotation was made, as the tool writes it, so that text orders it; None: it was skipped.
_Answer = tuple[str, Annotation] | None


def _answers(entry: Mapping[str, Any], question: str, where: str, names: set[str]) -> Iterator[_Answer]:
    if isinstance(entry.get("responses"), dict):
        yield from _argilla(entry, question, where, names)
    elif isinstance(found := entry.get("annotations", entry.get("completions")), list):
        data = entry.get("data")
        document_id = _document_id(data if isinstance(data, dict) else {}, where)
        for annotation in found:
            yield _studio(annotation, document_id, question, where, names)
    elif "annotation_id" in entry or "annotator" in entry:
        yield _studio_row(entry, question, where, names)
    else:
        raise InvalidInput(
            f"{where} is no task with annotations, no row of JSON-MIN and no record with responses, got the keys "
            f"{', '.join(map(repr, list(entry)[:8])) or 'none'}: export JSON from Label Studio, or an Argilla "
            "dataset's records.to_json."
        )


def _studio(annotation: Any, document_id: str, question: str, where: str, names: set[str]) -> _Answer:
    if not isinstance(annotation, dict) or not isinstance(annotation.get("result", []), list):
        raise InvalidInput(f"{where}: an annotation must be an object with a list 'result', got {_shown(annotation)}.")
    results = [result for result in annotation.get("result", []) if isinstance(result, dict)]
    names.update(str(result["from_name"]) for result in results if result.get("from_name"))
    values = [result.get("value") for result in results if result.get("from_name") == question]
    if annotation.get("was_cancelled") or annotation.get("skipped") or not values:
        return None
    choices = [value.get("choices") if isinstance(value, dict) else None for value in values]
    label = _single([one for chosen in choices for one in (chosen if isinstance(chosen, list) else [chosen])], where)
    who = annotation.get("completed_by")
    # Of its users Label Studio exports the number, or with more rights an object.
    who = who.get("email") or who.get("id") if isinstance(who, dict) else who
    when = str(annotation.get("updated_at") or annotation.get("created_at") or "")
    return when, Annotation(document_id=document_id, label=label, annotator=_annotator(who))


def _studio_row(row: Mapping[str, Any], question: str, where: str, names: set[str]) -> _Answer:
    names.update(row.keys() - _OF_A_ROW)
    if question not in row:
        return None
    value = row[question]
    chosen = value.get("choices") if isinstance(value, dict) else [value]
    label = _single(chosen if isinstance(chosen, list) else [chosen], where)
    who = row.get("annotator")
    who = who.get("email") or who.get("id") if isinstance(who, dict) else who
    when = str(row.get("updated_at") or row.get("created_at") or "")
    return when, Annotation(document_id=_document_id(row, where), label=label, annotator=_annotator(who))


def _argilla(record: Mapping[str, Any], question: str, where: str, names: set[str]) -> Iterator[_Answer]:
    metadata = record.get("metadata")
    own = metadata if isinstance(metadata, dict) and "document_id" in metadata else {"document_id": record.get("id")}
    document_id = _document_id(own, where)
    names.update(map(str, record["responses"]))
    # Argilla writes null where nobody answered.
    found = record["responses"].get(question) or []
    if not isinstance(found, list):
        raise InvalidInput(f"{where}: the responses to {question!r} must be a list, got {_shown(found)}.")
    for response in found:
        if not isinstance(response, dict) or "value" not in response:
            raise InvalidInput(f"{where}: a response must be an object with a value, got {_shown(response)}.")
        # `discarded` is Argilla's skip, a `draft` was not handed in.
        if response["value"] is None or response.get("status", "submitted") != "submitted":
            yield None
            continue
        value = response["value"]
        label = _single(value if isinstance(value, list) else [value], where)
        yield "", Annotation(document_id=document_id, label=label, annotator=_annotator(response.get("user_id")))


def _document_id(data: Mapping[str, Any], where: str) -> str:
    found = data.get("document_id")
    if not isinstance(found, str) or not found:
        raise InvalidInput(
            f"{where} has no document_id, which headrace labels export gives each task, got {_shown(found)}: export "
            "the tasks that were made with it, with their data."
        )
    return found


def _single(chosen: list[Any], where: str) -> str:
    if len(chosen) != 1 or not isinstance(chosen[0], str) or not chosen[0].strip():
        raise InvalidInput(f"{where}: an answer must be one label, got {_shown(chosen)}: let the tool take one choice.")
    return chosen[0].strip()


def _annotator(who: Any) -> str:
    return "unknown" if who in (None, "") else str(who)


def _shown(value: Any) -> str:
    return repr(value)[:80]


def _entries(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not path.is_file():
        raise InvalidInput(f"{path} is no file: name what the annotation tool exported.")
    if path.stat().st_size > _BYTES_MAX:
        raise InvalidInput(f"{path} has {path.stat().st_size:,} bytes, at most {_BYTES_MAX:,} are read: export parts.")
    try:
        body = path.read_text("utf-8-sig")
        if body.lstrip().startswith("["):
            found = [(f"entry {number}", entry) for number, entry in enumerate(json.loads(body), start=1)]
        else:
            lines = ((number, line) for number, line in enumerate(body.split("\n"), start=1) if line.strip())
            found = [(f"line {number}", json.loads(line)) for number, line in lines]
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{path} is neither a JSON list nor JSON Lines: {error}. Export JSON from the annotation tool."
        ) from error
    for place, entry in found:
        if not isinstance(entry, dict):
            raise InvalidInput(f"{path}, {place} must be an object, got {_shown(entry)}.")
        yield place, entry
