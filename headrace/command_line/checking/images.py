"""What an images file that can be read will do: the files of its shards, the first picture and caption, what fits."""

from itertools import chain, islice
from pathlib import Path

from headrace.command_line.checking.corpora import ExaminedCorpus, matched_files
from headrace.command_line.checking.report import FileFinding, finding
from headrace.command_line.output import counted
from headrace.errors import InvalidInput
from headrace.prep.images.corpus import ImageCorpus
from headrace.prep.images.decoding import Undecodable, check_pillow, decode
from headrace.prep.images.sources import FoundImage, images_of, kind_of_file
from headrace.user_files.layout import Unreadable

# So many pictures tell whether columns, captions and sizes are right; decoding one takes about 10 ms.
_PICTURES_READ = 20
_FILES_LOOKED_AT = 200


def examine_images(corpus: ImageCorpus, home: Path) -> ExaminedCorpus:
    """Args:
    home: where relative files start.
    """
    try:
        check_pillow()
        files, findings = matched_files(corpus, home)
        files = [path for path in files if kind_of_file(path) != "beside"]
        findings = [one for one in findings if one.level != "ok"]
        several = f"{counted(len(files), 'file')} with pictures for {counted(corpus.num_shards, 'shard')}."
        if not files:
            findings += [] if findings else [finding("files", "fail", several, key="files")]
            return ExaminedCorpus(findings=tuple(findings))
        findings.append(finding("files", "ok", several))
        example, said = _pictures(corpus, files)
        return ExaminedCorpus(findings=(*findings, *said), example=example)
    except InvalidInput as error:
        return ExaminedCorpus(findings=(finding("files", "fail", str(error), key="files"),))


def _pictures(corpus: ImageCorpus, files: list[Path]) -> tuple[str | None, list[FileFinding]]:
    """The first picture in words, and how many of the first ones can be read, have a caption, and are large enough."""
    found = chain.from_iterable(
        ((path, one) for one in images_of(corpus, path, str(path), shard=None)) for path in files[:_FILES_LOOKED_AT]
    )
    shown: list[str] = []
    faults: list[str] = []
    num_uncaptioned = 0
    for path, one in islice(found, _PICTURES_READ):
        try:
            if isinstance(one, Unreadable):
                raise Undecodable(one.reason)
            shown.append(_in_words(corpus, one))
            num_uncaptioned += not (one.caption or "").strip()
        except Undecodable as error:
            faults.append(f"{path}{f', number {one.line},' if one.line else ''} {error}")
    num = len(shown) + len(faults)
    if not num:
        return None, [finding("records", "warn", f"{files[0]} has no picture.")]
    many = len(faults) / num > corpus.quarantine_share_max
    if faults:
        key = "columns" if "column" in faults[0] else "files"
        sentence = f"{len(faults)} of the first {num} cannot be used: {faults[0]}."
        said = [finding("records", "fail" if many else "warn", sentence, key=key)]
    else:
        said = [finding("records", "ok", f"the first {counted(num, 'picture')} can be decoded.")]
    if num_uncaptioned:
        level = "fail" if num_uncaptioned / num > corpus.dropped_share_max else "warn"
        sentence = f"{num_uncaptioned} of the first {num} have no caption, and are dropped."
        said.append(finding("captions", level, sentence, key="columns"))
    return next(iter(shown), None), said


def _in_words(corpus: ImageCorpus, found: FoundImage) -> str:
    decoded = decode(
        found.body,
        corpus.resize.scaled_size,
        pixels_max=corpus.decode_pixels_max,
        background=corpus.background_rgb,
    )
    width, height = corpus.resize.sealed_size(decoded.width, decoded.height)
    caption = "no caption" if found.caption is None else repr(found.caption.strip())
    place = found.file if found.member is None else f"{found.file} {found.member}"
    return (
        f"{place}: {decoded.format}, {decoded.width} x {decoded.height}, sealed as {corpus.resize.encode} of "
        f"{width} x {height}\n{caption}"
    )
