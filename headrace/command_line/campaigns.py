"""Which campaign a command means, and on which day."""

from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.command_line.project import Project
from headrace.errors import InvalidInput

if TYPE_CHECKING:
    from headrace.generation.campaign import Campaign


def find_campaign(word: str) -> "Campaign":
    """A campaign by its file, or by its name among the project's.

    Raises:
        InvalidInput: there is none, or its file is broken.
    """
    from headrace.generation.campaign import load_campaign, load_campaigns

    if Path(word).suffix in {".yaml", ".yml"}:
        return load_campaign(Path(word))
    project = Project.find()
    if project is None:
        raise InvalidInput(f"Outside a project a campaign is named by its YAML file, got {word!r}.")
    return load_campaigns(project.campaigns).find(word)


def checked_day(text: str | None, timezone: str | None) -> str:
    """`text` as a day, YYYY-MM-DD; without one, today in the project's time zone.

    Raises:
        InvalidInput: it is no day, or there is no such time zone.
    """
    if text is not None:
        try:
            return date.fromisoformat(text).isoformat()
        except ValueError as error:
            raise InvalidInput(f"--day must be a day such as 2026-11-22, got {text!r}: {error}.") from error
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        zone = ZoneInfo(timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise InvalidInput(f"HEADRACE_TIMEZONE must be a time zone such as Europe/Berlin, got {timezone!r}.") from error
    return datetime.now(zone).date().isoformat()
