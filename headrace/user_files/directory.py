"""Reads a directory of users' files, one subject a file: a broken file costs its own subject, and nobody else's.

A subject is a campaign, a recipe or a service; its name is written in its file. Two files with one name break both,
since nobody could say which of them is meant.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from headrace.errors import InvalidInput

T = TypeVar("T")

# A file that is not even YAML still tells its name near its beginning.
_NAME_CHARACTERS_MAX = 65_536


@dataclass(frozen=True, kw_only=True)
class BrokenFile:
    """A file that describes nothing.

    `name`: the subject that it would describe; None: it does not say. `faults`: all of them, as `from_file` tells them.
    """

    path: Path
    name: str | None
    faults: str

    def would_describe(self, name: str) -> bool:
        """A file that tells no name may still be called like its subject."""
        return self.name == name or (self.name is None and self.path.stem == name)


@dataclass(frozen=True, kw_only=True)
class Described(Generic[T]):
    """What the files of one directory describe, sorted by name, and the files that describe nothing.

    `noun`: what a file describes, such as "campaign". `absence`: that there is no directory, if one is wanted.
    """

    directory: Path
    noun: str
    refusal: type[InvalidInput]
    by_name: Mapping[str, T]
    files: Mapping[str, Path]
    broken: tuple[BrokenFile, ...] = ()
    absence: str | None = None

    def __iter__(self) -> Iterator[T]:
        return iter(self.by_name.values())

    @property
    def problems(self) -> tuple[str, ...]:
        """What a person has to mend, a text for each file."""
        return (*filter(None, [self.absence]), *dict.fromkeys(one.faults for one in self.broken))

    def find(self, name: str) -> T:
        """The subject of this name.

        Raises:
            InvalidInput: as the directory's `refusal`: its file is broken, or there is none.
        """
        if name in self.by_name:
            return self.by_name[name]
        raise self._missing(name)

    def _missing(self, name: str) -> InvalidInput:
        if self.absence:
            return self.refusal(self.absence)
        if own := dict.fromkeys(one.faults for one in self.broken if one.would_describe(name)):
            return self.refusal(" ".join(own))
        near = difflib.get_close_matches(name, self.by_name, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self.by_name) or 'none'}."
        unnamed = [one.faults for one in self.broken if one.name is None]
        maybe = [f"A file that cannot be read may describe it: {one}" for one in unnamed]
        return self.refusal(
            " ".join([f"No file in {self.directory} describes the {self.noun} {name!r}; {hint}", *maybe])
        )


def from_directory(
    directory: Path,
    load: Callable[[Path], T],
    noun: str,
    refusal: type[InvalidInput],
    *,
    named_by: Sequence[str] = ("name",),
    wanted_in: str | None = None,
    only: str | None = None,
) -> Described[T]:
    """Reads every `*.yaml` and `*.yml` of a directory, or `only` the file of this name.

    Args:
        load: one file's reader, which raises InvalidInput.
        named_by: the keys of a file, and fields of what it describes, that make up its name, with dots between them.
        wanted_in: the variable that names this directory, if a missing one is a mistake.
    """
    read: dict[str, list[tuple[Path, T]]] = {}
    broken: list[BrokenFile] = []
    files = [directory / only] if only else sorted([*directory.glob("*.yaml"), *directory.glob("*.yml")])
    for file in files:
        try:
            one = load(file)
        except InvalidInput as error:
            broken.append(BrokenFile(path=file, name=_told_name(file, named_by), faults=str(error)))
        else:
            name = ".".join(str(getattr(one, key)) for key in named_by)
            read.setdefault(name, []).append((file, one))
    for name, found in read.items():
        if len(found) > 1:
            where = " and ".join(file.name for file, _ in found)
            count = {2: "two"}.get(len(found), len(found))
            faults = f"{noun.capitalize()} {name!r} stands in {count} files: {where}. Rename one, or remove it."
            broken += [BrokenFile(path=file, name=name, faults=faults) for file, _ in found]
    single = {name: found[0] for name, found in sorted(read.items()) if len(found) == 1}
    absence = f"There is no directory of {noun}s at {directory}; make it, or set {wanted_in}."
    return Described(
        directory=directory,
        noun=noun,
        refusal=refusal,
        by_name={name: one for name, (_, one) in single.items()},
        files={name: file for name, (file, _) in single.items()},
        broken=tuple(sorted(broken, key=lambda one: one.path)),
        absence=absence if wanted_in and not directory.is_dir() else None,
    )


def _told_name(file: Path, named_by: Sequence[str]) -> str | None:
    """The name in a broken file: from its values, or from its text if it is not YAML."""
    from headrace.user_files.yaml_file import read_yaml

    try:
        content = read_yaml(file, "File").content
    except InvalidInput:
        content = _told_keys(file, named_by)
    names = [content.get(key) for key in named_by] if isinstance(content, Mapping) else [None]
    return ".".join(map(str, names)) if all(isinstance(name, str) for name in names) else None


def _told_keys(file: Path, keys: Sequence[str]) -> dict[str, str]:
    if not file.is_file():
        return {}  # a pipe would be waited for
    try:
        with file.open(encoding="utf-8", errors="replace") as text:
            beginning = text.read(_NAME_CHARACTERS_MAX)
    except OSError:
        return {}
    found = {key: re.search(rf"^{key}:[ \t]*[\"']?([\w.-]+)", beginning, re.MULTILINE) for key in keys}
    return {key: match[1] for key, match in found.items() if match}
