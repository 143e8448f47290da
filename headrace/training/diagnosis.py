"""Why a gang failed: which rank failed first, what kind of failure it is, its own lines, and what to do. Pure.

| first rank | told by |
|---|---|
| the one that says why, and names no lost peer | its own failure |
| one that said nothing, and ended by a signal or before it could | its exit code, its log |
| of a gang that is stuck, the one that does not wait for the others | stacks |
| one on a host that is silent | the host's silence |

Rank 0's "Connection closed by peer" is what it sees of another rank's end, and is believed only if nobody else has
anything to say.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.errors import HeadraceError, InvalidTrainingRun, TrainingFailed
from headrace.training.failure_kinds import (
    ADVICE,
    CRASHED,
    EXCEPTION,
    HANG,
    KILLED,
    LOST_HOST,
    LOST_PEER,
    OUT_OF_MEMORY,
    PORT_TAKEN,
    SLOW_RANK,
    TERMINATED,
    FailureKind,
    kind_of_exit,
    kind_of_text,
    last_error,
)
from headrace.training.gang_report import GangReport, RankReport

# Frames of a rank that waits for the others, by the end of their file's path.
_WAITING = ("torch/distributed/distributed_c10d.py", "deepspeed/comm/", "torch/distributed/rendezvous.py")
# How far from the innermost frame such a one may be: torch's own wrappers lie between.
_WAITING_FRAMES = 8
_SIGNAL_WORDS = {KILLED: "was killed", TERMINATED: "was terminated", CRASHED: "crashed"}


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """`rank` None: no rank is the first. `is_permanent`: a retry would end the same way.

    `lines_of`: whose lines they are, if not that rank's.
    """

    kind: FailureKind
    rank: int | None
    sentence: str
    lines: tuple[str, ...] = ()
    lines_of: int | None = None
    log: str = ""
    is_permanent: bool = False

    def text(self) -> str:
        """The sentence, and below it the lines."""
        if not self.lines:
            return self.sentence
        number = self.rank if self.lines_of is None else self.lines_of
        whose = "torchrun" if number is None else f"rank {number}"
        return "\n".join([self.sentence, f"Last lines of {whose}:", *(f"    {line[:300]}" for line in self.lines)])

    def error(self, training: str, *, recipe: str) -> HeadraceError:
        """What the run worker raises. `training`: which attempt at which training."""
        told = {"rank": self.rank, "kind": self.kind, "recipe": recipe, "log": self.log or None}
        if self.is_permanent:
            return InvalidTrainingRun(f"{training}: {self.text()}", **told)
        return TrainingFailed(f"{training}: {self.text()}", **told)


@dataclass(frozen=True, kw_only=True)
class Stuck:
    """Why a gang was given up while it lived. `what`: "took no step for 10 min (start_timeout_seconds of recipe …)"."""

    what: str
    stalled: int | None = None
    """The rank for which the others wait, if a guard saw which."""


def diagnose(report: GangReport, stuck: Stuck | None = None) -> Diagnosis:
    """Args: stuck: the gang was given up; None: it ended by itself."""
    own = [rank for rank in report.ranks if rank.failure and not rank.failure.secondary]
    if own:
        return _told(min(own, key=lambda rank: rank.failure.at if rank.failure else 0.0))
    if report.lost_hosts:
        return _lost_host(report)
    if stuck:
        return _stuck(report, stuck)
    if not report.started:
        return _not_started(report)
    silent = [rank for rank in report.ranks if not rank.failure]
    if silent:
        return _silent(_first_silent(report, silent), report)
    return _lost_peer(report)


def _told(rank: RankReport) -> Diagnosis:
    failure = rank.failure
    assert failure
    what = f"{_name(rank)} failed ({failure.kind}){_doing(rank)}: {_ended(failure.reason)}"
    # What ours say already says what to do.
    advice = "" if failure.permanent else f" {ADVICE[failure.kind]}."
    return Diagnosis(
        kind=failure.kind,
        rank=rank.rank,
        sentence=what + advice,
        lines=failure.lines or rank.lines,
        log=rank.log,
        is_permanent=failure.permanent,
    )


def _silent(rank: RankReport, report: GangReport) -> Diagnosis:
    """A rank that ended without a word: its log may have one, else its exit code."""
    found = last_error(rank.lines)
    if found and (rank.exit_code is None or rank.exit_code >= 0):
        line, kind = found
        sentence = f"{_name(rank)} failed ({kind}){_doing(rank)}: {_ended(line)} {ADVICE[kind]}."
        return Diagnosis(kind=kind, rank=rank.rank, sentence=sentence, lines=rank.lines, log=rank.log)
    code = rank.exit_code
    kind = EXCEPTION if code is None else kind_of_exit(code)
    if kind == KILLED and report.oom_kills:
        kind = OUT_OF_MEMORY
    what = "was killed by the kernel for lack of memory" if kind == OUT_OF_MEMORY else _SIGNAL_WORDS.get(kind, "ended")
    shown = "unknown" if code is None else code
    sentence = f"{_name(rank)} {what} without a word, exit code {shown}{_doing(rank)} ({kind}). {ADVICE[kind]}."
    return Diagnosis(kind=kind, rank=rank.rank, sentence=sentence, lines=rank.lines, log=rank.log)


def _first_silent(report: GangReport, silent: Sequence[RankReport]) -> RankReport:
    """torchrun ends the others with SIGTERM once one is gone: any other end was first."""
    others = [rank for rank in silent if rank.exit_code not in (None, 0, -15)]
    named = [rank for rank in silent if rank.rank == report.first_exit]
    return next(iter([*others, *named, *silent]))


def _not_started(report: GangReport) -> Diagnosis:
    lines = report.launcher_lines
    kind: FailureKind | None = next((kind for line in reversed(lines) if (kind := kind_of_text(line))), None)
    found = last_error(lines)
    with_log = [rank for rank in report.ranks if last_error(rank.lines)]
    if with_log and kind != PORT_TAKEN:
        return _silent(with_log[0], report)
    kind = kind or (found[1] if found else EXCEPTION)
    said = f": {_ended(found[0])}" if found else "."
    sentence = f"torchrun ended with code {report.exit_code} before any rank started ({kind}){said} {ADVICE[kind]}."
    return Diagnosis(kind=kind, rank=None, sentence=sentence, lines=lines)


def _stuck(report: GangReport, stuck: Stuck) -> Diagnosis:
    lock = (
        f" A compiler of DeepSpeed extensions holds {report.lock}; if none is running, delete that file."
        if report.lock
        else ""
    )
    where = ", ".join(_where(rank) for rank in report.ranks)
    dead = [rank for rank in report.ranks if rank.phase and not rank.is_alive]
    behind = [rank for rank in report.ranks if rank.rank == stuck.stalled]
    if behind and not dead:
        return _behind(behind[0], stuck, where)
    culprits = dead or [rank for rank in report.ranks if rank.stack and not is_waiting(rank.stack)]
    culprits = culprits or [rank for rank in report.ranks if rank.phase is None]
    rank = culprits[0] if culprits else None
    place = f" in {frame_of(rank.stack)}" if rank and rank.stack else ""
    what = f"{_name(rank)} hangs{place}, the others wait for it" if rank else "its ranks wait for each other"
    sentence = f"the gang {stuck.what}: {what} ({HANG}); {where}.{lock} {ADVICE[HANG]}."
    # One that never started has nothing to say.
    told = next((one for one in (rank, *report.ranks) if one and (one.stack or one.lines)), None)
    return Diagnosis(
        kind=HANG,
        rank=rank.rank if rank else None,
        sentence=sentence,
        lines=(told.stack or told.lines) if told else report.launcher_lines,
        lines_of=told.rank if told else None,
        log=told.log if told else "",
    )


def _behind(rank: RankReport, stuck: Stuck, where: str) -> Diagnosis:
    """Of a rank that still works as of one that never will: the others wait, and nobody can tell which it is."""
    place = f", in {frame_of(rank.stack)}" if rank.stack else ""
    sentence = f"the gang {stuck.what} ({SLOW_RANK}){place}; {where}. {ADVICE[SLOW_RANK]}."
    return Diagnosis(kind=SLOW_RANK, rank=rank.rank, sentence=sentence, lines=rank.stack or rank.lines, log=rank.log)


def _lost_host(report: GangReport) -> Diagnosis:
    host, seconds = report.lost_hosts[0]
    ranks = [rank for rank in report.ranks if rank.host == host]
    which = ", ".join(str(rank.rank) for rank in ranks)
    sentence = (
        f"host {host} has said nothing for {seconds:.0f} s, with rank{'s' if len(ranks) != 1 else ''} {which} "
        f"({LOST_HOST}). {ADVICE[LOST_HOST]}."
    )
    lines = next((rank.lines for rank in ranks if rank.lines), ())
    return Diagnosis(kind=LOST_HOST, rank=ranks[0].rank if ranks else None, sentence=sentence, lines=lines)


def _lost_peer(report: GangReport) -> Diagnosis:
    first = min(report.ranks, key=lambda rank: rank.failure.at if rank.failure else 0.0)
    reason = first.failure.reason if first.failure else ""
    sentence = f"the ranks lost each other ({LOST_PEER}): {_ended(reason)} {ADVICE[LOST_PEER]}."
    return Diagnosis(kind=LOST_PEER, rank=None, sentence=sentence, lines=first.lines, log=first.log)


def is_waiting(stack: Sequence[str]) -> bool:
    """Whether a stack, innermost first, waits in a collective for other ranks."""
    return any(sign in line for line in stack[:_WAITING_FRAMES] for sign in _WAITING)


def frame_of(stack: Sequence[str]) -> str:
    """The innermost frame that is no library's, or the innermost: `loop.py, line 97, in _accumulate`."""
    frames = [line for line in stack if line.lstrip().startswith("File ")]
    own = [line for line in frames if "site-packages" not in line and "/lib/python" not in line]
    for line in (*own, *frames):
        if found := re.search(r'File "(?:.*/)?([^/"]+)", (line \d+) in (\S+)', line):
            return f"{found[1]}, {found[2]}, in {found[3]}"
    return "an unknown place"


def _name(rank: RankReport) -> str:
    return f"rank {rank.rank}" + (f" on {rank.host}" if rank.host else "")


def _doing(rank: RankReport) -> str:
    return f" while it was {rank.phase.phase} (pid {rank.phase.pid})" if rank.phase else " before it started"


def _where(rank: RankReport) -> str:
    if rank.phase is None:
        return f"{_name(rank)} never started"
    return f"{_name(rank)} {'is' if rank.is_alive else 'died'} {rank.phase.phase} (pid {rank.phase.pid})"


def _ended(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else f"{text}."
