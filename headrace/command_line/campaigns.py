"""Which campaign a command means, and on which day."""

from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.command_line.opening import nearest
from headrace.command_line.project import Project
from headrace.errors import InvalidInput

if TYPE_CHECKING:
    from headrace.generation.campaign import Campaign


def find_campaign(word: str) -> "Campaign":
    """A campaign by its file, or by its name among the project's.

    Raises:
        InvalidInput: there is none, or its file is broken.
    """
    from headrace.generation.campaign import load_campaign

    if Path(word).suffix in {".yaml", ".yml"}:
        return load_campaign(Path(word))
    project = Project.find()
    if project is None:
        raise InvalidInput(f"A campaign is a YAML file, or outside a project nothing else, got {word!r}.")
    files = {file.stem: file for file in sorted(project.campaigns.glob("*.y*ml"))}
    named = {}
    if word in files:
        named[word] = load_campaign(files[word])
    else:
        for file in files.values():
            # Another broken file is not what was asked for.
            try:
                one = load_campaign(file)
            except InvalidInput:
                continue
            named[one.name] = one
    for one in named.values():
        if one.name == word or word in files:
            return one
    raise InvalidInput(f"No file in {project.campaigns} describes a campaign {word!r}.{nearest(word, list(named))}")


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
