"""Limits of the review's named rules, as stated in a campaign file (`headrace.generation.review` applies them)."""

from dataclasses import dataclass

from headrace.errors import InvalidCampaign
from headrace.text.words import folded


@dataclass(frozen=True, kw_only=True)
class ReviewSettings:
    """The review's limits; null turns a rule off. Rules without a limit are always on."""

    words_min: int | None = 2
    words_max: int | None = 200
    # Share of word trigrams that occurred before in the same output. Fluent English prose stays under 0.1.
    repeated_share_max: float | None = 0.3
    # An output that the token limit cut off.
    reject_truncated: bool = True
    # An output that repeats its prompt or the chat template's markers.
    reject_prompt_leaks: bool = True
    # Words, phrases or signs, matched as written, in any case: whole words, in scripts with blanks between words.
    banned_terms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.words_min is not None and self.words_max is not None and self.words_min > self.words_max:
            raise InvalidCampaign(f"words_min must not exceed words_max, got {self.words_min} and {self.words_max}.")
        if self.repeated_share_max is not None and not 0 <= self.repeated_share_max <= 1:
            raise InvalidCampaign(f"repeated_share_max must be between 0 and 1, got {self.repeated_share_max}.")
        if any(not folded(term) for term in self.banned_terms):
            raise InvalidCampaign(
                f"banned_terms must not hold an empty term, nor one that nobody sees, got {list(self.banned_terms)!r}."
            )
