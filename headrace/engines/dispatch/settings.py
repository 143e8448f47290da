"""What the dispatcher is told, and what it believes before it has seen a replica work."""

from dataclasses import dataclass

from headrace.engines.openai.meaning import RETRY_AFTER_SECONDS_MAX
from headrace.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class DispatchSettings:
    # Times one turn is sent because an attempt failed; attempts that certainly never began are not counted.
    num_attempts: int = 3
    # Times one turn may be taken off a silent or slow replica and sent to another.
    num_moves_max: int = 3
    # A replica that is silent for this long, and for `silent_factor` times its longest recent pause, gets no new turns;
    # after half as long again its turns are moved. The floor covers a busy machine's hiccups.
    silent_seconds_min: float = 0.2
    silent_factor: float = 2.5
    # The same for a replica that was never heard: loading, compiling and warming up take long.
    silent_seconds_unheard: float = 5.0
    # A failed replica is probed after the first; if it fails its trial, after twice as long each time, up to the last.
    backoff_seconds_min: float = 0.25
    backoff_seconds_max: float = 15.0
    # Probes that fail cost no turn anything, so the next follows sooner: half as late again each time, up to this.
    probe_seconds_max: float = 2.0
    # Failures in a row, of whatever turns, after which a replica that still answers is left alone.
    num_strikes_max: int = 3
    # How long a replica's wish to be left alone (Retry-After) is believed; then it gets one turn at a time.
    pause_seconds_max: float = RETRY_AFTER_SECONDS_MAX
    # How long a turn waits while every replica is dead, and while every replica says that it is busy.
    dead_seconds_max: float = 5.0
    busy_seconds_max: float = 2.0
    # A turn is moved off a slow replica if it would be done elsewhere in this share of the time it still needs there.
    move_share_max: float = 0.5
    # … and gains so much by it: less is not worth the work thrown away.
    move_gain_seconds_min: float = 0.25
    # What an unseen replica is believed to need, per token and to its first one; and an answer's length.
    prior_token_seconds: float = 0.01
    prior_first_seconds: float = 0.1
    prior_num_tokens: int = 200

    def __post_init__(self) -> None:
        for name in ("num_attempts", "num_strikes_max", "silent_seconds_min", "backoff_seconds_min", "silent_factor"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"{name} must be above 0, got {getattr(self, name)!r}.")
