"""What became of a batch's lines, in the form of OpenAI's output and error files.

A part of a batch is settled by one small object, made by `create`: all its lines have their outcome, once and for good.
Whoever makes them again, after a kill or beside another gateway, loses that race, and what it made is thrown away.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from headrace.inbox.batches.states import CANCELLED, ERASED, EXPIRED, Counts
from headrace.keys import digest_text
from headrace.store.small_objects import Kind

_SAYS = {
    EXPIRED: "This line was not answered before the batch's window ended.",
    CANCELLED: "This line was not answered before the batch was cancelled.",
    ERASED: "This line was erased.",
}
REQUEST = "batch_req_"
# The files of a batch, by the endings of their names.
OUTPUTS = ("output", "error")


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A line that was asked. `body`: JSON, whatever the status. `ignored`: fields that the service passes over."""

    custom_id: str
    status: int
    request_id: str
    body: bytes
    ignored: tuple[str, ...] = ()

    @property
    def is_completed(self) -> bool:
        return self.status == 200


@dataclass(frozen=True, kw_only=True)
class Unmade:
    """A line that was not asked, or not to its end. `code`: EXPIRED, CANCELLED or ERASED, without a custom_id."""

    custom_id: str
    code: str


@dataclass(frozen=True, kw_only=True)
class Settled:
    """One object. `output`, `errors`: lines of the two files, each with its end of line."""

    counts: Counts
    output: str
    errors: str


SETTLED = Kind("Lines of a batch", Settled, "Delete it: its lines are made again, and only these.")


def request_id(batch: str, custom_id: str) -> str:
    """Names the line as a request: in records, in its seed, and as the `id` of its outcome."""
    return f"{REQUEST}{digest_text('line', batch, custom_id)[:32]}"


def settled(batch: str, outcomes: Iterable[Answered | Unmade]) -> Settled:
    output: list[str] = []
    errors: list[str] = []
    num_expired = 0
    for outcome in outcomes:
        is_completed = isinstance(outcome, Answered) and outcome.is_completed
        (output if is_completed else errors).append(_line(batch, outcome))
        num_expired += isinstance(outcome, Unmade) and outcome.code == EXPIRED
    counts = Counts(num_completed=len(output), num_failed=len(errors), num_expired=num_expired)
    return Settled(counts=counts, output="".join(output), errors="".join(errors))


def _line(batch: str, outcome: Answered | Unmade) -> str:
    head = {"id": request_id(batch, outcome.custom_id), "custom_id": outcome.custom_id}
    if isinstance(outcome, Unmade):
        error = {"code": outcome.code, "message": _SAYS[outcome.code]}
        return _written({**head, "response": None, "error": error}) + "\n"
    said: dict[str, Any] = {"status_code": outcome.status, "request_id": outcome.request_id}
    if outcome.ignored:
        said["ignored"] = outcome.ignored
    # The body is put in as it is: a picture's has a million characters.
    start = _written({**head, "response": said})[:-2]
    return f'{start},"body":{outcome.body.decode()}}},"error":null}}\n'


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
