"""What two version sets made of one prompt, for the rollout's page. Data alone: generation reads the mirrors."""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.text.shown_media import ShownMedia


@dataclass(frozen=True, kw_only=True)
class PairSide:
    """One set's row. `equal`: roles whose part has the other side's bytes, and is shown there alone."""

    text: str
    kept: bool
    rejected_by: tuple[str, ...] = ()
    parts: tuple[ShownMedia, ...] = ()
    equal: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MediaPair:
    prompt: str
    stable: PairSide
    candidate: PairSide


@dataclass(frozen=True, kw_only=True)
class MediaPairs:
    """The shown ones of `num_rows` mirrored rows. `problem`: why there are none, if what is read is damaged."""

    shown: Sequence[MediaPair] = ()
    num_rows: int = 0
    problem: str = ""
