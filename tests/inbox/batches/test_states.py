"""States of a batch under whatever happens, in whatever order."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import IllegalTransition
from headrace.inbox.batches import states
from headrace.inbox.batches.files import File
from headrace.inbox.batches.states import Batch, Counts, LineProblem
from tests.batch_builders import make_batch

NOW = 1_760_000_000
ALLOWED = {
    "validating": {"in_progress", "failed", "cancelled"},
    "in_progress": {"finalizing", "cancelling"},
    "finalizing": {"completed", "expired"},
    "cancelling": {"cancelled"},
}


FILE = File(
    id="file-1", filename="a", purpose="batch", num_bytes=1, num_lines=4, created_at=NOW, expires_at=NOW, part="p"
)


def validating() -> Batch:
    return make_batch(FILE)


ALL = Counts(num_completed=3, num_failed=1)
CHANGES: dict[str, Callable[[Batch, int], Batch]] = {
    "begun": lambda batch, now: states.begun(batch, 4, 2, now),
    "failed": lambda batch, now: states.failed(batch, (LineProblem(code="x", message="y"),), now),
    "cancelled": states.cancelled,
    "finalizing": lambda batch, now: states.finalizing(batch, ALL, now),
    "ended": lambda batch, now: states.ended(batch, ALL, "file-out", None, now),
}


@given(st.lists(st.sampled_from(sorted(CHANGES)), max_size=12))
def test_a_batch_only_goes_where_the_table_says(order: list[str]) -> None:
    batch = validating()
    for moment, name in enumerate(order, 1):
        before = batch
        try:
            batch = CHANGES[name](batch, NOW + moment)
        except IllegalTransition:
            continue
        if batch == before:
            assert (name, batch.status) in {("cancelled", "cancelling"), ("cancelled", "cancelled")}
            continue
        assert batch.status in ALLOWED[before.status]
        assert getattr(batch, f"{batch.status}_at") == NOW + moment
        assert batch.is_final == (batch.ended_at is not None)
        # What was said of the past stays.
        for status in ("in_progress", "finalizing", "cancelling"):
            assert getattr(before, f"{status}_at") in (None, getattr(batch, f"{status}_at"))


@pytest.mark.parametrize(
    ("counts", "status"),
    [
        (Counts(num_completed=4), "completed"),
        (Counts(num_failed=4), "completed"),
        (Counts(num_completed=1, num_failed=3, num_expired=2), "expired"),
    ],
)
def test_a_batch_whose_window_left_lines_unmade_has_expired(counts: Counts, status: str) -> None:
    made = states.finalizing(states.begun(validating(), 4, 2, NOW), counts, NOW)
    assert states.ended(made, counts, None, None, NOW).status == status


def test_a_batch_that_is_cancelled_ends_as_that_whatever_its_lines_are() -> None:
    cancelling = states.cancelled(states.begun(validating(), 4, 2, NOW), NOW)
    assert states.ended(cancelling, ALL, "file-out", None, NOW).status == "cancelled"


def test_a_refused_change_says_what_the_batch_is() -> None:
    with pytest.raises(IllegalTransition, match="cannot be finalized: it is validating, and must be in_progress"):
        states.finalizing(validating(), ALL, NOW)


def test_no_batch_ends_with_a_line_missing() -> None:
    with pytest.raises(AssertionError, match="4 lines and 3 outcomes"):
        states.finalizing(states.begun(validating(), 4, 2, NOW), Counts(num_completed=3), NOW)
