"""Files for people, outside of any store: each is written whole or not at all, and only a file gives way to it.

What is written has a hidden name beside its target until it is complete. It is not fsynced, since it can be made again.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from headrace.errors import InvalidInput, StoreUnavailable
from headrace.store.objects import new_nonce
from headrace.store.refusals import os_refusal

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


@contextmanager
def renamed_when_whole(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary path beside `target`; renamed to it if the block succeeds, deleted if not.

    A link to a file stays a link: the file that it names is replaced. The new file has the permissions of the old one.

    Raises:
        InvalidInput: `target` exists and may not be overwritten, or is no file. StoreUnavailable: it cannot be written.
    """
    refuse_present(target, overwrite=overwrite)
    place = Path(os.path.realpath(target))
    partial = _beside(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        refuse_present(target, overwrite=overwrite)
        with suppress(FileNotFoundError):
            shutil.copymode(place, partial)
        partial.replace(place)
    except OSError as error:
        raise _refusal(target, error) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def made_when_whole(directory: Path) -> Iterator[Path]:
    """A temporary directory beside `directory`; renamed to it if the block succeeds, deleted if not.

    Raises:
        InvalidInput: there is something already. StoreUnavailable: it cannot be written.
    """
    _refuse_any(directory)
    partial = _beside(directory)
    try:
        partial.mkdir(parents=True)
        yield partial
        _refuse_any(directory)
        partial.rename(directory)
    except OSError as error:
        raise _refusal(directory, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _beside(target: Path) -> Path:
    """A hidden path in the same directory that nobody else has: what is deleted there is the caller's own."""
    # A character takes up to four bytes, and a name 255.
    return target.with_name(f".{target.name[:50]}.partial-{new_nonce()[:12]}")


def refuse_present(target: Path, *, overwrite: bool = False) -> None:
    """Raises: InvalidInput: `target` exists and may not be overwritten, or is neither a file nor a link to one."""
    refuse_special(target)
    if target.is_dir():
        raise InvalidInput(f"{target} is a directory. Name a file in it.")
    if os.path.lexists(target) and not overwrite:
        raise InvalidInput(f"{target} exists. Name another place, or pass --force to overwrite it.")


def refuse_special(target: Path) -> None:
    """Raises: InvalidInput: `target` is a pipe, a device, a socket or a broken link. A rename would destroy it."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        if target.is_symlink():
            raise InvalidInput(
                f"{target} is a link to what is not there: name the file itself, or take the link away."
            ) from None
        return
    except OSError as error:
        raise _refusal(target, error) from error
    if kind := _KINDS.get(stat.S_IFMT(mode)):
        raise InvalidInput(
            f"{target} is {kind}, and only a file is ever replaced: name a file (an export to - goes to a pipe)."
        )


def _refuse_any(target: Path) -> None:
    if os.path.lexists(target):
        raise InvalidInput(f"{target} is there already. Name a place where nothing is, or move it away.")


def _refusal(target: Path, error: OSError) -> StoreUnavailable:
    return os_refusal(error, f"Cannot write {target}: {error.strerror or error}. Nothing of it is left.")
