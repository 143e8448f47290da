"""The project that a command is called in: its directory, and its environment as `dg` gives it to its processes.

A project is a directory with `[tool.dg]` in its pyproject.toml, or with a dg.toml; a command may be called in any
directory below it. The project's `.env` counts before the environment, since Dagster lets it, too: otherwise a command
would look into another store than the runs write to.
"""

import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.command_line.opening import HOME_VARIABLE
from headrace.errors import InvalidInput

if TYPE_CHECKING:
    from headrace.settings import Settings


# Files and directories among the variables.
_PLACES = frozenset(
    f"HEADRACE_{name}" for name in ("HOME", "STORE", "CACHE", "CORPUS", "RECIPES", "CAMPAIGNS", "SERVICES")
) | {"DAGSTER_HOME"}


@dataclass(frozen=True, kw_only=True)
class Project:
    """`root`: the working directory, if it is in no project. `is_found`: it is in one."""

    root: Path
    environment: Mapping[str, str]
    is_found: bool = True

    def settings(self) -> "Settings":
        """Raises: InvalidSetting: a variable has a value that means nothing."""
        from headrace.settings import settings_of

        return settings_of(self.environment, self.root)

    @property
    def code_module(self) -> str:
        """The module with the definitions, as `dg` finds it."""
        return self._dg.get("code_location_target_module", f"{self._dg.get('root_module', self.root.name)}.definitions")

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
    told = {name: _at(root, value) if name in _PLACES else value for name, value in _env_file(root / ".env").items()}
    # What Dagster starts has the project as its working directory.
    given = {name: _at(directory, value) if name in _PLACES else value for name, value in environment.items()}
    return Project(root=root, environment={**given, **told}, is_found=found is not None)


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
    return value if not value or "://" in value else str(root / Path(value).expanduser())


def _env_file(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    # Dagster's own reader, which comes with it.
    from dotenv import dotenv_values

    try:
        return {name: value for name, value in dotenv_values(path).items() if value is not None}
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} is not readable: {error}. Repair it, or take it away.") from error


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
