"""Exports media, exports to stdout, and replaces an existing target."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from headrace.command_line.output import counted, progress
from headrace.errors import InvalidInput
from headrace.handoff.export import Rows, export_file, write_rows
from headrace.handoff.sealed import Handoff
from headrace.store.objects import new_nonce
from headrace.store.whole_files import refuse_special
from headrace.text.terminal import say

SUFFIXES = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".tar": "webdataset",
}
MEDIA_FORMATS = ("folder", "webdataset", "parquet")


def format_for(file_format: str | None, target: str, formats: Sequence[str]) -> str:
    """The format that was asked for, else the one of the target's suffix.

    Args:
        formats: those of the command.

    Raises:
        InvalidInput: neither says one, or it is none of these.
    """
    chosen = file_format or SUFFIXES.get(Path(target).suffix)
    if chosen is None:
        raise InvalidInput(f"--format is needed: {target!r} has none of the suffixes {', '.join(SUFFIXES)}.")
    if chosen not in formats:
        raise InvalidInput(f"--format must be one of {', '.join(formats)}, got {chosen!r}.")
    return chosen


def refuse_stdout(target: Path, what: str) -> None:
    """Raises: InvalidInput: `target` is `-`, and files of this kind are not one stream."""
    if str(target) == "-":
        raise InvalidInput(f"{what} cannot go to stdout: name a place on a disk.")


def export_file_as(chosen: str, *, columns: list[str] | None, force: bool, verbatim: bool) -> Callable[..., Path]:
    """`export_file` with what the options say; it refuses a format that does not exist."""
    return partial(
        export_file,
        file_format=chosen,  # pyright: ignore[reportArgumentType]
        columns=columns,
        overwrite=force,
        verbatim=verbatim,
    )


def write_to_stdout(
    rows: Rows, chosen: str, names: list[str] | None, advance: Callable[[int], None], *, verbatim: bool
) -> None:
    # Texts are written whole, and could send control codes to a terminal.
    if sys.stdout.isatty():
        raise InvalidInput(f"{chosen} is not for terminals: name a file, pipe it on, or use headrace handoff show.")
    write_rows(
        rows,
        sys.stdout.buffer,
        chosen,  # pyright: ignore[reportArgumentType]
        columns=names,
        verbatim=verbatim,
        progress=advance,
    )
    sys.stdout.buffer.flush()


def export_media(handoff: Handoff, target: Path, chosen: str, *, force: bool) -> None:
    from headrace.handoff.media.exporting import export_folder, export_parquet, export_webdataset
    from headrace.handoff.media.reading import MediaSet

    refuse_stdout(target, "Media")
    if chosen == "webdataset" and force and "%" in target.name:
        raise InvalidInput("--force does not go with webdataset: move the old shards away, or choose another pattern.")
    export = {"folder": export_folder, "webdataset": export_webdataset, "parquet": export_parquet}[chosen]
    done = 0
    with progress("exporting", handoff.num_rows, in_bytes=False) as advance, moved_away(target, force=force):

        def tell(num_done: int, num_items: int) -> None:
            nonlocal done
            advance(num_done - done)
            done = num_done

        export(MediaSet.open(handoff), target, progress=tell)
    say(f"{target}: {counted(handoff.num_rows, 'item')} of {handoff.label}.", error=True)


@contextmanager
def moved_away(target: Path, *, force: bool) -> Iterator[None]:
    """With `force`, moves an existing target aside, and restores it if the block fails.

    Raises: InvalidInput: it is a pipe, a device or a socket, or a directory with other things than an export.
    """
    refuse_special(target)
    if not (force and os.path.lexists(target)):
        yield
        return
    from headrace.handoff.media.exporting import METADATA

    tables = (target / METADATA, *target.glob(f"*/{METADATA}"))
    if target.is_dir() and any(target.iterdir()) and not any(table.is_file() for table in tables):
        raise InvalidInput(
            f"{target} is a directory without {METADATA}, so it is no earlier export, and --force would delete what is "
            "in it: name another place."
        )
    # A name of its own, which `.` has not.
    target = target.resolve() if target.name in ("", "..") else target
    aside = target.with_name(f".{target.name[:50]}.replaced-{new_nonce()[:12]}")
    target.rename(aside)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            aside.rename(target)
        raise
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink()
