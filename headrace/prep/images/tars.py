"""The samples of a WebDataset tar: consecutive members with one name up to the first dot of the last part of it.

A tar is read from front to back and nothing is unpacked to a disk, so no member's path can lead anywhere. Members that
are no picture and no caption (other views, masks, embeddings) are passed over.

A tar has no list of what is in it: only the zeros at its end tell that nothing is missing. Without them, with anything
behind them, or at a header that is damaged, the rest counts as lost. Of a sample one picture is in memory.
"""

import gzip
import json
import tarfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tarfile import EOFHeaderError, HeaderError, ReadError  # pyright: ignore[reportAttributeAccessIssue]
from typing import IO, Any, Self

from headrace.prep.images.decoding import IMAGE_BYTES_MAX
from headrace.prep.sources import name_as_text
from headrace.user_files.json_objects import JsonObjects
from headrace.user_files.layout import Unreadable

CAPTION_BYTES_MAX = 2**20
_TEXTS = (".txt", ".caption", ".json")
_GZIP = b"\x1f\x8b"
# The most that deflate expands.
_GZIP_RATIO_MAX = 1032
# Headers that hold names and are read whole.
_NAMING = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_NAMES_BYTES_MAX = 2**20
_BLOCK_BYTES = 2**20

Sample = tuple[str, bytes, str | None]  # member, bytes, caption


class _Header(tarfile.TarInfo):
    """A member's header. `tarfile` takes a damaged one for the end of the tar, and memory for names of any length."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except EOFHeaderError:
            raise
        except HeaderError as error:
            raise ReadError(str(error)) from None

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _NAMING and header.size > _NAMES_BYTES_MAX:
            raise ReadError(f"a name of {header.size:,} bytes, the most that is read is {_NAMES_BYTES_MAX:,}")
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise ReadError("a sparse file, which is not read")
        return header


@dataclass(slots=True, kw_only=True)
class _Group:
    """The members of one sample that count. `first`: its first member's name; of several pictures only one is kept."""

    first: str
    num_pictures: int = 0
    picture: tuple[str, bytes] = ("", b"")
    texts: dict[str, bytes] = field(default_factory=dict)
    repeated: str | None = None
    link: str | None = None

    def add(self, name: str, tar: tarfile.TarFile, member: tarfile.TarInfo, image_suffixes: Collection[str]) -> None:
        suffix = _split(name)[1]
        if suffix not in image_suffixes and suffix not in _TEXTS:
            return
        if not member.isreg():
            self.link = name
        elif suffix in image_suffixes:
            self.num_pictures += 1
            if self.num_pictures == 1:
                self.picture = name, _read(tar, member, IMAGE_BYTES_MAX)
        elif suffix in self.texts:
            self.repeated = suffix
        else:
            self.texts[suffix] = _read(tar, member, CAPTION_BYTES_MAX)

    def sample(self, line: int, caption_key: str) -> Sample | Unreadable:
        try:
            if self.link:
                raise ValueError(
                    f"its member {self.link} is a link, wanted the file itself: pack it with `tar --dereference "
                    "--hard-dereference`"
                )
            if self.num_pictures != 1:
                got = f"{self.num_pictures} pictures" if self.num_pictures else "no picture"
                raise ValueError(f"its sample has {got}, wanted one")
            if self.repeated:
                raise ValueError(f"its sample has several {self.repeated}, wanted one")
            return *self.picture, _caption(self.texts, caption_key)
        except ValueError as error:
            return Unreadable(line=line, reason=str(error), excerpt=self.first)


def samples(path: Path, caption_key: str, image_suffixes: Collection[str]) -> Iterator[Sample | Unreadable]:
    """Each sample's picture and caption, or why it has none; line N is the Nth sample.

    Args:
        caption_key: where a `.json` member has the caption.
        image_suffixes: in lower case, with their dot.
    """
    num_done, group, fault = 0, None, None
    try:
        for tar, member in _members(path):
            name = name_as_text(member.name)
            if group and _split(name)[0] != _split(group.first)[0]:
                num_done += 1
                yield group.sample(num_done, caption_key)
                group = None
            started = group or _Group(first=name)
            started.add(name, tar, member, image_suffixes)
            group = started
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        fault = error
    if group:
        num_done += 1
        yield group.sample(num_done, caption_key)
    if fault:
        yield Unreadable(line=0, reason=f"unreadable after {num_done} samples: {fault}", loses_file=True)


def _members(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Raises: TarError and others: it is damaged, or is not at its end where it says so."""
    with path.open("rb") as file:
        is_gzip = file.read(2) == _GZIP
        file.seek(0)
        size_max = path.stat().st_size * (_GZIP_RATIO_MAX if is_gzip else 1)
        # Not tarfile's own reader: that one knows no checksum, and takes the first of several streams for all.
        body: IO[bytes] = gzip.open(file) if is_gzip else file  # pyright: ignore[reportAssignmentType]  # noqa: SIM115
        with tarfile.open(fileobj=body, mode="r|", tarinfo=_Header, encoding="utf-8") as tar:
            for member in tar:
                if member.size > size_max:
                    # Seeking to its end would take for ever.
                    raise ReadError(f"a member of {member.size:,} bytes in a file that cannot hold it")
                if not member.isdir():
                    yield tar, member
                # Otherwise every header stays in memory.
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
            stream: Any = tar.fileobj
            while rest := stream.read(_BLOCK_BYTES):
                if rest.count(0) != len(rest):
                    raise ReadError("more behind its end, such as of another tar")


def _split(name: str) -> tuple[str, str]:
    """Its key with its directory, and its suffix from the first dot on, in lower case."""
    directory, _, base = name.rpartition("/")
    stem, dot, rest = base.partition(".")
    return f"{directory}/{stem}", f"{dot}{rest}".lower()


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> bytes:
    """One byte more than may be, so that a longer one is not taken for whole."""
    file = tar.extractfile(member)
    # `read` takes the memory for as much as it is asked for.
    return file.read(min(most + 1, member.size)) if file else b""


def caption_text(name: str, body: bytes) -> str:
    """Raises: ValueError: it is no UTF-8, or no caption by its size."""
    _check_size(name, body)
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"its caption {name} is not UTF-8") from None


def _check_size(name: str, body: bytes) -> None:
    if len(body) > CAPTION_BYTES_MAX:
        raise ValueError(f"its caption {name} has more than {CAPTION_BYTES_MAX:,} bytes, the most that is read")


def _caption(texts: dict[str, bytes], caption_key: str) -> str | None:
    """The first caption that says something."""
    found = None
    for suffix in (".txt", ".caption", ".json"):
        if suffix not in texts:
            continue
        if suffix == ".json":
            caption = _caption_in_json(texts[suffix], caption_key)
        else:
            caption = caption_text(suffix, texts[suffix])
        if caption and caption.strip():
            return caption
        found = caption if found is None else found
    return found


def _caption_in_json(body: bytes, caption_key: str) -> str | None:
    _check_size(".json", body)
    objects = JsonObjects()
    try:
        described = objects.read(body.decode(json.detect_encoding(body)))
    except (ValueError, RecursionError):
        raise ValueError("its .json is not JSON") from None
    if caption_key in objects.repeated_in(described):
        raise ValueError(f"key {caption_key!r} stands twice in its .json, wanted once")
    caption = described.get(caption_key) if isinstance(described, dict) else None
    if caption is not None and not isinstance(caption, str):
        raise ValueError(f"key {caption_key!r} of its .json must be a string, got {type(caption).__name__}")
    return caption
