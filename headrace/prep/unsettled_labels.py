"""Documents whose label people have to settle; apart from the import, so that a command's help loads no Arrow."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Undecided:
    """A document for which as many people chose one label as another."""

    document_id: str
    votes: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Differing:
    """A document whose label in the file is another than the one that was chosen."""

    document_id: str
    file_label: str
    chosen_label: str
