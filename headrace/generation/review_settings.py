"""Limits of the review's named rules, as stated in a campaign file: for texts, and by kind for what is made of them.

`headrace.generation.review` and `headrace.generation.media_review` apply them.
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from headrace.errors import InvalidCampaign
from headrace.generation.media_review.picture_settings import PictureReview
from headrace.generation.media_review.speech_settings import SpeechReview
from headrace.text.words import folded
from headrace.user_files.ranges import check_ranges


@dataclass(frozen=True, kw_only=True)
class ReviewSettings:
    """The review's limits; null turns a rule off. Rules without a limit are always on."""

    words_min: Annotated[int, Ge(0)] | None = 2
    """Outputs with fewer words are rejected."""
    words_max: Annotated[int, Ge(0)] | None = 200
    """Outputs with more words are rejected."""
    repeated_share_max: Annotated[float, Ge(0), Le(1)] | None = 0.3
    """Share of word trigrams that occurred before in the same output. Fluent English prose stays under 0.1."""
    reject_truncated: bool = True
    """An output that the token limit cut off."""
    reject_prompt_leaks: bool = True
    """An output that repeats its prompt or the chat template's markers."""
    banned_terms: tuple[str, ...] = ()
    """Words, phrases or signs, matched as written, in any case: whole words, in scripts with blanks between words."""
    pictures: PictureReview | None = None
    """Only where a role paints; null: every limit has its default."""
    speech: SpeechReview | None = None
    """Only where a role speaks; null: every limit has its default."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.words_min is not None and self.words_max is not None and self.words_min > self.words_max:
            raise InvalidCampaign(f"words_min must not exceed words_max, got {self.words_min} and {self.words_max}.")
        if any(not folded(term) for term in self.banned_terms):
            raise InvalidCampaign(
                f"banned_terms must not hold an empty term, nor one that nobody sees, got {list(self.banned_terms)!r}."
            )
