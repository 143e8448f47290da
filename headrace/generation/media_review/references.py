"""True pictures with captions, by which a painter's pictures are judged: sealed ones, or files.

Of each picture 192 numbers are kept in memory, 768 bytes. All are read for each partition that is judged: at 32 × 32
pixels 2,000 in half a second. A store's are our own encoding and decoded here; files are decoded by other processes,
since a fault of a decoder ends its process.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from headrace.errors import InvalidCampaign
from headrace.generation.media_review.picture_settings import PictureReview
from headrace.generation.media_review.pictures import decoded, mean_colours, measured
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.versions import HandoffStore

if TYPE_CHECKING:
    from headrace.prep.images.sources import FoundImage
    from headrace.user_files.layout import Unreadable

# What a process may take: three copies of a picture of 100 million pixels at four bytes each, and what it rests at.
_MEMORY_BYTES_MAX = 2 * 2**30


@dataclass(frozen=True, kw_only=True)
class References:
    """Captions, and their pictures' mean colours, (N, 192) float32; a caption may have several pictures."""

    captions: tuple[str, ...]
    colours_NC: np.ndarray  # noqa: N815 (shape letters)

    @classmethod
    def of(cls, pictures: Iterable[tuple[str, np.ndarray]]) -> "References":
        """Args: pictures: captions with mean colours."""
        from headrace.prep.text_keys import text_key

        found = [(text_key(caption), colours) for caption, colours in pictures]
        colours_NC = np.stack([colours for _, colours in found]) if found else np.empty((0, 192), np.float32)  # noqa: N806
        return cls(captions=tuple(caption for caption, _ in found), colours_NC=colours_NC)

    @cached_property
    def digest(self) -> str:
        told = xxhash.xxh3_128("\0".join(self.captions).encode())
        told.update(np.ascontiguousarray(self.colours_NC).tobytes())
        return told.hexdigest()

    @cached_property
    def _places(self) -> dict[str, np.ndarray]:
        places: dict[str, list[int]] = {}
        for place, caption in enumerate(self.captions):
            places.setdefault(caption, []).append(place)
        return {caption: np.array(found) for caption, found in places.items()}

    def rank(self, colours_C: np.ndarray, caption: str) -> int | None:  # noqa: N803 (shape letter)
        """How many pictures of other captions are nearer than the nearest of this caption; None: it has none."""
        from headrace.prep.text_keys import text_key

        own = self._places.get(text_key(caption))
        if own is None:
            return None
        apart = ((self.colours_NC - colours_C) ** 2).sum(axis=1)
        return int((apart < apart[own].min()).sum())


def open_references(settings: PictureReview, handoffs: HandoffStore, home: Path) -> References | None:
    """The references that a campaign names; None: it names none.

    Args:
        home: where globs start.

    Raises:
        InvalidCampaign: there is no picture with a caption.
        InvalidInput: no file matches.
    """
    if settings.references is None:
        return None
    found = _sealed(settings.references, handoffs) if settings.is_asset else _files(settings.references, home)
    references = References.of(found)
    if not references.captions:
        raise InvalidCampaign(
            f"review: pictures: references must have pictures with captions, got {settings.references!r}, in which "
            "there are none. Materialize the asset, or put captions beside the pictures."
        )
    return references


def _sealed(asset: str, handoffs: HandoffStore) -> Iterator[tuple[str, np.ndarray]]:
    for partition in sorted(handoffs.partitions(asset)):
        handoff = handoffs.newest(asset, partition)
        if handoff is None:
            continue
        for item, chunks in MediaSet.open(handoff).contents():
            if item.caption and (found := measured(b"".join(chunks))):
                yield item.caption, found.colours_C


def _files(pattern: str, home: Path) -> Iterator[tuple[str, np.ndarray]]:
    from headrace.prep.images.corpus import ImageCorpus
    from headrace.prep.images.decoding import check_pillow
    from headrace.prep.images.processes import decoding_processes
    from headrace.prep.images.sources import FoundImage, image_files, images_of

    check_pillow()
    corpus = ImageCorpus(name="references", files=(pattern,))
    [shard] = corpus.shard_keys
    files = image_files(corpus, shard, home)
    given = (one for path, _ in files for one in images_of(corpus, path, path.name, shard=None))
    for found, made in decoding_processes().map(colours_of, given, _body_of, memory_bytes_max=_MEMORY_BYTES_MAX):
        if isinstance(found, FoundImage) and found.caption and isinstance(made, np.ndarray):
            yield found.caption, made


def colours_of(body: bytes) -> np.ndarray | None:
    """The mean colours of a picture in a file; None: it is none. In a process of its own."""
    try:
        picture = decoded(body)
    except MemoryError:
        return None
    return None if picture is None else mean_colours(picture)


def _body_of(found: "FoundImage | Unreadable") -> bytes | None:
    return getattr(found, "body", None)
