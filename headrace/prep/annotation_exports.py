"""What people chose in Label Studio or Argilla, from the files that these tools export.

Told by their shape: Label Studio's JSON (tasks with `annotations`) and JSON-MIN (a row for each annotation), Argilla's
records with `responses`; a JSON list, or an object a line. What was skipped or cancelled is an annotation without a
label, since it may withdraw an earlier one. Nothing is known of spans, ratings or several choices: they are refused, as
they are no label of a document.

Sources: labelstud.io/guide/export (JSON, JSON-MIN); Argilla 2, `Record.to_dict`; both tried with the tools' own
converters (label-studio-sdk 2.1.2, argilla 2.8.0).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
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
class Annotator:
    """`number`: one server's, which stands for others elsewhere. `name`: an e-mail address or id that is one person's
    everywhere. The export may have either, both or none."""

    number: str | None
    name: str | None


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """What one person chose last for one document in one export. `label`: null where it was skipped, cancelled or left
    without an answer. `made_at`: null where the tool tells no time, as Argilla."""

    document_id: str
    label: str | None
    annotator: Annotator
    made_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class AnnotationExport:
    """`marks`: what only this file's server has; two files that share one are of the same server."""

    path: Path
    annotations: tuple[Annotation, ...]
    marks: frozenset[tuple[str, ...]]


def read_annotations(path: Path, question: str) -> AnnotationExport:
    """Args:
        question: the name of the choice in the tool.

    Raises:
        InvalidInput: the file is none of these exports, or an answer is no single label; the text names the place.
    """
    annotations: list[Annotation] = []
    names: set[str] = set()
    marks: set[tuple[str, ...]] = {("file", str(path.resolve()))}
    for place, entry in _entries(path):
        annotations += _annotations(entry, question, f"{path}, {place}", names)
        marks.update(_marks(entry))
    if names and question not in names:
        raise InvalidInput(
            f"{path} has no answers to the question {question!r}, but to {', '.join(map(repr, sorted(names)))}: name "
            "the one that labels documents with --question."
        )
    return AnnotationExport(path=path, annotations=tuple(annotations), marks=frozenset(marks))


def _marks(entry: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    # Numbers begin at 1 in every Label Studio. The microsecond at which it made a task or an annotation is its own:
    # an import keeps no time of creation (label_studio/tasks/serializers.py, add_tasks and add_annotations).
    for keys in (("project", "id", "created_at"), ("annotation_id", "created_at")):
        values = [entry.get(key) for key in keys]
        if None not in values:
            yield (keys[0], *map(str, values))


def _annotations(entry: Mapping[str, Any], question: str, where: str, names: set[str]) -> Iterator[Annotation]:
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


def _studio(annotation: Any, document_id: str, question: str, where: str, names: set[str]) -> Annotation:
    if not isinstance(annotation, dict) or not isinstance(annotation.get("result", []), list):
        raise InvalidInput(f"{where}: an annotation must be an object with a list 'result', got {_shown(annotation)}.")
    results = [result for result in annotation.get("result", []) if isinstance(result, dict)]
    names.update(str(result["from_name"]) for result in results if result.get("from_name"))
    values = [result.get("value") for result in results if result.get("from_name") == question]
    label = None
    if values and not (annotation.get("was_cancelled") or annotation.get("skipped")):
        choices = [value.get("choices") if isinstance(value, dict) else None for value in values]
        label = _single(
            [one for chosen in choices for one in (chosen if isinstance(chosen, list) else [chosen])], where
        )
    who = _studio_user(annotation.get("completed_by"))
    return Annotation(document_id=document_id, label=label, annotator=who, made_at=_made_at(annotation, where))


def _studio_row(row: Mapping[str, Any], question: str, where: str, names: set[str]) -> Annotation:
    names.update(row.keys() - _OF_A_ROW)
    label = None
    if question in row:
        value = row[question]
        chosen = value.get("choices") if isinstance(value, dict) else [value]
        label = _single(chosen if isinstance(chosen, list) else [chosen], where)
    return Annotation(
        document_id=_document_id(row, where),
        label=label,
        annotator=_studio_user(row.get("annotator")),
        made_at=_made_at(row, where),
    )


def _studio_user(who: Any) -> Annotator:
    """Label Studio exports a user's number; with more rights an object, of which JSON-MIN has the e-mail address."""
    if isinstance(who, dict):
        number, email = who.get("id"), who.get("email")
    else:
        number, email = (None, who) if isinstance(who, str) and "@" in who else (who, None)
    return Annotator(number=_text(number), name=_text(email))


def _made_at(annotation: Mapping[str, Any], where: str) -> datetime | None:
    found = annotation.get("updated_at") or annotation.get("created_at")
    if found is None or found == "":
        return None
    try:
        # Before version 1, Label Studio wrote seconds.
        is_seconds = isinstance(found, int | float)
        made_at = datetime.fromtimestamp(found, UTC) if is_seconds else datetime.fromisoformat(found)
    except (TypeError, ValueError, OverflowError, OSError) as error:
        raise InvalidInput(
            f"{where}: an annotation's time must be one of ISO 8601, got {_shown(found)}: it decides which of a "
            "person's annotations is the newest."
        ) from error
    return made_at if made_at.tzinfo else made_at.replace(tzinfo=UTC)


def _argilla(record: Mapping[str, Any], question: str, where: str, names: set[str]) -> Iterator[Annotation]:
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
        value, label = response["value"], None
        # `discarded` is Argilla's skip, a `draft` was not handed in.
        if value is not None and response.get("status", "submitted") == "submitted":
            label = _single(value if isinstance(value, list) else [value], where)
        who = Annotator(number=None, name=_text(response.get("user_id")))
        yield Annotation(document_id=document_id, label=label, annotator=who, made_at=None)


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


def _text(value: Any) -> str | None:
    return None if value in (None, "") else str(value)


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
