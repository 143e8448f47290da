"""Campaigns that are Components of the project: found by its files, as `dg` finds them, without importing Dagster.

A Component is a document of a `defs.yaml` below the project's module of definitions, with the type
`headrace_dagster.Campaign`. Attributes that Dagster renders from templates (`{{ … }}`) and Components made by Python
code are not found: their files are taken by path.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from headrace.command_line.project import Project
from headrace.errors import InvalidCampaign, InvalidInput

if TYPE_CHECKING:
    from headrace.settings import Settings

DEFS_FILE = "defs.yaml"
TYPE = "headrace_dagster.Campaign"
CAMPAIGN_FILE = "campaign.yaml"
"""The campaign's file beside `defs.yaml`, unless that names another."""
VARIABLES = {"first_day": "HEADRACE_FIRST_DAY", "timezone": "HEADRACE_TIMEZONE"}
"""Attribute → the variable that says the same for a whole project, and whose checks it shares."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """One campaign of a `defs.yaml`. `stated`: what stands there in place of a variable."""

    defs: Path
    campaign: Path
    stated: Mapping[str, str]

    @property
    def name(self) -> str | None:
        """What the campaign's file calls it, whether the rest can be read or not; None: it does not say."""
        found = _documents(self.campaign)[:1]
        name = found[0].get("name") if found and isinstance(found[0], dict) else None
        return name if isinstance(name, str) else None

    def settings(self, project: Project) -> "Settings":
        """Raises: InvalidInput: an attribute, or one of the project's variables, has a value that means nothing."""
        return settings_with(project, self.defs, self.stated)


def settings_with(project: Project, defs: Path, stated: Mapping[str, str]) -> "Settings":
    """A project's settings with what a Component's `defs.yaml` states instead.

    Raises:
        InvalidInput: one of them means nothing; names the file and the attribute.
    """
    from headrace.settings import settings_of

    said = {VARIABLES[name]: value for name, value in stated.items()}
    try:
        return settings_of({**project.environment, **said}, project.root)
    except InvalidInput as error:
        text = str(error)
        for name in stated:
            text = text.replace(VARIABLES[name], f"{defs}: {name}")
        raise InvalidInput(text) from error


def components_of(project: Project) -> list[Component]:
    """The project's, by path. A `defs.yaml` that cannot be read has none: `dg check yaml` tells what is wrong."""
    directory = project.defs_directory
    files = sorted(directory.rglob(DEFS_FILE)) if project.is_found and directory else []
    return [found for file in files for found in _components_in(file)]


def identifier(campaign: str) -> str:
    """The campaign's name in those of Dagster's jobs and resources, which have letters, digits and `_` alone."""
    return re.sub(r"\W", "_", campaign)


def check_names(name: str, file: Path, components: Sequence[Component]) -> None:
    """Whether Dagster can name a Component's assets and jobs by its campaign.

    Raises:
        InvalidCampaign: the name has a dot, or is another Component's but for `-` and `_`.
    """
    if "." in name:
        raise InvalidCampaign(
            f"Campaign file {file}: name must be without '.' here, since Dagster's steps are named by it, got "
            f"{name!r}. Write '-' or '_' instead."
        )
    for other in components:
        if other.campaign.resolve() == file.resolve():
            continue
        theirs = other.name
        if theirs is not None and identifier(theirs) == identifier(name):
            raise InvalidCampaign(
                f"Campaign file {file}: name must differ from other Components' in more than '-' and '_', since "
                f"Dagster's jobs are named by it, got {name!r}, and {theirs!r} in {other.campaign}. Rename one."
            )


def _components_in(defs: Path) -> Iterator[Component]:
    for document in _documents(defs):
        if not isinstance(document, dict) or document.get("type") != TYPE:
            continue
        attributes = document.get("attributes") or {}
        if not isinstance(attributes, dict):
            continue
        file = str(attributes.get("campaign") or CAMPAIGN_FILE)
        stated = {name: str(value) for name in VARIABLES if (value := attributes.get(name)) is not None}
        if not any("{{" in text for text in (file, *stated.values())):
            yield Component(defs=defs, campaign=defs.parent / file, stated=stated)


def _documents(file: Path) -> list[Any]:
    try:
        return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError):
        return []
