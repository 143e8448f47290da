"""How many GPUs each stage may hold, and how many are kept for it, by time of day.

A *ceiling*: the stage never holds more. A *floor*: so many GPUs are kept for the stage, whether it needs them now or
not. Runs of other stages may not take the last of them. If preemption is on, a preemptible run may borrow them, and is
stopped when the stage needs them. It counts GPUs, not places: a floor names no node. Runs without a stage have the
stage "". A change of hours stops no run: runs above a new ceiling run to their end.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

from annotated_types import Ge

from headrace.errors import InvalidInput
from headrace.user_files.ranges import check_ranges

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, kw_only=True)
class StageWindow:
    """Other limits between two times of day, such as `22:00-06:00` (over midnight); the end is excluded."""

    hours: str
    floor: Annotated[int, Ge(0)] | None = None  # None: the stage's own
    ceiling: int | None = None

    def __post_init__(self) -> None:
        match = _HOURS.fullmatch(self.hours)
        if not match or self.hours[:5] == self.hours[6:]:
            raise InvalidInput(f'hours must be two different times of day such as "22:00-06:00", got {self.hours!r}.')
        check_ranges(self)

    @property
    def minutes(self) -> tuple[int, int]:
        """Start and end in minutes since midnight."""
        hours = [int(part) for part in re.split("[:-]", self.hours)]
        return hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]

    def holds_at(self, minute: int) -> bool:
        start, end = self.minutes
        return start <= minute < end if start < end else minute >= start or minute < end


@dataclass(frozen=True, kw_only=True)
class StageRule:
    """One stage's limits in GPUs. A negative ceiling counts from the top: -1 is all but one. None: no ceiling.

    The first window that applies decides; outside all windows, the rule's own floor and ceiling.
    """

    floor: Annotated[int, Ge(0)] = 0
    ceiling: int | None = None
    windows: tuple[StageWindow, ...] = ()

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class StageLimit:
    """A rule's limits at one moment, in GPUs. `until`: when they may change; None: never."""

    floor: int = 0
    ceiling: int | None = None
    until: float | None = None


@dataclass(frozen=True, kw_only=True)
class StagePolicy:
    """The rules of all stages that have one, and the time zone of their hours."""

    rules: dict[str, StageRule] = field(default_factory=dict)
    time_zone: str = "UTC"

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.time_zone)
        except (KeyError, OSError, ValueError) as error:
            raise InvalidInput(
                f'time_zone must be a name of the time zone database such as "Europe/Berlin", got {self.time_zone!r}.'
            ) from error

    def limits(self, now: float, num_gpus: int) -> dict[str, StageLimit]:
        """By stage, for a fleet of that many GPUs."""
        local = datetime.fromtimestamp(now, ZoneInfo(self.time_zone))
        minute = local.hour * 60 + local.minute
        found = {}
        for stage, rule in self.rules.items():
            floor, ceiling = rule.floor, rule.ceiling
            for window in rule.windows:
                if window.holds_at(minute):
                    floor = rule.floor if window.floor is None else window.floor
                    ceiling = rule.ceiling if window.ceiling is None else window.ceiling
                    break
            found[stage] = StageLimit(
                floor=floor, ceiling=_count(ceiling, num_gpus), until=_next_change(rule, local, now)
            )
        return found

    def highest_ceiling(self, stage: str, num_gpus: int) -> int | None:
        """The most GPUs that a stage may ever hold; None: no limit."""
        rule = self.rules.get(stage)
        if rule is None:
            return None
        windows = [window.ceiling if window.ceiling is not None else rule.ceiling for window in rule.windows]
        counts = [_count(ceiling, num_gpus) for ceiling in (rule.ceiling, *windows)]
        return None if None in counts else max(count for count in counts if count is not None)

    def lowest_floors_of_others(self, stage: str) -> int:
        """GPUs that are kept from a stage at all hours."""
        return sum(
            min([rule.floor, *(window.floor for window in rule.windows if window.floor is not None)])
            for other, rule in self.rules.items()
            if other != stage
        )


def _count(ceiling: int | None, num_gpus: int) -> int | None:
    if ceiling is None:
        return None
    return max(0, num_gpus + ceiling) if ceiling < 0 else ceiling


def _next_change(rule: StageRule, local: datetime, now: float) -> float | None:
    """The next time in seconds since the epoch at which a window begins or ends."""
    minutes = {minute for window in rule.windows for minute in window.minutes}
    changes = []
    for days in (0, 1, 2):  # two days: a time of day may not exist on the day when clocks go forward
        day = local.date() + timedelta(days=days)
        for minute in minutes:
            at = datetime(day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=local.tzinfo).timestamp()
            if at > now:
                changes.append(at)
    return min(changes, default=None)
