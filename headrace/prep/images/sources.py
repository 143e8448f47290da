"""Finds the pictures of one shard and their captions, in folders, tars and tables; what cannot be read says why.

| a file's name ends with | it holds | caption |
|---|---|---|
| `.jpg`, `.png`, `.webp` and the like | one picture | `NAME.txt` or `NAME.caption` |
| `.tar`, `.tar.gz` | WebDataset samples: members with one name up to the first dot | as above, or in `NAME.json` |
| `.jsonl`, `.csv`, `.tsv` | rows with the path of a picture | its column |
| `.parquet` | rows with a picture, or its path | its column |

Text beside pictures (`.txt`, `.caption`, `.json`) is passed over where a glob takes it along. One picture is in memory
at a time; nothing is unpacked to a disk. Whether the bytes are a picture is not known here.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import InvalidInput
from headrace.prep.images.corpus import ImageCorpus
from headrace.prep.images.decoding import IMAGE_BYTES_MAX
from headrace.prep.images.tables import rows_of_table
from headrace.prep.images.tars import CAPTION_BYTES_MAX, caption_text, samples
from headrace.prep.sources import named_for_another, source_name
from headrace.prep.text_keys import bucket
from headrace.user_files.finding import found_files
from headrace.user_files.layout import Unreadable

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
)
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
# Whose rows name pictures in other files; Parquet mostly holds them itself.
_LIST_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv")
_PARQUET = ".parquet"
_CAPTION_SUFFIXES = (".txt", ".caption")
_BESIDE = (*_CAPTION_SUFFIXES, ".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundImage:
    """`file`: as the quarantine names it; `line`: of a table or tar, else 0; `member`: the picture's own name, in them.

    `body`: at most IMAGE_BYTES_MAX bytes, of whatever.
    """

    file: str
    line: int
    member: str | None
    body: bytes
    caption: str | None


def images_of(corpus: ImageCorpus, path: Path, name: str, *, shard: str | None) -> Iterator[FoundImage | Unreadable]:
    """The pictures of one file.

    Args:
        name: what the file is called in what is made.
        shard: of a list of paths only the rows that this shard is dealt; None: all.
    """
    kind = kind_of_file(path)
    if kind == "image":
        yield _image(path, name)
    elif kind == "tar":
        for line, found in enumerate(samples(path, corpus.columns["caption"], IMAGE_SUFFIXES), start=1):
            if isinstance(found, Unreadable):
                yield found
            else:
                member, body, caption = found
                yield FoundImage(file=name, line=line, member=member, body=body, caption=caption)
    else:
        for row in rows_of_table(path, corpus.columns, is_parquet=kind == "parquet"):
            if isinstance(row, Unreadable):
                if shard is None or _is_dealt(corpus, f"{name}:{row.line}", shard):
                    yield row
                continue
            line, image, caption = row
            if isinstance(image, bytes):
                yield FoundImage(file=name, line=line, member=None, body=image, caption=caption)
            elif shard is None or _is_dealt(corpus, f"{name}:{image}", shard):
                yield _image_of_row(path.parent, name, line, image, caption)


def image_files(corpus: ImageCorpus, shard: str, home: Path) -> list[tuple[Path, str | None]]:
    """One shard's files, sorted, each with the shard whose rows alone are read of it (None: every row).

    Raises:
        InvalidInput: nothing matches, or a file's name does not tell what it is.
    """
    chosen: dict[Path, str | None] = {}
    elsewhere = named_for_another(corpus, shard, home)
    num_matched = 0
    for pattern, names_shard in corpus.globs(shard):
        for path in found_files(pattern, home):
            kind = kind_of_file(path)
            if kind == "beside":
                continue
            num_matched += 1
            if names_shard:
                chosen[path] = None
            elif path in elsewhere:
                continue
            elif kind == "list":
                # So that a folder with one list of all its pictures is read by all shards.
                chosen.setdefault(path, shard)
            elif _is_dealt(corpus, source_name(path, home), shard):
                chosen[path] = None
    if not num_matched:
        patterns = ", ".join(str(home / pattern) for pattern, _ in corpus.globs(shard))
        raise InvalidInput(
            f"No picture, tar or table of images {corpus.name} matches {patterns}, wanted at least one for {shard}."
        )
    return sorted(chosen.items())


def _is_dealt(corpus: ImageCorpus, key: str, shard: str) -> bool:
    return corpus.shard_keys[bucket(key, corpus.num_shards)] == shard


def kind_of_file(path: Path) -> str:
    """`image`, `tar`, `list`, `parquet`, or `beside` for text that belongs to pictures.

    Raises:
        InvalidInput: its name does not tell.
    """
    name = path.name.casefold()
    if path.suffix.casefold() in IMAGE_SUFFIXES:
        return "image"
    for kind, suffixes in (("tar", _TAR_SUFFIXES), ("list", _LIST_SUFFIXES), ("beside", _BESIDE)):
        if name.endswith(suffixes):
            return kind
    if name.endswith(_PARQUET):
        return "parquet"
    raise InvalidInput(
        f"{path} does not tell by its name what it holds, wanted {', '.join(sorted(IMAGE_SUFFIXES))}, .tar, .tar.gz, "
        ".jsonl, .csv, .tsv or .parquet: name it so, or narrow the glob that matches it."
    )


def _image(path: Path, name: str) -> FoundImage | Unreadable:
    try:
        caption = _caption_beside(path)
        return FoundImage(file=name, line=0, member=None, body=_body(path, IMAGE_BYTES_MAX), caption=caption)
    except (OSError, ValueError) as error:
        return Unreadable(line=0, reason=_reason(error))


def _image_of_row(directory: Path, name: str, line: int, image: str, caption: str | None) -> FoundImage | Unreadable:
    place = directory / image
    try:
        # A list that somebody else wrote must not bring in this machine's other files.
        if not place.resolve().is_relative_to(directory.resolve()):
            return Unreadable(line=line, reason=_outside(image), excerpt=image)
        return FoundImage(file=name, line=line, member=image, body=_body(place, IMAGE_BYTES_MAX), caption=caption)
    except (OSError, ValueError) as error:
        return Unreadable(line=line, reason=_reason(error), excerpt=image)
    except RuntimeError:
        # `resolve`, until Python 3.13.
        return Unreadable(line=line, reason="cannot be read: its path is a loop of links", excerpt=image)


def _outside(image: str) -> str:
    if Path(image).is_absolute() or Path(os.path.normpath(image)).parts[:1] == ("..",):
        return "names a picture outside of the table's directory"
    return "is a link out of the table's directory: copy that with `cp -RL`, which follows links, and name the copy"


def _body(path: Path, most: int) -> bytes:
    """One byte more than may be, so that it is refused and no file fills the memory.

    Raises:
        ValueError: it is no regular file.
    """
    # Opening a pipe would wait for a writer.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("is a pipe or device, wanted a regular file")
        return file.read(most + 1)


def _caption_beside(path: Path) -> str | None:
    """The first caption that says something.

    Raises:
        ValueError: it is no UTF-8, or no caption by its size.
    """
    found = None
    for suffix in _CAPTION_SUFFIXES:
        # Programs that name a picture in capitals name its caption so.
        for spelled in (suffix, suffix.upper(), suffix.title()):
            beside = path.with_suffix(spelled)
            if beside.is_file():
                found = caption_text(beside.name, _body(beside, CAPTION_BYTES_MAX))
                if found.strip():
                    return found
    return found


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return str(error)
