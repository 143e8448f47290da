"""Items and versions for the tests of media."""

import io
import random
import wave
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from headrace.handoff.media.index import MediaItem
from headrace.handoff.media.publishing import publish_media
from headrace.handoff.versions import Handoff, HandoffStore


def make_item(item_id: str, content: Any = b"pixels", media_type: str = "image/png", **stated: Any) -> MediaItem:
    return MediaItem(item_id=item_id, media_type=media_type, content=content, **stated)


def make_items(bodies: Mapping[str, bytes]) -> Iterator[MediaItem]:
    return (make_item(item_id, body) for item_id, body in bodies.items())


def make_bodies(num_items: int, num_bytes: int = 1000) -> dict[str, bytes]:
    """Bodies of `num_bytes` more or less, none like another."""
    draw = random.Random(7)
    return {f"item-{n:05d}": draw.randbytes(draw.randrange(num_bytes // 2, num_bytes * 2)) for n in range(num_items)}


def publish(handoffs: HandoffStore, items: Iterable[MediaItem], partition: str = "all", **options: Any) -> Handoff:
    return publish_media(handoffs, "pictures", partition, items, code_version="1", run_id="r", **options)


def chunked(body: bytes, num_bytes: int) -> Iterator[bytes]:
    return (body[start : start + num_bytes] for start in range(0, len(body), num_bytes))


def store_files(handoff: Handoff, suffix: str) -> list[Path]:
    """The files of a version's prefix in a local store."""
    return sorted(handoff.objects.local_path(handoff.manifest.parts[0].key).parent.glob(f"*{suffix}"))


def flip(path: Path, place: int) -> None:
    path.chmod(0o644)
    body = bytearray(path.read_bytes())
    body[place] ^= 0x10
    path.write_bytes(body)


def make_wav(num_frames: int = 400) -> bytes:
    body = io.BytesIO()
    with wave.open(body, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"".join((n * 80 % 30000).to_bytes(2, "little", signed=True) for n in range(num_frames)))
    return body.getvalue()


def make_png(color: tuple[int, int, int], pixels: int = 64) -> bytes:
    from PIL import Image

    body = io.BytesIO()
    Image.new("RGB", (pixels, pixels), color).save(body, "PNG")
    return body.getvalue()
