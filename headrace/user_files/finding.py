"""Which files a pattern of a user means."""

import glob
from pathlib import Path


def found_files(pattern: str, home: Path) -> list[Path]:
    """Files that match a glob relative to `home`, or an absolute one; in no order.

    `home` is a place and no pattern, whatever its name. A pattern that is the name of a file means that file.
    """
    if _is_file(home / pattern):
        return [home / pattern]
    # `glob.glob` and not `Path.glob`: the pattern may be absolute.
    matches = glob.glob(pattern, root_dir=home, recursive=True)  # noqa: PTH207
    return [home / match for match in matches if _is_file(home / match)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False
