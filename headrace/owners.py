"""Whose a file is, for a refusal that says whom to ask."""

from pathlib import Path


def owner_name(file: Path) -> str:
    """The owner of a file, or of the nearest directory above it that can be seen.

    A user without a name is told by its number.
    """
    for place in (file, *file.absolute().parents):
        try:
            return place.owner()
        except KeyError:
            return f"user {place.stat().st_uid}"
        except OSError:
            continue
    return "somebody else"
