"""What one picture's bytes become: the sealed picture and its signature, or the reason why there is none."""

from dataclasses import dataclass

from headrace.prep.images.decoding import Undecodable, decode
from headrace.prep.images.resizing import Resize
from headrace.prep.images.signatures import Signature, signature_of

# At most three copies at four bytes a pixel are held at once, beside the file, its metadata and the sealed picture.
_BYTES_A_PIXEL = 16
_OTHER_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """`content`: as it is sealed, `width` x `height` pixels. `source_width`, `source_height`: of the file, upright."""

    content: bytes
    width: int
    height: int
    source_width: int
    source_height: int
    format: str
    is_animated: bool
    signature: Signature


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Makes it; the settings are those of `decode` and of the sealed size. Can be pickled."""

    resize: Resize
    pixels_max: int
    background: tuple[int, int, int]

    @property
    def memory_bytes_max(self) -> int:
        """How much memory a picture may take that has as many pixels as may be."""
        return _BYTES_A_PIXEL * self.pixels_max + _OTHER_BYTES

    def __call__(self, body: bytes) -> Prepared | str:
        try:
            return self._prepared(body)
        except (Undecodable, MemoryError) as error:
            needs = f"needs more than {self.memory_bytes_max:,} bytes of memory to be decoded"
            return needs if isinstance(error, MemoryError) else str(error)

    def _prepared(self, body: bytes) -> Prepared:
        decoded = decode(body, self.resize.scaled_size, pixels_max=self.pixels_max, background=self.background)
        sealed = self.resize.cut(decoded.picture, decoded.width, decoded.height)
        return Prepared(
            content=self.resize.encoded(sealed),
            width=sealed.width,
            height=sealed.height,
            source_width=decoded.width,
            source_height=decoded.height,
            format=decoded.format,
            is_animated=decoded.is_animated,
            signature=signature_of(decoded.picture, width=decoded.width, height=decoded.height),
        )
