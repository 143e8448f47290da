"""The states of a batch, and what leads from one to the next. Pure: time is an argument, in whole seconds.

| from | to | when |
|---|---|---|
| `validating` | `in_progress` | its file is sound |
| | `failed` | a line of its file is broken: nothing is made |
| | `cancelled` | its client asks for it: nothing is made |
| `in_progress` | `finalizing` | each line has its outcome, be it that the window had ended |
| | `cancelling` | its client asks for it |
| `finalizing` | `completed`, `expired` | its files are there |
| `cancelling` | `cancelled` | each line has its outcome, and its files are there |

Each change is the next object of a chain: of two writers that saw the same state one makes the next.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from annotated_types import Ge

from headrace.errors import IllegalTransition
from headrace.inbox.batches.files import File

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
FINAL: tuple[Status, ...] = ("failed", "completed", "expired", "cancelled")
# Error codes of lines that were not made, as OpenAI's error files have them.
EXPIRED, CANCELLED, ERASED = "batch_expired", "batch_cancelled", "line_erased"


@dataclass(frozen=True, kw_only=True)
class LineProblem:
    """Why a file is no batch. `line`: from 1 on; None: the file as a whole."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Lines by outcome. `num_expired`: of the failed ones, those that the window's end left unmade."""

    num_completed: Annotated[int, Ge(0)] = 0
    num_failed: Annotated[int, Ge(0)] = 0
    num_expired: Annotated[int, Ge(0)] = 0

    def plus(self, other: "Counts") -> "Counts":
        return Counts(
            num_completed=self.num_completed + other.num_completed,
            num_failed=self.num_failed + other.num_failed,
            num_expired=self.num_expired + other.num_expired,
        )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One state of a batch. Times are whole seconds since the epoch; None: not yet, or never.

    Attributes:
        input: its input file, whose bytes stay as long as it has not ended, even if its client deletes the file.
        window: as its client wrote it; `expires_at` follows from it.
        output_seconds: how long its files are kept.
        num_lines: of its input file; 0: it is not validated.
        lines_a_part: how its lines are divided, so that a later release divides them the same; 0: as `num_lines`.
    """

    id: str
    endpoint: str
    input: File
    window: str
    metadata: dict[str, str] | None
    created_at: int
    expires_at: int
    output_seconds: Annotated[int, Ge(1)]
    status: Status = "validating"
    num_lines: Annotated[int, Ge(0)] = 0
    lines_a_part: Annotated[int, Ge(0)] = 0
    counts: Counts = Counts()
    problems: tuple[LineProblem, ...] = ()
    output_file: str | None = None
    error_file: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def ended_at(self) -> int | None:
        return next(filter(None, (self.completed_at, self.failed_at, self.expired_at, self.cancelled_at)), None)


def begun(batch: Batch, num_lines: int, lines_a_part: int, now: int) -> Batch:
    """Raises: IllegalTransition."""
    _must_be(batch, "begin", "validating")
    return replace(batch, status="in_progress", num_lines=num_lines, lines_a_part=lines_a_part, in_progress_at=now)


def failed(batch: Batch, problems: tuple[LineProblem, ...], now: int) -> Batch:
    """Raises: IllegalTransition."""
    _must_be(batch, "fail", "validating")
    assert problems, "a batch fails for a reason"
    return replace(batch, status="failed", problems=problems, failed_at=now)


def cancelled(batch: Batch, now: int) -> Batch:
    """What a client's wish to cancel makes of it; the same, if it was cancelled before. Raises: IllegalTransition."""
    if batch.status in ("cancelling", "cancelled"):
        return batch
    if batch.status == "validating":
        return replace(batch, status="cancelled", cancelling_at=now, cancelled_at=now)
    _must_be(batch, "be cancelled", "in_progress")
    return replace(batch, status="cancelling", cancelling_at=now)


def finalizing(batch: Batch, counts: Counts, now: int) -> Batch:
    """Each line has its outcome. Raises: IllegalTransition."""
    _must_be(batch, "be finalized", "in_progress")
    _check_all(batch, counts)
    return replace(batch, status="finalizing", counts=counts, finalizing_at=now)


def ended(batch: Batch, counts: Counts, output_file: str | None, error_file: str | None, now: int) -> Batch:
    """Its files are there. Raises: IllegalTransition."""
    _must_be(batch, "end", "finalizing", "cancelling")
    _check_all(batch, counts)
    done = replace(batch, counts=counts, output_file=output_file, error_file=error_file)
    if batch.status == "cancelling":
        return replace(done, status="cancelled", cancelled_at=now)
    if counts.num_expired:
        return replace(done, status="expired", expired_at=now)
    return replace(done, status="completed", completed_at=now)


def _check_all(batch: Batch, counts: Counts) -> None:
    found = counts.num_completed + counts.num_failed
    assert found == batch.num_lines, f"{batch.id} has {batch.num_lines} lines and {found} outcomes"


def _must_be(batch: Batch, verb: str, *statuses: Status) -> None:
    if batch.status not in statuses:
        raise IllegalTransition(
            f"Batch {batch.id} cannot {verb}: it is {batch.status}, and must be {' or '.join(statuses)}.",
            batch=batch.id,
        )
