"""The samples of a WebDataset tar: consecutive members with one name up to the first dot of the last part of it.

A tar is read from front to back and nothing is unpacked to a disk, so no member's path can lead anywhere. Members that
are no picture and no caption (other views, masks, embeddings) are passed over.
"""

import json
import tarfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

from headrace.prep.images.decoding import IMAGE_BYTES_MAX
from headrace.user_files.layout import Unreadable

_TEXT_BYTES_MAX = 2**20
_TEXTS = (".txt", ".caption", ".json")

_Member = tuple[str, bytes | None]
Sample = tuple[str, bytes, str | None]  # member, bytes, caption


def samples(path: Path, caption_key: str, image_suffixes: Collection[str]) -> Iterator[Sample | Unreadable]:
    """Each sample's picture and caption, or why it has none; line N is the Nth sample.

    Args:
        caption_key: where a `.json` member has the caption.
        image_suffixes: in lower case, with their dot.
    """
    num_done, group, fault = 0, list[_Member](), None
    try:
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                if member.isdir():
                    continue
                if group and _split(member.name)[0] != _split(group[0][0])[0]:
                    num_done += 1
                    yield _sample(group, num_done, caption_key)
                    group = []
                group.append((member.name, _read(tar, member, image_suffixes)))
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
        fault = error
    if group:
        num_done += 1
        yield _sample(group, num_done, caption_key)
    if fault:
        yield Unreadable(line=0, reason=f"unreadable after {num_done} samples: {fault}", loses_file=True)


def _split(name: str) -> tuple[str, str]:
    """Its key with its directory, and its suffix from the first dot on, in lower case."""
    directory, _, base = name.rpartition("/")
    stem, dot, rest = base.partition(".")
    return f"{directory}/{stem}", f"{dot}{rest}".lower()


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo, image_suffixes: Collection[str]) -> bytes | None:
    """What a sample needs of a member; None: nothing."""
    _, suffix = _split(member.name)
    most = IMAGE_BYTES_MAX + 1 if suffix in image_suffixes else _TEXT_BYTES_MAX if suffix in _TEXTS else 0
    file = tar.extractfile(member) if most and member.isreg() else None
    # Otherwise every header stays in memory.
    tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
    return file.read(most) if file else None


def _sample(group: list[_Member], line: int, caption_key: str) -> Sample | Unreadable:
    bodies = {name: body for name, body in group if body is not None}
    texts = {_split(name)[1]: body for name, body in bodies.items() if _split(name)[1] in _TEXTS}
    pictures = [name for name in bodies if _split(name)[1] not in _TEXTS]
    first = group[0][0]
    if len(pictures) != 1:
        got = f"{len(pictures)} pictures" if pictures else "no picture"
        return Unreadable(line=line, reason=f"its sample has {got}, wanted one", excerpt=first)
    try:
        caption = _caption(texts, caption_key)
    except ValueError as error:
        return Unreadable(line=line, reason=str(error), excerpt=first)
    return pictures[0], bodies[pictures[0]], caption


def _caption(texts: dict[str, bytes], caption_key: str) -> str | None:
    for suffix in (".txt", ".caption"):
        if suffix in texts:
            try:
                return texts[suffix].decode("utf-8-sig")
            except UnicodeDecodeError:
                raise ValueError(f"its caption {suffix} is not UTF-8") from None
    if ".json" not in texts:
        return None
    try:
        described = json.loads(texts[".json"])
    except (ValueError, RecursionError):
        raise ValueError("its .json is not JSON") from None
    caption = described.get(caption_key) if isinstance(described, dict) else None
    if caption is not None and not isinstance(caption, str):
        raise ValueError(f"key {caption_key!r} of its .json must be a string, got {type(caption).__name__}")
    return caption
