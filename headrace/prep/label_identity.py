"""Whether the rows of people's label files stand for documents that there are.

A misspelt or outdated id labels nothing, silently: cleaning looks labels up by a document's id. So the rows of every
label file are compared with the ids of all sealed shards. A shard that is not sealed yet may have the missing ones.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace.prep.corpus import Corpus
from headrace.prep.labels import label_file_path, read_label_file
from headrace.text.markdown import inline

_NUM_SAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class UnknownLabels:
    """`num_labels`: rows of all label files. `samples`: a few ids that no document has."""

    num_labels: int
    num_unknown: int
    samples: tuple[str, ...]

    def told(self, num_unread_shards: int) -> str:
        """Markdown: how many, for example which, and what may be the reason."""
        samples = ", ".join(inline(repr(one)) for one in self.samples)
        unread = f" {num_unread_shards:,} shards are not read yet, and may have them." if num_unread_shards else ""
        return (
            f"{self.num_unknown:,} of {self.num_labels:,} labels in files are of no document, for example {samples}: "
            f"look at labels.file.document_id, and whether the texts have changed.{unread}"
        )


def find_unknown_labels(corpus: Corpus, home: Path, ids: Mapping[str, Iterable[str]]) -> UnknownLabels:
    """Args:
        ids: sealed shard → the ids of its documents.

    Raises:
        InvalidInput: a label file is missing or cannot be read, or gives a document two labels.
    """
    settings = corpus.labels.file if corpus.labels else None
    if settings is None:
        return UnknownLabels(num_labels=0, num_unknown=0, samples=())
    shards: dict[Path, list[str]] = {}
    for shard in ids:
        shards.setdefault(label_file_path(settings, shard, home), []).append(shard)
    num_labels = 0
    unknown: set[str] = set()
    for of_file in shards.values():
        # A file for each shard labels the documents of that shard alone.
        labelled = read_label_file(settings, of_file[0], home).keys()
        num_labels += len(labelled)
        unknown |= labelled - {one for shard in of_file for one in ids[shard]}
    return UnknownLabels(num_labels=num_labels, num_unknown=len(unknown), samples=tuple(sorted(unknown)[:_NUM_SAMPLES]))
