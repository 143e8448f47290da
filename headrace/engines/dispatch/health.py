"""Whether one replica may get turns: healthy, on trial after a failure, paused by Retry-After, or away.

    healthy → away (a failure, or silence) → [backoff, then a probe, which is not a turn] → on trial (one turn at a
        time)
    on trial → healthy at its first sign of work, → away for twice as long if it fails again

Turns never reach a replica that is away: only probes do.
"""

from dataclasses import dataclass
from enum import Enum

from headrace.engines.dispatch.settings import DispatchSettings


class Standing(Enum):
    HEALTHY = "healthy"
    ON_TRIAL = "on trial"
    AWAY = "away"


@dataclass
class Health:
    settings: DispatchSettings
    standing: Standing = Standing.HEALTHY
    num_strikes: int = 0
    # 0: no failure since it last worked.
    backoff_seconds: float = 0.0
    probe_gap_seconds: float = 0.0
    probe_at: float = 0.0
    is_probed_now: bool = False
    # Set by the replica itself, by Retry-After.
    paused_until: float = 0.0
    why: str = ""

    def may_get_turns(self, num_live: int, now: float) -> bool:
        if self.standing is Standing.AWAY or now < self.paused_until:
            return False
        return self.standing is Standing.HEALTHY or num_live == 0

    def worked(self) -> None:
        """A piece or an answer came: earlier failures are forgiven."""
        self.standing = Standing.HEALTHY
        self.num_strikes = 0
        self.backoff_seconds = 0.0
        self.why = ""

    def struck(self, now: float, why: str, *, weight: int = 1, backoff_seconds_min: float = 0.0) -> None:
        """Records a failure. On trial one puts it away; otherwise several in a row do, or one of full weight."""
        self.num_strikes += weight
        self.why = why
        if self.num_strikes >= self.settings.num_strikes_max or self.standing is not Standing.HEALTHY:
            self.leave_alone(now, why, backoff_seconds_min=backoff_seconds_min)

    def leave_alone(self, now: float, why: str, *, backoff_seconds_min: float = 0.0) -> None:
        self.why = why
        if self.standing is Standing.AWAY:
            # One crash fails many turns at once: it counts once.
            return
        self.standing = Standing.AWAY
        self._wait_longer(now, backoff_seconds_min)

    def pause(self, now: float, seconds: float) -> None:
        """Pauses it by its own Retry-After, up to a limit: then one turn tests whether it still wants to pause."""
        if not seconds < self.settings.pause_seconds_max:
            seconds = self.settings.pause_seconds_max
            if self.standing is Standing.HEALTHY:
                self.standing = Standing.ON_TRIAL
        self.paused_until = max(self.paused_until, now + seconds)

    def probe_is_due(self, now: float) -> bool:
        return self.standing is Standing.AWAY and not self.is_probed_now and now >= self.probe_at

    def probed(self, now: float, *, is_alive: bool) -> None:
        self.is_probed_now = False
        if self.standing is not Standing.AWAY:
            return
        if is_alive:
            self.standing = Standing.ON_TRIAL
        else:
            limits = self.settings
            self.probe_gap_seconds = min(
                max(1.5 * self.probe_gap_seconds, limits.backoff_seconds_min), limits.probe_seconds_max
            )
            self.probe_at = now + self.probe_gap_seconds

    def _wait_longer(self, now: float, backoff_seconds_min: float) -> None:
        limits = self.settings
        floor = max(limits.backoff_seconds_min, backoff_seconds_min)
        self.backoff_seconds = max(floor, min(2 * self.backoff_seconds, limits.backoff_seconds_max))
        self.probe_at, self.probe_gap_seconds = now + self.backoff_seconds, 0.0
