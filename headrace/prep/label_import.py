"""Takes what people chose into the label file that the corpus names, whole or not at all.

Several people's choices for one document become one label by majority; where the most are equal, none is written, and
the document is told. A label that stands in the file already is kept unless it is to be replaced. Each document's label
goes into the file of every shard that has the document, for copies in two shards are one document to people. A shard
without labels gets a file without rows, since the run of its labels wants one. A file is written beside and renamed: a
reader sees the old file or the new one. With a file for each shard, a kill between two renames leaves the others as
they were, and the same import completes them. Importing the same again changes nothing.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import HandoffMissing, InvalidInput
from headrace.handoff.versions import HandoffStore
from headrace.prep.agreement import krippendorffs_alpha
from headrace.prep.corpus import Corpus
from headrace.prep.label_file_edits import FileChange
from headrace.prep.label_settings import LabelFile
from headrace.prep.labels import label_file_path, read_label_file
from headrace.prep.unsettled_labels import Differing, Undecided
from headrace.user_files.lines import COMPRESSIONS
from headrace.user_files.records import format_of

_NUM_SAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class LabelImport:
    """What an import does. `alpha`: Krippendorff's, over people; null: no document has two people's labels."""

    num_annotations: int
    num_annotators: int
    num_documents: int
    num_unknown: int
    num_unchanged: int
    alpha: float | None
    files: tuple[FileChange, ...]
    undecided: tuple[Undecided, ...]
    differing: tuple[Differing, ...]

    @property
    def num_added(self) -> int:
        return sum(len(file.added) for file in self.files)

    @property
    def num_replaced(self) -> int:
        return sum(len(file.replaced) for file in self.files)


def planned_import(
    corpus: Corpus,
    handoffs: HandoffStore,
    home: Path,
    answers: Mapping[str, Mapping[str, str]],
    *,
    replace: bool = False,
    known_only: bool = False,
) -> LabelImport:
    """What importing would change; changes nothing.

    Args:
        answers: document id → person → label.
        replace: whether a chosen label takes the place of another in the file.
        known_only: whether documents that the corpus does not have are left out, in place of being refused.

    Raises:
        InvalidInput: the corpus names no label file that can be written, a document is none of the corpus's, or a label
            is none of the judge's answers.
        HandoffMissing: no shard's files were read yet.
    """
    if not (corpus.labels and corpus.labels.file):
        raise InvalidInput(f"Corpus {corpus.name} names no label file: set labels.file.path in its file.")
    settings = corpus.labels.file
    _refuse_other_labels(corpus, answers)
    shards = _shards_of(corpus, handoffs, answers, known_only=known_only)
    num_unknown = len(answers) - len(shards)
    chosen = {document_id: labels for document_id, labels in answers.items() if document_id in shards}
    decided, undecided = _decided(chosen)
    files: list[FileChange] = []
    differing = []
    num_unchanged = 0
    # One file may be that of all shards.
    of_path: dict[Path, list[str]] = {}
    for shard in corpus.shard_keys:
        of_path.setdefault(label_file_path(settings, shard, home), []).append(shard)
    for path, own_shards in of_path.items():
        _check_writable(path, settings)
        is_new = not path.exists()
        there = {} if is_new else read_label_file(settings, own_shards[0], home)
        change = FileChange(path=path, added={}, replaced={})
        for document_id, label in decided.items():
            if shards[document_id].isdisjoint(own_shards):
                continue
            old = there.get(document_id)
            if old is None:
                change.added[document_id] = label
            elif old == label:
                num_unchanged += 1
            elif replace:
                change.replaced[document_id] = label
            else:
                differing.append(Differing(document_id=document_id, file_label=old, chosen_label=label))
        if change.added or change.replaced or (is_new and chosen):
            files.append(change)
    return LabelImport(
        num_annotations=sum(map(len, chosen.values())),
        num_annotators=len({annotator for labels in chosen.values() for annotator in labels}),
        num_documents=len(chosen),
        num_unknown=num_unknown,
        num_unchanged=num_unchanged,
        alpha=krippendorffs_alpha(chosen.values()),
        files=tuple(files),
        undecided=tuple(undecided),
        differing=tuple(differing),
    )


def _decided(chosen: Mapping[str, Mapping[str, str]]) -> tuple[dict[str, str], list[Undecided]]:
    decided: dict[str, str] = {}
    undecided = []
    for document_id, labels in chosen.items():
        votes = Counter(labels.values()).most_common()
        if len(votes) > 1 and votes[0][1] == votes[1][1]:
            undecided.append(Undecided(document_id=document_id, votes=dict(votes)))
        else:
            decided[document_id] = votes[0][0]
    return decided, undecided


def _refuse_other_labels(corpus: Corpus, chosen: Mapping[str, Mapping[str, str]]) -> None:
    if not (corpus.labels and corpus.labels.judge):
        return
    answers = corpus.labels.judge.answers
    others = Counter(label for labels in chosen.values() for label in labels.values() if label not in answers)
    if others:
        label, count = others.most_common(1)[0]
        raise InvalidInput(
            f"{sum(others.values()):,} of the annotations have a label that labels.judge.answers does not list, got "
            f"{label!r} {count:,} times, wanted {', '.join(map(repr, answers))}: nothing is imported, since such "
            "labels would never agree with the judge's."
        )


def _shards_of(
    corpus: Corpus, handoffs: HandoffStore, wanted: Iterable[str], *, known_only: bool
) -> dict[str, set[str]]:
    """Document id → its shards, of all wanted documents, or of those that there are."""
    asked = set(wanted)
    found: dict[str, set[str]] = {}
    unread = []
    for shard in corpus.shard_keys:
        try:
            ids = handoffs.open("raw_documents", shard).table(["document_id"]).column("document_id").to_pylist()
        except HandoffMissing:
            unread.append(shard)
            continue
        for document_id in asked.intersection(ids):
            found.setdefault(document_id, set()).add(shard)
    if len(unread) == len(corpus.shard_keys):
        raise HandoffMissing("No raw_documents are sealed: materialize raw_documents first.")
    unknown = asked - found.keys()
    if unknown and not known_only:
        samples = ", ".join(map(repr, sorted(unknown)[:_NUM_SAMPLES]))
        missing = f" The raw documents of {', '.join(unread)} are not sealed yet." if unread else ""
        raise InvalidInput(
            f"{len(unknown):,} of {len(unknown) + len(found):,} annotated documents are not in corpus {corpus.name}, "
            f"got {samples}: nothing is imported. A text that changed since the export has another id, if ids are made "
            f"from the content. --known-only imports the others.{missing}"
        )
    return found


def _check_writable(path: Path, settings: LabelFile) -> None:
    file_format = format_of(path, settings.layout)
    if file_format not in ("csv", "jsonl") or path.suffix.lower() in COMPRESSIONS:
        raise InvalidInput(f"labels.file.path must be a plain .csv or .jsonl to be written, got {path}.")
