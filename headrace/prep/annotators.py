"""Who annotated what last, over all exports of an import.

An e-mail address, and an id of Argilla, is one person in all files. A number of Label Studio's is one person within a
server: every installation begins at 1. Files are of one server if they share a task, or in JSON-MIN an annotation, of
the same numbers that was made at the same instant; else each is a server of its own, unless the caller knows better.
Where a server has a number with its e-mail address somewhere, the number is that person. Annotations without any user
are one unknown person of their server.

Of a person's annotations of a document the newest counts; one that was skipped withdraws the label. One with a time is
newer than one without; of those without, or of the same instant, the one that is given last counts, and where that
changes a label, it is told.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from headrace.prep.annotation_exports import Annotation, AnnotationExport

_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What people chose last.

    `labels`: document id → person → label. `num_skipped`: documents by person of which the newest annotation has no
    label. `num_unordered`: documents by person of which time does not tell the newest annotation, and others differ.
    `servers`: the files whose users have numbers, by server; empty if each of these users has a name.
    """

    labels: dict[str, dict[str, str]]
    num_skipped: int
    num_unordered: int
    servers: tuple[tuple[Path, ...], ...]


def newest_answers(exports: Sequence[AnnotationExport], *, one_server: bool = False) -> Answers:
    """Args:
    exports: in the order in which they are given.
    one_server: whether they all are of one server, whatever is in them.
    """
    servers = [0] * len(exports) if one_server else _servers(exports)
    names: dict[tuple[int, str | None], str] = {
        (server, one.annotator.number): one.annotator.name
        for server, export in zip(servers, exports, strict=True)
        for one in export.annotations
        if one.annotator.number and one.annotator.name
    }
    of_person: dict[tuple[str, str], list[Annotation]] = {}
    by_number: dict[int, dict[Path, None]] = {}
    is_named = True
    for server, export in zip(servers, exports, strict=True):
        for one in export.annotations:
            if one.annotator.number or not one.annotator.name:
                by_number.setdefault(server, {})[export.path] = None
            person = one.annotator.name or names.get((server, one.annotator.number))
            is_named = is_named and person is not None
            person = person or f"user {one.annotator.number} of server {server}"
            of_person.setdefault((one.document_id, person), []).append(one)
    labels: dict[str, dict[str, str]] = {}
    num_skipped = num_unordered = 0
    for (document_id, person), given in of_person.items():
        # The first of the largest, so of equals the one that is given last.
        newest = max(reversed(given), key=lambda one: one.made_at or _BEFORE_ALL)
        rivals = [one for one in given if one.made_at in (None, newest.made_at)]
        num_unordered += any(one.label != newest.label for one in rivals)
        if newest.label is None:
            num_skipped += 1
        else:
            labels.setdefault(document_id, {})[person] = newest.label
    return Answers(
        labels=labels,
        num_skipped=num_skipped,
        num_unordered=num_unordered,
        servers=() if is_named else tuple(map(tuple, by_number.values())),
    )


def _servers(exports: Sequence[AnnotationExport]) -> list[int]:
    """The number of each export's server; it is that of the server's first export."""
    servers: list[int] = []
    for number, export in enumerate(exports):
        same = {server for server, one in zip(servers, exports, strict=False) if not export.marks.isdisjoint(one.marks)}
        # One export may show that two before it are of one server.
        first = min(same, default=number)
        servers = [first if server in same else server for server in servers] + [first]
    return servers
