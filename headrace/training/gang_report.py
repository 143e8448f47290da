"""What a gang left behind when it ended or was given up: facts alone, from whatever host; `diagnosis` judges them.

A plain record, so that it travels through the store from another host as it is.
"""

from dataclasses import dataclass

from headrace.training.progress import RankFailure, RankPhase


@dataclass(frozen=True, kw_only=True)
class RankReport:
    """One rank.

    Attributes:
        phase: where it was last; None: it never started.
        failure: what it said of its own failure; None: nothing.
        exit_code: of its process, negative a signal's number; None: unknown, or it lives.
        is_alive: its process exists.
        log: its log file, for people, on `host`.
        lines: the last lines of that log.
        stack: of a stuck rank, where its threads are, innermost first.
        host: where it runs; "" with the run worker.
    """

    rank: int
    phase: RankPhase | None = None
    failure: RankFailure | None = None
    exit_code: int | None = None
    is_alive: bool = False
    log: str = ""
    lines: tuple[str, ...] = ()
    stack: tuple[str, ...] = ()
    host: str = ""


@dataclass(frozen=True, kw_only=True)
class GangReport:
    """All ranks.

    Attributes:
        exit_code: torchrun's; None: it lives.
        first_exit: the rank that torchrun saw end first.
        launcher_lines: the last lines of torchrun itself.
        oom_kills: processes that the kernel killed for memory in the gang's cgroup since it started.
        lost_hosts: hosts that say nothing any more, with the seconds of their silence.
        lock: a lock of DeepSpeed's compiler that is held.
    """

    ranks: tuple[RankReport, ...]
    exit_code: int | None = None
    first_exit: int | None = None
    launcher_lines: tuple[str, ...] = ()
    oom_kills: int = 0
    lost_hosts: tuple[tuple[str, float], ...] = ()
    lock: str | None = None

    @property
    def started(self) -> bool:
        return any(rank.phase for rank in self.ranks)
