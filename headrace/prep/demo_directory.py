"""A directory of the demo's data, which is written whole or not at all, and only where it is not there already."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

_STAMP_FILE = "complete.json"


def write_stamped(out: Path, stamp: Mapping[str, object], write: Callable[[Path], object]) -> bool:
    """Has `write` fill a new directory, and puts it in the place of `out`; False if `out` has this stamp already.

    Args:
        stamp: what decides the files, as JSON holds it.
    """
    if _stamp_of(out) == stamp:
        return False

    def write_all(whole: Path) -> None:
        whole.mkdir()
        write(whole)
        (whole / _STAMP_FILE).write_text(json.dumps(stamp) + "\n", encoding="utf-8")

    _replace(out, write_all)
    return True


def copy_whole(source: Path, out: Path) -> None:
    _replace(out, lambda whole: shutil.copytree(source, whole))


def _replace(out: Path, make: Callable[[Path], object]) -> None:
    """`make` makes the directory that it is given. Readers of `out` find the old one or the new one."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        whole = Path(scratch) / "whole"
        make(whole)
        if out.exists():
            out.rename(Path(scratch) / "replaced")
        whole.rename(out)


def _stamp_of(out: Path) -> object:
    try:
        return json.loads((out / _STAMP_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
