"""Which campaign a command means, and on which day."""

from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from headrace.errors import InvalidInput

if TYPE_CHECKING:
    from headrace.generation.campaign import Campaign
    from headrace.settings import Settings


def find_campaign(word: str, settings: "Settings") -> "Campaign":
    """A campaign by its file, or by its name among the project's; on the engine that the settings name for all.

    Raises:
        InvalidInput: there is none, or its file is broken.
    """
    from headrace.generation.campaign import load_campaign, load_campaigns

    if _is_file(word):
        return load_campaign(Path(word)).with_engine(settings.engine)
    return load_campaigns(settings.campaigns, engine=settings.engine).find(word)


def find_own_campaign(word: str, settings: "Settings") -> "Campaign":
    """As `find_campaign`, but only of those that Dagster reads: runs of another file would follow one of these.

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
        return datetime.now(ZoneInfo(settings.timezone)).date().isoformat()
    try:
        day = date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise InvalidInput(f"--day must be a day such as 2026-11-22, got {text!r}: {error}.") from error
    if day < settings.first_day:
        raise InvalidInput(
            f"--day must not be before {settings.first_day}, the project's first day (HEADRACE_FIRST_DAY), got {day}."
        )
    return day
