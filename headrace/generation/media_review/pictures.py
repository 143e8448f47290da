"""Judges pictures: by what each shows, by the others of its partition, and by true pictures of what it should show.

| rule | rejects |
|---|---|
| unreadable | bytes that are no picture any more |
| blank | pictures in which no channel varies |
| noise | pictures whose neighbouring pixels differ too much |
| near_duplicate | pictures that look like an earlier one; among rows that nothing else rejects the first stays |
| wrong_picture | pictures that are nearer to other captions' true pictures than to their own |

Hashes and contrast are those of data prep's signatures. Its own duplicates are found by other limits: of copies of flat
drawings, where most bits of a hash are chance, those find four fifths. All pairs of a partition are compared, which
takes a second for 10,000 pictures. What is small, or moved by a few pixels, is not seen. A picture is nearest to a true
one by the mean colours of 8 × 8 fields: that tells a fox from a leaf, not a good fox from a bad one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from headrace.generation.media_review.picture_settings import AGREEMENT_RANKS, NearDuplicates, PictureReview

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDE = 8
_PIXELS_MAX = 100_000_000
_WHITE = (255, 255, 255)
# Rows compared with all others at once: of 10,000 pictures 20 MB a matrix.
_BLOCK_ROWS = 256


class TruePictures(Protocol):
    def rank(self, colours_C: np.ndarray, caption: str) -> int | None:  # noqa: N803 (shape letter)
        """How many pictures of other captions are nearer than the nearest of this caption; None: it has none."""
        ...


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Of one picture: `contrast` and `variation` of 255, the perceptual hash of 64 bits, `colours_C` (192,) float32."""

    contrast: float
    variation: float
    coarse_hash: int
    colours_C: np.ndarray  # noqa: N815 (shape letter)


@dataclass(frozen=True, kw_only=True)
class Painted:
    """One row's picture. `measured`: None: it cannot be decoded. `is_rejected`: something else rejects its row."""

    measured: Measured | None
    caption: str
    is_rejected: bool = False


@dataclass(frozen=True, kw_only=True)
class PictureVerdict:
    """The rules that a picture breaks, and what was measured of it, by name."""

    faults: tuple[str, ...]
    figures: dict[str, float]


def measured(content: bytes) -> Measured | None:
    """Raises: InvalidInput: Pillow is not installed."""
    from headrace.prep.images.decoding import check_pillow

    check_pillow()
    picture = decoded(content)
    return None if picture is None else measured_of(picture)


def decoded(content: bytes) -> "Image | None":
    """A picture at its own size, on white where it is transparent; None: the bytes are none."""
    from headrace.prep.images.decoding import Undecodable, decode

    try:
        found = decode(content, lambda width, height: (width, height), pixels_max=_PIXELS_MAX, background=_WHITE)
    except Undecodable:
        return None
    return found.picture


def measured_of(picture: "Image") -> Measured:
    """Args: picture: RGB."""
    from headrace.prep.images.signatures import signature_of

    signature = signature_of(picture, width=picture.width, height=picture.height)
    return Measured(
        contrast=signature.contrast,
        variation=_variation(picture),
        coarse_hash=signature.coarse_hash,
        colours_C=mean_colours(picture),
    )


def mean_colours(picture: "Image") -> np.ndarray:
    """(192,) float32: red, green and blue of 8 × 8 fields, row by row."""
    from PIL.Image import Resampling

    return np.asarray(picture.resize((_SIDE, _SIDE), Resampling.BOX), np.float32).reshape(-1)


def picture_verdicts(
    painted: Sequence[Painted], settings: PictureReview, references: TruePictures | None = None
) -> list[PictureVerdict]:
    """Judges one role's pictures of a partition, in the order of their rows."""
    found = [_alone(one, settings, references) for one in painted]
    if settings.near_duplicates is not None:
        rejected = [one.is_rejected or bool(faults) for one, (faults, _) in zip(painted, found, strict=True)]
        for place in near_duplicates([one.measured for one in painted], rejected, settings.near_duplicates):
            found[place][0].append("near_duplicate")
    return [PictureVerdict(faults=tuple(faults), figures=figures) for faults, figures in found]


def near_duplicates(
    pictures: Sequence[Measured | None], rejected: Sequence[bool], settings: NearDuplicates
) -> list[int]:
    """The places of pictures that look like one that stays: the first of its kind, and one of a kept row if there is.

    A copy of a copy that looks like no picture that stays is none, so chains of small differences do not grow.
    """
    there = [place for place, one in enumerate(pictures) if one is not None]
    order = sorted(there, key=lambda place: (rejected[place], place))
    near = _near_before([pictures[place] for place in order], settings)
    stays = np.ones(len(order), np.bool_)
    for later, earlier in near:
        stays[later] &= not stays[earlier].any()
    return sorted(order[place] for place in np.flatnonzero(~stays))


def _alone(
    one: Painted, settings: PictureReview, references: TruePictures | None
) -> tuple[list[str], dict[str, float]]:
    if one.measured is None:
        return ["unreadable"], {}
    figures = {"contrast": one.measured.contrast, "variation": one.measured.variation}
    faults = []
    if settings.contrast_min is not None and one.measured.contrast < settings.contrast_min:
        faults.append("blank")
    if settings.variation_max is not None and one.measured.variation > settings.variation_max:
        faults.append("noise")
    rank = references.rank(one.measured.colours_C, one.caption) if references else None
    if rank is not None:
        figures |= {"rank": float(rank), "agreement": float(rank < AGREEMENT_RANKS)}
        if settings.rank_max is not None and rank >= settings.rank_max:
            faults.append("wrong_picture")
    return faults, figures


def _near_before(pictures: Sequence[Any], settings: NearDuplicates) -> list[tuple[int, np.ndarray]]:
    """Of each picture that has any: the earlier ones that it looks like, in order."""
    if not pictures:
        return []
    hashes = np.array([one.coarse_hash for one in pictures], np.uint64)
    colours_NC = np.stack([one.colours_C for one in pictures]).astype(np.float64)  # noqa: N806 (shape letters)
    squares = (colours_NC**2).sum(axis=1)
    # Of 192 channels; a little more, since sums of squares round.
    limit = settings.colour_distance_max**2 * colours_NC.shape[1] + 1e-3
    found = []
    for start in range(0, len(pictures), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        apart = squares[block, None] + squares[None, :] - 2 * colours_NC[block] @ colours_NC.T
        is_near = (apart <= limit) & (
            np.bitwise_count(hashes[block, None] ^ hashes[None, :]) <= settings.hash_distance_max
        )
        for offset, row in enumerate(is_near):
            earlier = np.flatnonzero(row[: start + offset])
            if len(earlier):
                found.append((start + offset, earlier))
    return found


def _variation(picture: "Image") -> float:
    values_YXC = np.asarray(picture, np.int16)  # noqa: N806 (shape letters)
    steps = (np.abs(np.diff(values_YXC, axis=axis)) for axis in (0, 1))
    return float(sum(step.mean() for step in steps if step.size))
