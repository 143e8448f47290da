"""File names for media items: each id gets its own name, valid on every file system."""

import mimetypes
from urllib.parse import quote

import xxhash

# Common file systems limit names to 255 bytes; suffixes and temporary names need some room.
_STEM_CHARS = 200
# The library's own table alone: a machine's /etc/mime.types must not influence the names.
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
    """Keeps letters, digits, `-`, `_`, `=`, `,`, `@`, `+` and spaces, and %-encodes the rest: dots too, since
    WebDataset ends an item's key at the first one. A long id keeps its beginning, and gets a digest to stay unique.
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
