"""Of `headrace preview`."""

from dataclasses import dataclass

from headrace.generation.preview import PreviewedRow


@dataclass(frozen=True, kw_only=True)
class PreviewBody:
    """`headrace preview --json`."""

    campaign: str
    day: str
    version_set: str
    num_rows_of_day: int
    rows: tuple[PreviewedRow, ...]
