"""Limits of the rules for pictures, as stated in a campaign file (`headrace.generation.media_review.pictures`).

Their defaults lie between what 1,884 drawings and 400 crops of photographs at 32 × 32 and 72 × 72 pixels measure, and
what faults do (`python -m benchmarks.modalities --gates`).
"""

import re
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Le

from headrace.errors import InvalidCampaign
from headrace.text_templates import placeholders
from headrace.user_files.finding import check_pattern
from headrace.user_files.ranges import check_ranges

# The rank below which a picture counts for the metric `agreement`, whatever the rule's limit.
AGREEMENT_RANKS = 5
_ASSET = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Two pictures are near duplicates if both their perceptual hashes and their mean colours are near."""

    hash_distance_max: Annotated[int, Ge(0), Le(64)] = 26
    """How many of the 64 bits of their perceptual hashes may differ. Copies saved as JPEG or with a little noise have
    up to 26, since in flat drawings most bits are chance; different pictures 28 in the middle."""
    colour_distance_max: Annotated[float, Ge(0), Le(255)] = 9.0
    """How far apart the mean colours of their 8 × 8 fields may lie, of 255 (root mean square). Copies have up to 10; of
    300 different drawings 2% have another one within 8."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class PictureReview:
    """The limits of the rules for pictures; null turns a rule off."""

    contrast_min: Annotated[float, Ge(0), Le(127)] | None = 8.0
    """`blank`: pictures whose channel values differ less, by the largest standard deviation of a channel. Of 1,000
    drawings one lies below 9 and ten below 21, flat areas with a little noise or a slight gradient below 6."""
    variation_max: Annotated[float, Ge(0), Le(510)] | None = 100.0
    """`noise`: pictures whose neighbouring pixels differ more, as the mean over right neighbours plus that over lower
    ones. True pictures have up to 90, noise 136 or more."""
    near_duplicates: NearDuplicates | None = field(default_factory=NearDuplicates)
    """`near_duplicate`: pictures that look like an earlier one of the partition, whose row is kept."""
    references: str | None = None
    """True pictures with captions: an asset of them, such as `clean_images`, or a glob of pictures with their captions
    beside them (`NAME.txt`), tars or tables, as in an images file. null: agreement is not measured."""
    caption: str | None = None
    """By which caption a row's true picture is found, with places as in a role's template; null: what the role was
    asked for."""
    rank_max: Annotated[int, Ge(1)] | None = 5
    """`wrong_picture`: pictures to which as many or more other captions' true pictures are nearer than their own."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.references is not None and not self.is_asset:
            check_pattern("references", self.references, placeholder="{shard}")
        if self.caption is not None and self.references is None:
            raise InvalidCampaign(
                f"caption finds true pictures in references, and there are none, got {self.caption!r}."
            )
        if self.caption is not None and not placeholders("caption", self.caption):
            raise InvalidCampaign(f"caption must name a place in braces, such as {{term}}, got {self.caption!r}.")

    @property
    def is_asset(self) -> bool:
        """Whether `references` names what the pipeline has sealed."""
        return bool(_ASSET.fullmatch(self.references or ""))

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that are on, by name."""
        is_on = {
            "blank": self.contrast_min is not None,
            "noise": self.variation_max is not None,
            "near_duplicate": self.near_duplicates is not None,
            "wrong_picture": self.references is not None and self.rank_max is not None,
        }
        return ("unreadable", *(rule for rule, on in is_on.items() if on))
