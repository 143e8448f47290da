"""What `headrace labels import --json` prints."""

from dataclasses import dataclass

from headrace.prep.unsettled_labels import Differing, Undecided


@dataclass(frozen=True, kw_only=True)
class FileChangeBody:
    path: str
    num_added: int
    num_replaced: int


@dataclass(frozen=True, kw_only=True)
class LabelsImportBody:
    """`headrace labels import --json`."""

    is_written: bool
    """false: a dry run."""
    num_annotations: int
    """The newest of each person for each document."""
    num_annotators: int
    num_documents: int
    num_skipped: int
    """Documents that a person skipped, cancelled or left without an answer last; it counts each of several people."""
    num_unordered: int
    """Documents that a person annotated differently, without times that tell the newest: the one given last counts."""
    servers: tuple[tuple[str, ...], ...]
    """The files whose users have numbers, by their server: a number is one person within it. Empty: all are named."""
    num_unknown: int
    """Documents that are not in the corpus, with --known-only."""
    num_unchanged: int
    """Labels that stand in the files already; a document of two shards may have one in each shard's file."""
    alpha: float | None
    """Krippendorff's alpha over people: 1 is perfect, 0 is chance; null: no document has two people's labels."""
    files: tuple[FileChangeBody, ...]
    """Label files that change; one that changes nothing is new and without rows, for a shard that has no labels."""
    undecided: tuple[Undecided, ...]
    """As many people chose one label as another: none is written."""
    differing: tuple[Differing, ...]
    """The file has another label, and --replace was not given."""
