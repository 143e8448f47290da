"""Which campaign a command means, and on which day."""

from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from headrace.errors import InvalidCampaign, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.command_line.components import Component
    from headrace.command_line.project import Project
    from headrace.generation.campaign import Campaign
    from headrace.settings import Settings


def find_campaign(word: str, project: "Project") -> "tuple[Campaign, Settings]":
    """A campaign by its file, or by its name among the project's, Components too; with the settings that it has.

    It is on the engine that the settings name for all.

    Raises:
        InvalidInput: there is none, or its file is broken.
    """
    from headrace.command_line.components import components_of
    from headrace.generation.campaign import load_campaign, load_campaigns

    settings = project.settings()
    if component := find_component(word, project):
        settings = component.settings(project)
        return load_campaign(component.campaign).with_engine(settings.engine), settings
    if _is_file(word):
        return load_campaign(Path(word)).with_engine(settings.engine), settings
    described = load_campaigns(settings.campaigns, engine=settings.engine)
    if word not in described.by_name and (names := [one.name for one in components_of(project) if one.name]):
        raise InvalidCampaign(
            f"Neither a file in {settings.campaigns} nor a Component describes the campaign {word!r}; there are "
            f"{', '.join(sorted({*names, *described.by_name}))}."
        )
    return described.find(word), settings


def find_component(word: str, project: "Project") -> "Component | None":
    """The Component whose campaign file, or campaign's name, `word` is; a name among the project's own files is theirs.

    Raises:
        InvalidInput: the file of the only Component that may have this name is broken.
    """
    from headrace.command_line.components import components_of
    from headrace.generation.campaign import load_campaigns

    components = components_of(project)
    if _is_file(word):
        return next((one for one in components if one.campaign.resolve() == Path(word).resolve()), None)
    if not components or word in load_campaigns(project.settings().campaigns).by_name:
        return None
    return next((one for one in components if one.name == word), None)


def campaign_files(name: str, settings: "Settings", components: "Sequence[Component]") -> "list[Path]":
    """The files that describe a campaign of this name, or would if they were whole: of the project's own, else of its
    Components. None: nobody describes it.
    """
    from headrace.generation.campaign import load_campaigns

    own = load_campaigns(settings.campaigns)
    files = [own.files[name]] if name in own.files else [one.path for one in own.broken if one.would_describe(name)]
    return files or [one.campaign for one in components if one.name == name]


def find_own_campaign(word: str, settings: "Settings") -> "Campaign":
    """As `find_campaign`, but only of those that this project's own assets read: runs of another file would follow one
    of these.

    Raises:
        InvalidInput: there is none, its file is broken, or Dagster does not read it.
    """
    from headrace.generation.campaign import load_campaign, load_campaigns

    own = load_campaigns(settings.campaigns, engine=settings.engine)
    if not _is_file(word):
        return own.find(word)
    name = load_campaign(Path(word)).name
    file = own.files.get(name)
    if file is None or not file.samefile(word):
        raise InvalidInput(
            f"Dagster reads the campaigns in {settings.campaigns}, where {f'{file.name} is' if file else 'nothing is'} "
            f"{name!r}, and not {word}. Move the file there (preview takes any), or set HEADRACE_CAMPAIGNS."
        )
    return own.find(name)


def _is_file(word: str) -> bool:
    return Path(word).suffix in {".yaml", ".yml"}


def checked_day(text: str | None, settings: "Settings") -> str:
    """`text` as a day, YYYY-MM-DD; without one, today in the project's time zone.

    Raises:
        InvalidInput: it is no day, or before the project's first one.
    """
    if text is None:
        day = datetime.now(ZoneInfo(settings.timezone)).date().isoformat()
        said = f"today is {day}"
    else:
        try:
            day = date.fromisoformat(text).isoformat()
        except ValueError as error:
            raise InvalidInput(f"--day must be a day such as 2026-11-22, got {text!r}: {error}.") from error
        said = f"got {day}"
    if day < settings.first_day:
        raise InvalidInput(
            f"--day must not be before {settings.first_day}, the project's first day (HEADRACE_FIRST_DAY); {said}."
        )
    return day
