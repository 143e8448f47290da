"""File names for media items: from any id to a name that every file system takes, each id its own."""

import mimetypes
from urllib.parse import quote

import xxhash

# Names of 255 bytes are the limit of common file systems; suffixes and temporary names need some room.
_STEM_CHARS = 200
# The library's own table alone: what a machine has in /etc/mime.types must not name the files.
_TYPES = mimetypes.MimeTypes()
_SUFFIXES = {
    "audio/flac": "flac",
    "audio/mp4": "m4a",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "image/jpeg": "jpg",
    "image/tiff": "tiff",
    "image/webp": "webp",
    "text/plain": "txt",
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/webm": "webm",
}


def file_stem(item_id: str) -> str:
    """Letters, digits, `-`, `_`, `=`, `,`, `@`, `+` and spaces stay, all else is %-encoded: dots too, since
    WebDataset ends an item's key at the first one. Of a long id the beginning stays, and a digest tells it from others.
    """
    stem = quote(item_id, safe="-_=,@+ ").replace(".", "%2E").replace("~", "%7E")
    if len(stem) > _STEM_CHARS:
        stem = f"{stem[: _STEM_CHARS - 33]}~{xxhash.xxh3_128_hexdigest(item_id.encode())}"
    return stem


def file_suffix(media_type: str) -> str:
    """`png` for image/png, without a dot; `bin` for types without a usual one."""
    return _SUFFIXES.get(media_type) or (_TYPES.guess_extension(media_type) or ".bin").removeprefix(".")


def file_name(item_id: str, media_type: str) -> str:
    return f"{file_stem(item_id)}.{file_suffix(media_type)}"
