"""Limits of the rules for recordings, as stated in a campaign file (`headrace.generation.media_review.speech`).

Their defaults lie between what true recordings measure and what faults do (`python -m benchmarks.modalities --gates`).
"""

import importlib.util
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from headrace.errors import InvalidCampaign
from headrace.user_files.ranges import check_ranges

_HEARD = "en"


@dataclass(frozen=True, kw_only=True)
class SpeechReview:
    """The limits of the rules for recordings; null turns a rule off. The last two listen to what was said."""

    loudness_min: Annotated[float, Ge(0), Le(1)] | None = 0.005
    """`silent`: recordings whose root mean square is lower, of full scale. Speech has 0.02 to 0.2."""
    loudness_variation_min: Annotated[float, Ge(0)] | None = 0.33
    """`noise`: recordings whose loudness varies less, by the deviation over its 32 ms pieces, of their mean. Speech has
    0.8 or more, steady noise of any colour and hums up to 0.31."""
    sounding_share_min: Annotated[float, Ge(0), Le(1)] | None = 0.18
    """`clicks`: recordings of which nine tenths of the energy lie in a smaller share of their time, in moments of 4 ms;
    of the time that their text may take, where they last longer. Speech has 0.22 or more, 25 clicks a second 0.16."""
    clipped_share_max: Annotated[float, Ge(0), Le(1)] | None = 0.001
    """`clipped`: recordings of which more samples are cut off, at full scale or at their own highest level."""
    characters_a_second_min: Annotated[float, Ge(0)] | None = 8.0
    """`too_long`: recordings that say fewer characters of their text a second, at speed 1, one second aside."""
    characters_a_second_max: Annotated[float, Gt(0)] | None = 20.0
    """`too_short`: recordings that would have to say more, at speed 1: half of the sentence is missing."""
    heard_share_min: Annotated[float, Ge(0), Le(1)] | None = None
    """`unfinished`: recordings in which fewer letters are heard than this share of the text's. 0.78 tells half a
    sentence from a whole one; null: nobody listens. Needs `headrace[ears]`."""
    character_error_rate_max: Annotated[float, Ge(0)] | None = None
    """`wrong_words`: recordings of which something else is heard, by how many of the text's letters are wrong. 0.55
    tells another text from the right one, which an offline recognizer mishears; null: nobody listens. Needs
    `headrace[ears]`."""
    language: str = _HEARD
    """Of the texts. Who listens knows English (en) alone: for others the two rules that listen must be null."""

    def __post_init__(self) -> None:
        check_ranges(self)
        low, high = self.characters_a_second_min, self.characters_a_second_max
        if low is not None and high is not None and low >= high:
            raise InvalidCampaign(
                f"characters_a_second_min must be below characters_a_second_max, got {low:g} and {high:g}."
            )
        if self.listens and self.language != _HEARD:
            raise InvalidCampaign(
                f"language must be {_HEARD} where heard_share_min or character_error_rate_max is set, since the "
                f"recognizer knows English alone, got {self.language!r}. Set both to null."
            )
        if self.listens and (missing := [name for name in ("pocketsphinx", "rapidfuzz") if not _is_there(name)]):
            raise InvalidCampaign(
                f"heard_share_min and character_error_rate_max need {' and '.join(missing)}, which is not installed. "
                "Run pip install 'headrace[ears]', or set both to null."
            )

    @property
    def listens(self) -> bool:
        """Whether a rule needs to know what was said."""
        return self.heard_share_min is not None or self.character_error_rate_max is not None

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that are on, by name."""
        limits = {
            "silent": self.loudness_min,
            "noise": self.loudness_variation_min,
            "clicks": self.sounding_share_min,
            "clipped": self.clipped_share_max,
            "too_long": self.characters_a_second_min,
            "too_short": self.characters_a_second_max,
            "unfinished": self.heard_share_min,
            "wrong_words": self.character_error_rate_max,
        }
        return ("unreadable", *(rule for rule, limit in limits.items() if limit is not None))


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
