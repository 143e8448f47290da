"""What `python -m benchmarks.images` measures: one side reads a folder of pictures in a process of its own.

`headrace`: what raw_images and image_signatures do. `pillow`: what scripts do with Pillow and ImageHash: decode,
resize, hash, encode, into a tar; without limits, profiles, orientation or digests.
"""

import io
import json
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path


def headrace(source: Path, target: Path, pixels: int) -> int:
    from headrace.handoff.media.publishing import publish_media
    from headrace.handoff.versions import HandoffStore
    from headrace.prep.images.corpus import ImageCorpus
    from headrace.prep.images.reading import ImageReading
    from headrace.prep.images.resizing import Resize
    from headrace.store.local import LocalStore

    corpus = ImageCorpus(name="pictures", files=("*",), resize=Resize(pixels=pixels))
    reading = ImageReading(corpus, "shard-00", source)
    handoffs = HandoffStore(LocalStore(target))
    publish_media(handoffs, "raw_images", "shard-00", reading.items(), code_version="1", run_id="r")
    return reading.read().documents.num_rows


def pillow(source: Path, target: Path, pixels: int) -> int:
    import imagehash
    from PIL import Image

    num = 0
    with tarfile.open(target, "w") as tar:
        for path in sorted(source.glob("*.*")):
            if path.suffix == ".txt":
                continue
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
            shrunk = min(1.0, pixels / max(picture.size))
            picture = picture.resize([round(side * shrunk) for side in picture.size], Image.Resampling.LANCZOS)
            imagehash.phash(picture)
            imagehash.phash(picture, hash_size=16)
            body = io.BytesIO()
            picture.save(body, "JPEG", quality=92, subsampling=0)
            header = tarfile.TarInfo(path.name)
            header.size = body.tell()
            body.seek(0)
            tar.addfile(header, body)
            num += 1
    return num


SIDES: Mapping[str, Callable[[Path, Path, int], int]] = {"headrace": headrace, "pillow": pillow}


def main() -> None:
    task = json.loads(sys.argv[1])
    num = SIDES[task["side"]](Path(task["source"]), Path(task["target"]), task["pixels"])
    print(json.dumps({"num_images": num}))


if __name__ == "__main__":
    main()
