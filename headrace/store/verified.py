"""Checks digests once per machine and set of files, not at each opening.

A mark records inode, size and times of files that were found whole. Any write changes one of these, so the next opening
checks again. A mark cannot see a disk that rots under an unchanged inode. `verify` methods read every byte, whatever
the marks say.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from headrace.store.objects import ObjectStore, new_nonce


def verified_once(store: ObjectStore, name: str, paths: Sequence[Path], verify: Callable[[], None]) -> None:
    """Calls `verify`, which raises if the files are damaged, unless this machine found these files whole before."""
    mark = store.node_directory() / "verified" / quote(name, safe="")
    stamps = _stamps(paths)
    if stamps is not None and _read(mark) == stamps:
        return
    verify()
    # Stamps from before the check: the next opening notices a write that fell into it.
    if stamps is not None:
        _write(mark, stamps)


def _stamps(paths: Sequence[Path]) -> list[list[int | str]] | None:
    try:
        states = [(path.name, path.stat()) for path in paths]
    except OSError:
        return None
    return [[name, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns] for name, state in states]


def _read(mark: Path) -> object:
    try:
        return json.loads(mark.read_bytes())
    except (OSError, ValueError):  # no mark, or a torn one after a crash: check again
        return None


def _write(mark: Path, stamps: list[list[int | str]]) -> None:
    temporary = mark.with_name(new_nonce())
    # A mark only saves time: without write permission or disk space, each opening checks again.
    with suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(stamps))
        temporary.replace(mark)
        return
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
