"""The project that a command is called in: its directory, and its environment as `dg` gives it to its processes.

A project is a directory with `[tool.dg]` in its pyproject.toml, or with a dg.toml; a command may be called in any
directory below it. The project's `.env` counts before the environment, since Dagster lets it, too: otherwise a command
would look into another store than the runs write to.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.command_line.opening import HOME_VARIABLE
from headrace.errors import InvalidInput
from headrace.store.addresses import is_address

if TYPE_CHECKING:
    from headrace.settings import Settings


# Files and directories among the variables.
_PLACES = frozenset(
    f"HEADRACE_{name}" for name in ("HOME", "STORE", "CACHE", "CORPUS", "IMAGES", "RECIPES", "CAMPAIGNS", "SERVICES")
) | {"DAGSTER_HOME"}


@dataclass(frozen=True, kw_only=True)
class Project:
    """`root`: the working directory, if it is in no project. `is_found`: it is in one."""

    root: Path
    environment: Mapping[str, str]
    is_found: bool = True
    # Variable → its line in `.env`.
    lines: Mapping[str, int] = field(default_factory=dict)

    def settings(self) -> "Settings":
        """Raises: InvalidSetting: a variable has a value that means nothing."""
        from headrace.settings import InvalidSetting, settings_of

        try:
            return settings_of(self.environment, self.root)
        except InvalidSetting as error:
            raise InvalidSetting("\n  ".join(map(self.placed, str(error).split("\n  ")))) from error

    def placed(self, sentence: str) -> str:
        """A sentence that begins with a variable, after the place in `.env` that sets it, if one does."""
        line = self.lines.get(sentence.partition(" ")[0])
        return sentence if line is None else f"{self.root / '.env'}:{line}: {sentence}"

    def check_dagster_home(self) -> None:
        """Raises: InvalidInput: the `.env`, which Dagster reads too, names a relative one: it takes none."""
        values, lines = _env_file(self.root / ".env")
        given = values.get("DAGSTER_HOME")
        if given and not Path(given).is_absolute():
            raise InvalidInput(
                f"{self.root / '.env'}:{lines['DAGSTER_HOME']}: DAGSTER_HOME must be an absolute path, since Dagster "
                f"takes no other, got {given!r}."
            )

    @property
    def code_module(self) -> str:
        """The module with the definitions, as `dg` finds it."""
        return self._dg.get("code_location_target_module", f"{self._dg.get('root_module', self.root.name)}.definitions")

    @property
    def defs_directory(self) -> Path | None:
        """Where `dg` looks for Components; None: there is no such directory."""
        module = self._dg.get("defs_module", f"{self._dg.get('root_module', self.root.name)}.defs")
        below = Path(*str(module).split("."))
        return next((place for start in ("", "src") if (place := self.root / start / below).is_dir()), None)

    @property
    def location(self) -> str:
        """The code location's name, by which schedules and sensors are identified."""
        return self._dg.get("code_location_name", self.root.name)

    @cached_property
    def _dg(self) -> Mapping[str, Any]:
        if (file := self.root / "dg.toml").is_file():
            return _toml(file).get("project", {})
        return _toml(self.root / "pyproject.toml").get("tool", {}).get("dg", {}).get("project", {})


def find_project(directory: Path, environment: Mapping[str, str]) -> Project:
    """Raises: InvalidInput: the project's `.env` cannot be read."""
    places = [directory, *directory.parents]
    found = next(filter(_is_project, places), None)
    root = found or directory
    values, lines = _env_file(root / ".env")
    told = {name: _at(root, value) if name in _PLACES else value for name, value in values.items()}
    # What Dagster starts has the project as its working directory.
    given = {name: _at(directory, value) if name in _PLACES else value for name, value in environment.items()}
    return Project(root=root, environment={**given, **told}, is_found=found is not None, lines=lines)


def this_project() -> Project:
    """Raises: InvalidInput: the current directory is in no project, or its `.env` cannot be read."""
    project = find_project(Path.cwd(), os.environ)
    if project.is_found:
        return project
    raise InvalidInput(
        f"{project.root} is in no Dagster project: no directory up to / has a dg.toml, or a pyproject.toml with "
        "[tool.dg]. Go into the project's directory and call the command again."
    )


@contextmanager
def in_this_project() -> Iterator[None]:
    """Gives this process its project's `.env`, and the place of its state, until the block ends; nothing outside a
    project.

    Raises:
        InvalidInput: the `.env` cannot be read.
    """
    project = find_project(Path.cwd(), os.environ)
    before = dict(os.environ)
    if project.is_found:
        if odd := [name for name, value in project.environment.items() if "\0" in name + value]:
            raise InvalidInput(f"{project.root / '.env'}: {odd[0]!r} holds a NUL character: take it out.")
        os.environ.update(project.environment)
        if not os.environ.get(HOME_VARIABLE):
            os.environ[HOME_VARIABLE] = str(project.root / ".headrace")
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _at(root: Path, value: str) -> str:
    """A place in `.env`, where relative ones start at the project, or in the environment, where they start here."""
    return value if not value or is_address(value) else str(root / Path(value).expanduser())


def _env_file(path: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Its values, and their lines.

    Raises: InvalidInput: it cannot be read, or a line sets nothing, which its reader would pass over.
    """
    if not path.is_file():
        return {}, {}
    # Dagster's own reader, which comes with it.
    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    lines: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8-sig") as text:
            for found in parse_stream(text):
                written = found.original.string
                line = found.original.line + written[: len(written) - len(written.lstrip())].count("\n")
                if found.error or (found.key and found.value is None):
                    shown = re.split(r"[\s=:]", written.strip(), maxsplit=1)[0]
                    raise InvalidInput(
                        f"{path}:{line}: {shown} must be set as NAME=VALUE, in closed quotes if there are any, got a "
                        "line without, which nothing would read."
                    )
                if found.key:
                    lines[found.key] = line
        values = dotenv_values(path, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} is not readable: {error}. Repair it, or take it away.") from error
    return {name: value for name, value in values.items() if value is not None}, lines


def _is_project(directory: Path) -> bool:
    if (directory / "dg.toml").is_file():
        return True
    tool = _toml(directory / "pyproject.toml").get("tool")
    return isinstance(tool, dict) and "dg" in tool


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
