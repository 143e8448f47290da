"""Finds the files that a user's pattern means."""

import difflib
import glob
import os
import re
from pathlib import Path

from headrace.errors import InvalidInput

_NAMES_SHOWN_MAX = 8
_BRACES = re.compile(r"\{+[^{}]*\}*|\}+")
_VARIABLE = re.compile(r"\$\{?[A-Za-z_]\w*\}?|%[A-Za-z_]\w*%")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def check_pattern(name: str, pattern: str, *, placeholder: str) -> None:
    """Refuses what a glob would take for a file's name, and nobody means so: it would only ever match nothing.

    Args:
        placeholder: the only word in braces that the pattern may have, such as `{day}`.

    Raises:
        InvalidInput: an empty text, `~`, an address, a variable, other braces. In a name that has such a sign it stands
            in brackets: `[{]`, `[$]`.
    """
    if not pattern.strip():
        raise InvalidInput(f"{name} must be a glob such as texts/*.jsonl, got an empty text.")
    if _SCHEME.match(pattern):
        raise InvalidInput(
            f"{name} must be files on a local disk, got {pattern!r}: fetch them, and name where they lie."
        )
    if pattern.startswith("~"):
        raise InvalidInput(f"{name} must be a whole path, since ~ is another place for each user, got {pattern!r}.")
    bare = re.sub(r"\[[^\]]*\]", "", pattern)
    if variable := _VARIABLE.search(bare):
        raise InvalidInput(
            f"{name} may not hold the variable {variable[0]}, which nothing fills in, got {pattern!r}: write the path, "
            f"with {placeholder} where it changes."
        )
    if other := next((found for found in _BRACES.findall(bare) if found != placeholder), None):
        raise InvalidInput(f"{name} may hold {placeholder}, and no other braces, got {other} in {pattern!r}.")


def pattern_of(path: Path) -> str:
    """A file's path as a pattern that means this file alone, whatever signs its name has."""
    text = str(path)
    if not re.search(r"[{}$%]", text):
        return text  # a name that is there is a name, also with brackets
    return re.sub(r"[{}$%]", r"[\g<0>]", glob.escape(text))


def found_files(pattern: str, home: Path) -> list[Path]:
    """Files that match a glob relative to `home`, or an absolute one; in no order.

    `home` is always a place, never a pattern. A pattern that is a file's name means that file, and a directory in it
    that is there by its name, brackets and all, is that directory. An entry of a directory
    is one file, however many paths lead to it: `**` may reach a directory again through a link, or follow a loop of
    links. Two links to one file are two.

    Raises:
        InvalidInput: a match is neither a file nor a directory, such as a broken link; its rows would silently be
            missing.
    """
    if _is_file(home / pattern):
        return [home / pattern]
    found: dict[Path, Path] = {}
    strange: set[Path] = set()
    # `glob.glob` and not `Path.glob`: the pattern may be absolute.
    for match in glob.glob(_with_places(pattern, home), root_dir=home, recursive=True):  # noqa: PTH207
        path = home / match
        entry = Path(os.path.realpath(path.parent), path.name)
        if _is_file(path):
            found[entry] = min(path, found.get(entry, path), key=lambda way: (len(way.parts), str(way)))
        elif not path.is_dir():
            strange.add(entry)
    # At the end of a loop of links a file is not recognised, but it was found on a shorter path.
    for entry in sorted(strange - found.keys()):
        raise InvalidInput(f"{entry} is neither a file nor a directory, and {pattern} matches it: remove it.")
    return list(found.values())


def _with_places(pattern: str, home: Path) -> str:
    """The pattern, where the brackets of directories that are there by that name are no pattern."""
    parts, place = pattern.split("/"), home / "/" if pattern.startswith("/") else home
    for index, part in enumerate(parts[:-1]):
        if glob.has_magic(part):
            if "*" in part or "?" in part or not _exists(place / part):
                break
            parts[index] = glob.escape(part)
        place /= part
    return "/".join(parts)


def nearest_existing(pattern: str, home: Path) -> str:
    """For a pattern that matches nothing: how far its path exists, and the most similar name there, as a sentence."""
    parts = (home / pattern).parts
    place = Path(parts[0])
    for part in parts[1:]:
        further = place / part
        if glob.has_magic(part) or not _exists(further):
            return _without(place, part)
        place = further
    return f"{place} is a directory; name the files in it, such as {place}/*.jsonl." if place.is_dir() else ""


def _without(place: Path, part: str) -> str:
    """What is in a directory instead of `part`, which may be a pattern."""
    try:
        names = sorted(entry.name for entry in place.iterdir())
    except OSError:
        return f"{place} is no directory that can be read."
    near = difflib.get_close_matches(part, names, n=1)
    if near:
        return f"In {place} there is no {part}; the nearest name there is {near[0]}."
    # What tools keep beside a person's files helps nobody to find them.
    names = [name for name in names if not name.startswith(".")] or names
    there = ", ".join(names[:_NAMES_SHOWN_MAX]) + (" …" if len(names) > _NAMES_SHOWN_MAX else "")
    return f"In {place} there is no {part}; there is {there or 'nothing'}."


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False
