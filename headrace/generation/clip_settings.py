"""Whether a campaign's rows become films, and how they look, as stated in a campaign file."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from headrace.user_files.ranges import check_ranges


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """How a row's picture and recording become a film."""

    pixels_min: Annotated[int, Ge(16), Le(2160)] = 256
    """A picture whose shorter side is smaller is enlarged by a whole factor, its pixels staying sharp."""
    subtitles: bool = True
    """What is spoken, as a text track that players can show."""

    def __post_init__(self) -> None:
        check_ranges(self)
