"""Which campaigns of the project take events, and what they do with late ones; the zone of its days and hours."""

import os
from pathlib import Path
from zoneinfo import ZoneInfo

from headrace.command_line.project import find_project


def keep_late_of_project() -> dict[str, bool]:
    """Name → whether late events are only kept; of the files that can be read. Raises: InvalidSetting."""
    from headrace.generation.campaign import load_campaigns

    campaigns = load_campaigns(find_project(Path.cwd(), os.environ).settings().campaigns)
    return {one.name: one.keeps_late for one in campaigns if one.takes_events}


def zone_of_project() -> ZoneInfo:
    """Raises: InvalidSetting."""
    return ZoneInfo(find_project(Path.cwd(), os.environ).settings().timezone)
