"""Settings of the dispatcher, and its assumptions before it has seen a replica work."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from headrace.engines.openai.meaning import RETRY_AFTER_SECONDS_MAX
from headrace.user_files.ranges import check_ranges


@dataclass(frozen=True, kw_only=True)
class DispatchSettings:
    # Attempts of one turn; those that certainly never began do not count.
    num_attempts: Annotated[int, Gt(0)] = 3
    # How often one turn may be moved off silent or slow replicas.
    num_moves_max: int = 3
    # A replica that is silent for this long, and for `silent_factor` times its longest recent pause, gets no new turns;
    # after half as long again its turns are moved. The minimum covers the hiccups of a busy machine.
    silent_seconds_min: Annotated[float, Gt(0)] = 0.2
    silent_factor: Annotated[float, Gt(0)] = 2.5
    # The minimum for a replica that was never heard: loading, compiling and warming up take long.
    silent_seconds_unheard: float = 5.0
    # A failed replica is probed after the first delay; after each failed trial the delay doubles, up to the last.
    backoff_seconds_min: Annotated[float, Gt(0)] = 0.25
    backoff_seconds_max: float = 15.0
    # Failed probes cost no turn anything, so the next one follows sooner: each delay grows by half, up to this.
    probe_seconds_max: float = 2.0
    # After so many failures in a row, of any turns, a replica that still answers is left alone.
    num_strikes_max: Annotated[int, Gt(0)] = 3
    # Longest Retry-After that is obeyed; then the replica gets one turn at a time.
    pause_seconds_max: float = RETRY_AFTER_SECONDS_MAX
    # How long a turn waits while all replicas are dead, and while all say that they are busy.
    dead_seconds_max: float = 5.0
    busy_seconds_max: float = 2.0
    # A turn is moved off a slow replica if another would finish it in this share of the remaining time …
    move_share_max: float = 0.5
    # … and saves at least this much: less does not justify the lost work.
    move_gain_seconds_min: float = 0.25
    # Assumed for unknown replicas: seconds a token and to the first one; and the length of an answer.
    prior_token_seconds: float = 0.01
    prior_first_seconds: float = 0.1
    prior_num_tokens: int = 200

    def __post_init__(self) -> None:
        check_ranges(self)
