"""The project that a command is called in: from any of its directories, with the settings that `dg` would give it.

A project is the nearest directory upwards whose pyproject.toml has a `[tool.dg]` table, or that has a workspace.yaml.
Its `.env` counts as `dg` reads it: what the environment says already comes first.
"""

import os
import tomllib
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.command_line.opening import CACHE_VARIABLE, HOME_VARIABLE, STORE_VARIABLE
from headrace.errors import InvalidInput

CAMPAIGNS_VARIABLE = "HEADRACE_CAMPAIGNS"
_CAMPAIGNS = "resources/campaigns"
# Of these, a relative one in `.env` starts at the project, not where the command is called.
_PLACES = (STORE_VARIABLE, HOME_VARIABLE, CACHE_VARIABLE, CAMPAIGNS_VARIABLE, "DAGSTER_HOME")


@dataclass(frozen=True, kw_only=True)
class Project:
    root: Path
    # What `dg` reads of pyproject.toml: the module with the definitions, and the code location's name.
    code_module: str = ""
    location: str = ""

    @classmethod
    def find(cls, start: Path | None = None) -> "Project | None":
        directory = (start or Path.cwd()).absolute()
        for parent in (directory, *directory.parents):
            dg = _dg_table(parent / "pyproject.toml")
            if dg is None and not (parent / "workspace.yaml").is_file():
                continue
            own = (dg or {}).get("project", {})
            root_module = own.get("root_module", parent.name)
            return cls(
                root=parent,
                code_module=own.get("code_location_target_module", f"{root_module}.definitions"),
                location=own.get("code_location_name", parent.name),
            )
        return None

    @property
    def home(self) -> Path:
        """The state directory."""
        return Path(os.environ.get(HOME_VARIABLE) or self.root / ".headrace").absolute()

    @property
    def campaigns(self) -> Path:
        """The directory of campaign files."""
        return Path(os.environ.get(CAMPAIGNS_VARIABLE) or self.root / _CAMPAIGNS).absolute()


def this_project(start: Path | None = None) -> Project:
    """Raises: InvalidInput: the directory (default: the current one) is in no project."""
    if project := Project.find(start):
        return project
    raise InvalidInput(
        f"{start or Path.cwd()} is in no Dagster project: no directory up to / has a workspace.yaml or a "
        "pyproject.toml with [tool.dg]. Go into the project's directory and call the command again."
    )


def load_environment(environment: MutableMapping[str, str] | None = None, start: Path | None = None) -> None:
    """Adds the settings of the project's `.env`, and where its state is; nothing outside a project."""
    environment = os.environ if environment is None else environment
    if (project := Project.find(start)) is None:
        return
    file = project.root / ".env"
    if file.is_file():
        from dotenv import dotenv_values

        for name, value in dotenv_values(file).items():
            if value and name not in environment:
                is_relative = name in _PLACES and "://" not in value and not Path(value).is_absolute()
                environment[name] = str(project.root / value) if is_relative else value
    environment.setdefault(HOME_VARIABLE, str(project.root / ".headrace"))


def _dg_table(file: Path) -> dict[str, Any] | None:
    try:
        return tomllib.loads(file.read_text()).get("tool", {}).get("dg")
    except (OSError, ValueError):
        return None
